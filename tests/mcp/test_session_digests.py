"""A session on record: calls of one session are told apart from those of another, and its id stands nowhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.mcp.scripted import done, saying_json, where
from tests.mcp.world import MODERN, gateway
from tests.upstream.wire import upstream


async def test_calls_of_one_session_say_the_same_digest_and_nobody_elses_call_does(tmp_path: Path) -> None:
    async with upstream(saying_json(done(0))) as there, gateway(tmp_path, {"ref": where(there)}) as world:

        async def call(person: str, session: str) -> None:
            await world.legacy(person, "tools/call", session=session, name="t", arguments={})

        # the scripted server gives each of them the same id: what tells them apart is whose session it is
        annas, bobs = await world.handshake("anna"), await world.handshake("bob")
        annas_again = await world.handshake("anna")
        assert annas != annas_again  # sealed anew each time
        await asyncio.gather(call("anna", annas), call("anna", annas), call("bob", bobs), call("anna", annas_again))
        await world.modern("anna", "tools/call", name="t", arguments={})
        starts = [
            entry for entry in world.ledger.entries if entry.kind == "call.start" and entry.fields["method"] == "tools/call"
        ]
        said: dict[Any, list[Any]] = {}
        for entry in starts:
            said.setdefault((entry.subject, entry.fields["proto_ver"] == MODERN), []).append(entry.fields.get("session"))
        [(_, of_anna), (_, of_bob), (_, stateless)] = sorted(said.items(), key=lambda item: (item[0][1], item[0][0]))
        assert len(of_anna) == 3
        assert len(set(of_anna)) == 1
        assert of_bob[0] not in {None, *of_anna}
        assert stateless == [None]
        everything = json.dumps([dict(entry.fields) for entry in world.ledger.entries], default=str)
        assert all(secret not in everything for secret in ("s-1", annas, bobs))


async def test_the_call_that_opens_a_session_has_no_digest_yet(tmp_path: Path) -> None:
    async with upstream(saying_json(done(0))) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        await world.handshake("anna")
        [opening] = [entry for entry in world.ledger.entries if entry.fields.get("method") == "initialize"]
        assert "session" not in opening.fields
