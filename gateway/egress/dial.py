"""From a name to one open connection: looked up once, every answer judged, and the very address that was judged is dialled."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from gateway.upstream.address import forbidden

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A name, in lower case and without a final dot → its addresses, as numbers; OSError where there are none."""
Network = IPv4Network | IPv6Network
_ADDRESSES = 16  # of one name; more are no directory entry but somebody's scan
_LOOKUPS = 8  # at once; a thread each, which a slow name server can hold for long


class ClosedError(Exception):
    """The name leads to an address that may not be reached; the message says which and why, for the ledger alone."""


@dataclass(frozen=True, slots=True)
class Exempt:
    """What the operator says of one destination.

    tls       whether a connection must begin with TLS to that name.
    networks  internal ranges that it may lead into.
    """

    tls: bool = True
    networks: tuple[Network, ...] = ()


class Resolver:
    """The machine's own resolver, off the loop and by threads of its own: a slow name server holds up nothing else.

    Names are absolute: no search domain is tried, so that `api.example.com` never becomes `api.example.com.cluster.local`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="egress")

    async def __call__(self, name: str) -> Sequence[str]:
        """See `Resolve`."""
        found = await asyncio.get_running_loop().run_in_executor(self._pool, _look_up, name)
        return [str(entry[4][0]) for entry in found]

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _look_up(name: str) -> Sequence[tuple[object, object, object, object, tuple[object, ...]]]:
    return socket.getaddrinfo(name + ".", None, type=socket.SOCK_STREAM)


def judged(addresses: Sequence[str], exempt: Exempt) -> Sequence[str]:
    """The addresses, each once, where every one of them may be reached; ClosedError where any may not.

    A name that leads outside and inside is refused whole: which of the two it means is somebody else's choice.
    """
    found = list(dict.fromkeys(addresses))
    if not 0 < len(found) <= _ADDRESSES:
        raise ClosedError(f"the name has {len(found)} addresses")
    for address in found:
        if reason := _closed(address, exempt):
            raise ClosedError(f"{address[:64]} is {reason}")
    return found


def _closed(text: str, exempt: Exempt) -> str:
    if "%" in text:
        return "an address of one link"
    try:
        address = ip_address(text)
    except ValueError:
        return "not an address"
    inside = any(address in network for network in exempt.networks if network.version == address.version)
    return forbidden(text, allow_private=inside) or ("" if inside or not _own(text) else "one of this machine's own addresses")


def _own(address: str) -> bool:
    """Whether the address is this machine's: only such a one can be bound.  Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


async def dial(addresses: Sequence[str], port: int) -> tuple[socket.socket, str]:
    """A connection to the first address that answers, and which; OSError of the last one where none does."""
    failure = OSError(errno.EHOSTUNREACH, "no address")
    loop = asyncio.get_running_loop()
    for address in addresses:
        outside = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            outside.setblocking(False)
            outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(outside, (address, port))
        except OSError as error:
            outside.close()
            failure = error
        except BaseException:
            outside.close()
            raise
        else:
            return outside, address
    raise failure
