"""Client certificates (mutual TLS) as a trusted terminator hands them on (RFC 9440), or as a listener here verified them.

The header is believed from the terminator's own address alone; from anywhere else it is refused: somebody tries to be an agent.
That the client holds the key, and that the certificate's chain is good, is the terminator's word.  Where the terminator hands one
on, the connection's is its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from gateway.identity.token import refuse
from gateway.model import Arrival
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Agent, Terminator

SECRET_HEADER = "bailiwick-terminator"
MAX_BYTES = 16 * 1024
MAX_NAMES = 64

_BYTES = re.compile(r":([A-Za-z0-9+/]*={0,2}):")  # RFC 9651 §3.3.5: a byte sequence, and no parameters
_THUMBPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_DNS = re.compile(r"dns:(?!-)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*")
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[\x21-\x7e]{1,2000}")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate that is valid now.  digest: SHA-256 (hex) of it; names: as agents' `certificates` write them."""

    digest: str
    names: frozenset[str]


class Certificates:
    """Reads the certificate of a request's client, and knows whose it is."""

    def __init__(
        self, terminator: Terminator | None, secret: str | None, agents: Mapping[str, Agent], *, direct: bool = False
    ) -> None:
        """`secret` is the resolved one of the terminator's settings; direct: whether a listener here verifies certificates.

        ProblemError for an address or a certificate's name that is none, a name that two agents have, a terminator without its
        secret, and certificates that nobody could hand on.
        """
        self._agents: dict[str, str] = {}
        for agent_id, agent in agents.items():
            for name in agent.auth.certificates:
                self._register(agent_id, name, f"agents.{agent_id}.auth.certificates")
        if self._agents and terminator is None and not direct:
            help_ = "name the proxy that ends mutual TLS: terminator: {peers: [...]}"
            raise ProblemError(Problem("no-terminator", "agents have certificates, but nobody hands any on", "terminator", help_))
        if terminator is not None and (terminator.secret is None) != (secret is None):
            raise ProblemError(Problem("missing-secret", "the terminator's secret is not there", "terminator.secret"))
        self._header = terminator.header.lower() if terminator is not None else ""
        self._peers = _networks(terminator.peers if terminator is not None else ())
        self._secret = None if secret is None else secret.encode("utf-8")

    def agent(self, arrival: Arrival, now: int) -> tuple[str, str] | None:
        """Id of the agent whose certificate the client showed, and the certificate's digest.

        None where none was shown, or that of somebody else.  `Refused(INVALID_CREDENTIAL)` for a header that did not come from
        the terminator, for what is no certificate of now, and for one that would be two agents.
        """
        if not self._header and not arrival.certificate:  # nobody hands any on, and none was shown here
            return None
        certificate = self.shown(arrival, now)
        if certificate is None:
            return None
        found = {self._agents[name] for name in certificate.names if name in self._agents}
        if len(found) > 1:
            refuse("certificate names two agents")
        return (found.pop(), certificate.digest) if found else None

    def shown(self, arrival: Arrival, now: int) -> Certificate | None:
        """The client's certificate; None where none is shown.  Refused as by `agent`."""
        own = arrival.certificate
        values, secrets = (arrival.every(self._header), arrival.every(SECRET_HEADER)) if self._header else ((), ())
        if not values and not secrets:
            return _of(own, now) if own else None
        if not self._is_peer(arrival.peer):
            refuse("a client certificate from somebody who is not the terminator")
        if self._secret is not None and not (
            len(secrets) == 1 and hmac.compare_digest(secrets[0].encode("utf-8", "backslashreplace"), self._secret)
        ):
            refuse("a client certificate without the terminator's secret")
        if not values:
            return None
        if len(values) > 1:
            refuse("client certificate stands twice")
        return _read(values[0], now)

    def _is_peer(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._peers)

    def _register(self, agent: str, name: str, location: str) -> None:
        if not any(form.fullmatch(name) for form in (_THUMBPRINT, _DNS, _URI)):
            help_ = "sha256:<64 hex digits>, dns:<name>, or a URI as spiffe://domain/path; a wildcard stands for nobody"
            raise ProblemError(Problem("bad-certificate-name", f"{name[:80]!r} is no name of a certificate", location, help_))
        if self._agents.setdefault(name, agent) != agent:
            message = f"{name[:80]!r} belongs to two agents"
            raise ProblemError(Problem("ambiguous-certificate", message, location))


def _networks(peers: Iterable[str]) -> tuple[_Network, ...]:
    networks = []
    for peer in peers:
        try:
            networks.append(ipaddress.ip_network(peer))
        except ValueError:
            help_ = "an address or a network, as 10.0.0.7 or 10.0.0.0/8"
            raise ProblemError(Problem("bad-address", f"{peer[:80]!r} is no network", "terminator.peers", help_)) from None
    return tuple(networks)


def _read(value: str, now: int) -> Certificate:
    form = _BYTES.fullmatch(value) if len(value) <= MAX_BYTES * 4 // 3 + 8 else None
    if form is None:
        refuse("client certificate is no byte sequence, or too long")
    try:
        der = base64.b64decode(form.group(1), validate=True)
    except (ValueError, binascii.Error):
        refuse("client certificate cannot be read")
    return _of(der, now)


def _of(der: bytes, now: int) -> Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        names = _names(certificate)
    except (ValueError, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType):
        refuse("client certificate cannot be read")
    if not begins <= now <= ends:
        refuse("client certificate is not valid now")
    digest = hashlib.sha256(der).hexdigest()
    return Certificate(digest, names | {f"sha256:{digest}"})


def _names(certificate: x509.Certificate) -> frozenset[str]:
    """Of the SAN alone: a common name is text of whoever asked for the certificate."""
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    hosts = said.get_values_for_type(x509.DNSName)
    uris = said.get_values_for_type(x509.UniformResourceIdentifier)
    if len(hosts) + len(uris) > MAX_NAMES:
        refuse("client certificate has too many names")
    # whoever asks for a certificate may have any URI written into it: `sha256:…` there is no thumbprint, `dns:…` no host
    return frozenset({f"dns:{host.lower()}" for host in hosts} | {uri for uri in uris if _URI.fullmatch(uri)})
