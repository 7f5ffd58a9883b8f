"""How a client is told that its person has to consent: by what it said it can do, and by nothing else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.mcp.errors import POLICY, URL_NEEDED, refused
from gateway.mcp.sealed import Sealed
from gateway.mcp.session import Session, Sessions
from gateway.model import Arrival, Call, Principal, Refused, Trace
from gateway.reasons import Code

URL = "https://gateway.example/vault/" + "x" * 64
SAID = {"url": URL, "message": "desk needs your consent", "elicitation": "e" * 32}
TRACE = Trace("0" * 31 + "1", "0" * 15 + "1")
PAUL = Principal("user:corp/paul", (), "acme", "wf", 2_000_000_000, method="bearer", credential="0")


def answer(version: str, method: str, *, opens: bool) -> dict[str, Any]:
    arrival = Arrival("d", "mcp", "desk", (("mcp-protocol-version", version),), b"", 0, TRACE)
    call = Call(arrival, method, "desk", {}, TRACE, name="read", rpc_id=7, version=version, opens=opens)
    refusal = Refused(Code.CONSENT_REQUIRED, call=call, principal=PAUL, data=SAID)
    told = refused(refusal, arrival, "d", knows=True, challenge="")
    assert told.status == 200
    body: dict[str, Any] = orjson.loads(told.body)
    assert body["id"] == 7
    return body


def test_the_stateless_era_asks_for_input_and_never_says_32042() -> None:
    result = answer("2026-07-28", "tools/call", opens=True)["result"]
    assert result["resultType"] == "input_required"
    assert result["inputRequests"] == {
        "bailiwick/consent": {"method": "elicitation/create", "params": {"mode": "url", "message": SAID["message"], "url": URL}}
    }
    assert result["_meta"] == {"bailiwick/code": "consent-required", "bailiwick/decision": "d"}


def test_the_era_of_handshakes_has_an_error_for_it_since_its_last_revision() -> None:
    for method in ("tools/call", "tools/list", "initialize"):
        error = answer("2025-11-25", method, opens=True)["error"]
        assert error["code"] == URL_NEEDED
        assert error["data"]["elicitations"] == [
            {"mode": "url", "message": SAID["message"], "url": URL, "elicitationId": SAID["elicitation"]}
        ]


@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"])
@pytest.mark.parametrize("opens", [True, False])
def test_whoever_did_not_say_that_they_open_urls_gets_a_text(version: str, opens: bool) -> None:
    if opens and version in {"2026-07-28", "2025-11-25"}:
        return
    result = answer(version, "tools/call", opens=opens)["result"]
    assert result["isError"] is True
    assert URL in result["content"][0]["text"]
    assert ("resultType" in result) == (version == "2026-07-28")
    error = answer(version, "tools/list", opens=opens)["error"]
    assert (error["code"], error["data"]["url"]) == (POLICY, URL)


def test_whoever_may_not_know_of_the_server_learns_nothing_of_a_consent() -> None:
    arrival = Arrival("d", "mcp", "desk", (), b"", 0, TRACE)
    call = Call(arrival, "tools/call", "desk", {}, TRACE, name="read", rpc_id=7, version="2025-11-25", opens=True)
    told = refused(Refused(Code.CONSENT_REQUIRED, call=call, data=SAID), arrival, "d", knows=False, challenge="")
    assert told.status == 404
    assert URL.encode() not in told.body


@pytest.mark.parametrize("opens", [True, False])
def test_a_session_says_again_what_its_client_said_and_nobody_can_change_it(opens: bool) -> None:
    sessions = Sessions(Sealed([b"k" * 32]))
    sealed = sessions.seal("upstream's", server="desk", principal=PAUL, opens=opens)
    opened = sessions.open(sealed, server="desk", principal=PAUL)
    assert opened == Session("upstream's", opens, linked=opened.linked)
    with pytest.raises(Refused):
        sessions.open(sealed[:-2] + "AA", server="desk", principal=PAUL)
