"""Which addresses may be reached: never link-local or metadata ones, private ones only where the target allows it.

The check is made on the resolved address, and that same address is connected to: a name cannot change its mind in between.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from gateway.model import UpstreamError
from gateway.upstream.message import Url

Address = IPv4Address | IPv6Address

_THIS_NETWORK = ip_network("0.0.0.0/8")
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_SPECIAL = (ip_network("192.0.0.0/24"), ip_network("192.88.99.0/24"), ip_network("3fff::/20"))
"""Registered for something else than hosts of the Internet (RFC 6890, 7526, 9637), which `is_global` does not say of them."""
_METADATA = frozenset(
    {
        ip_address("100.100.100.200"),  # Alibaba Cloud
        ip_address("168.63.129.16"),  # Azure's wire server: a public address that only a guest can reach
        ip_address("192.0.0.192"),  # Oracle Cloud
        ip_address("fd00:ec2::254"),  # AWS
        ip_address("fd20:ce::254"),  # Google Cloud
    }
)


def forbidden(text: str, *, allow_private: bool) -> str:
    """Why this resolved address may not be connected to; "" where it may.

    `text` is numeric, as getaddrinfo gives it (an IPv6 zone is allowed and ignored).  Addresses that carry an IPv4 address
    inside (mapped, 6to4, Teredo, NAT64) are judged by both.
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return "not an address"
    for one in (address, *_carried(address)):
        if reason := _judged(one, allow_private=allow_private):
            return reason
    return ""


async def resolved(url: Url) -> list[str]:
    """Every address of a URL's host that may be reached, in the resolver's order.  `UpstreamError("connect")` for none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UpstreamError("connect", "the name does not resolve") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    reasons = {address: forbidden(address, allow_private=url.allow_private) for address in addresses}
    allowed = [address for address in addresses if not reasons[address]]
    if not allowed:
        raise UpstreamError("connect", next(iter(reasons.values()), "no address"))
    return allowed


def _carried(address: Address) -> tuple[IPv4Address, ...]:
    if not isinstance(address, IPv6Address):
        return ()
    inner = [address.ipv4_mapped, address.sixtofour]
    if address.teredo is not None:
        inner += address.teredo
    if address in _NAT64:
        inner.append(IPv4Address(int(address) & 0xFFFF_FFFF))
    return tuple(one for one in inner if one is not None)


def _judged(address: Address, *, allow_private: bool) -> str:
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address in _NAT64):
        return ""  # judged as the IPv4 address that it is
    if address in _METADATA:
        return "a metadata address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast or address.is_unspecified or address in _THIS_NETWORK:
        return "not the address of one host"
    if address.is_loopback:
        return "" if allow_private else "a loopback address"
    if address.is_reserved:
        return "a reserved address"
    return "" if allow_private or _public(address) else "a private address"


def _public(address: Address) -> bool:
    """Of IPv6 what is handed out as global unicast alone: site-local addresses (fec0::/10) are "global" to the library."""
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not any(address in network for network in _SPECIAL if network.version == address.version)
