"""One thing of identity taken for another: a name in a certificate for a thumbprint, a bound token for a plain one."""

from __future__ import annotations

import hashlib

import pytest

from gateway.identity.certificates import Certificates
from gateway.model import Arrival, Refused, Trace, new_id
from gateway.reasons import Code
from gateway.settings import Agent, AgentAuth, Terminator
from tests.identity.proving import certificate, client_cert

NOW = 1_800_000_000
PROXY = "10.0.0.7"
VICTIM = certificate(dns=("pinned.acme.example",), now=NOW)
PIN = f"sha256:{hashlib.sha256(VICTIM).hexdigest()}"


def shown(der: bytes) -> Arrival:
    at = NOW * 1_000_000
    trace = Trace("0" * 31 + "1", "0" * 15 + "1")
    return Arrival(new_id(at), "mcp", "erp", (("client-cert", client_cert(der)),), b"", at, trace, peer=PROXY)


def certificates(*names: str) -> Certificates:
    agents = {"victim": Agent(auth=AgentAuth(certificates=names))}
    return Certificates(Terminator(peers=(PROXY,)), None, agents)


@pytest.mark.parametrize(
    ("registered", "uri"), [(PIN, PIN), ("dns:pinned.acme.example", "dns:pinned.acme.example")], ids=["thumbprint", "dns"]
)
def test_a_uri_that_a_stranger_had_written_into_a_certificate_is_no_thumbprint_and_no_host(registered: str, uri: str) -> None:
    known = certificates(registered)
    assert known.agent(shown(VICTIM), NOW) is not None
    assert known.agent(shown(certificate(uris=(uri,), now=NOW)), NOW) is None


def test_a_certificate_of_no_known_version_is_refused_and_breaks_nothing() -> None:
    odd = VICTIM.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    assert odd != VICTIM
    with pytest.raises(Refused) as caught:
        certificates(PIN).agent(shown(odd), NOW)
    assert caught.value.code is Code.INVALID_CREDENTIAL
