"""`redact` on MCP: what the server gets, what the caller gets, what the ledger keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit.privacy import commitment
from gateway.obligations.detect import MARK
from tests.mcp.world import allow_with, gateway
from tests.upstream.wire import Reader, Script, Upstream, Writer, upstream

IBAN = "DE02120300000000202051"
MAIL = "paul@acme.example"


def echoing(result: dict[str, Any]) -> Script:
    """A server that answers every call with this."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", **result}}).encode()

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while await there.request(reader):
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await writer.drain()

    return script


PLAIN = {"content": [{"type": "text", "text": "done"}]}


def where(there: Upstream) -> str:
    return f"http://127.0.0.1:{there.port}/mcp"


async def test_arguments_are_blanked_before_they_are_sent_and_the_ledger_keeps_a_commitment_to_what_was_asked(
    tmp_path: Path,
) -> None:
    async with upstream(echoing(PLAIN)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        world.verdicts["*", "ref.t"] = allow_with("redact", **{"in": "arguments", "fields": ["iban"], "detectors": ["email"]})
        arguments = {"iban": IBAN, "note": f"tell {MAIL}", "rows": [{"IBAN": IBAN, "n": 1}]}
        answer = await world.modern("anna", "tools/call", name="t", arguments=arguments)
        sent = json.loads(answer.request.content)
    assert not answer.json()["result"].get("isError")
    (request,) = there.requests
    assert IBAN.encode() not in request
    assert MAIL.encode() not in request
    got = json.loads(request.partition(b"\r\n\r\n")[2])["params"]["arguments"]
    assert got == {"iban": MARK, "note": f"tell {MARK}", "rows": [{"IBAN": MARK, "n": 1}]}
    start = next(entry for entry in world.ledger.entries if entry.kind == "call.start")
    kept = {value.name: value.data for value in start.values}
    assert all(IBAN.encode() not in data and MAIL.encode() not in data for data in kept.values())
    assert json.loads(kept["request"])["params"]["arguments"] == got
    original = start.fields["originals"]["request"]  # type: ignore[index, call-overload]
    body = answer.request.content
    assert original == {"c": commitment(bytes.fromhex(kept["original_salt"].decode()), "request", body), "n": len(body)}  # type: ignore[comparison-overlap]
    assert sent["params"]["arguments"] == arguments


async def test_a_refused_call_whose_arguments_must_not_be_kept_leaves_a_commitment_too(tmp_path: Path) -> None:
    async with upstream(echoing(PLAIN)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        decision = allow_with("redact", **{"in": "arguments", "fields": ["iban"]})
        unknown = allow_with("notary").obligations
        world.verdicts["*", "ref.t"] = type(decision)(
            decision.effect, decision.reason, decision.bundle, obligations=(*decision.obligations, *unknown)
        )
        await world.modern("anna", "tools/call", name="t", arguments={"iban": IBAN})
    assert there.requests == []
    (denied,) = world.ledger.entries
    assert denied.kind == "decision.deny"
    assert all(IBAN.encode() not in value.data for value in denied.values)
    assert "originals" in denied.fields


@pytest.mark.parametrize("version", ["modern", "legacy"])
async def test_what_detectors_find_in_a_result_is_neither_released_nor_recorded(tmp_path: Path, version: str) -> None:
    result = {
        "content": [
            {"type": "text", "text": f"write to {MAIL}, pay {IBAN}"},
            {"type": "text", "text": json.dumps({"owner": MAIL, "name": "Paul"})},
            {"type": "image", "data": "AAAA", "mimeType": "image/png"},
        ],
        "structuredContent": {"owner": {"mail": MAIL}, "name": "Paul"},
    }
    async with upstream(echoing(result)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        world.verdicts["*", "ref.t"] = allow_with("redact", detectors=["email", "iban"])
        answer = await getattr(world, version)("anna", "tools/call", name="t", arguments={})
        got = answer.json()["result"]
        ended = world.ledger.entries[-1]
    assert MAIL not in answer.text
    assert IBAN not in answer.text
    assert got["content"][0]["text"] == f"write to {MARK}, pay {MARK}"
    assert json.loads(got["content"][1]["text"]) == {"owner": MARK, "name": "Paul"}
    assert got["content"][2] == {"type": "text", "text": MARK}  # it cannot be searched
    assert got["structuredContent"] == {"owner": {"mail": MARK}, "name": "Paul"}
    assert ended.kind == "call.end"
    assert all(MAIL.encode() not in value.data for value in ended.values)


async def test_what_cannot_be_searched_for_what_must_not_be_sent_is_not_sent(tmp_path: Path) -> None:
    async with upstream(echoing(PLAIN)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        world.verdicts["*", "res:ref/file:///a"] = allow_with("redact", **{"in": "arguments", "detectors": ["email"]})
        answer = await world.modern("anna", "resources/read", uri="file:///a")
    assert answer.json()["error"]["data"]["code"] == "duty-failed"
    assert there.requests == []
