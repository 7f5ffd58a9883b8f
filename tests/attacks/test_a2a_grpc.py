"""Attacks on the gRPC face by agents and by clients, byte by byte where no client would do it."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest

from gateway.a2a.errors import ERROR_INFO
from tests.a2a.agents import Request, scripted
from tests.a2a.calls import asking, error_of, info_of, metadata, stub
from tests.a2a.world import gateway


@pytest.mark.parametrize("letter", ["a", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{PILE OF POO}", "%"])
async def test_an_agent_cannot_make_its_refusal_too_large_to_be_read(tmp_path: Path, letter: str) -> None:
    info = {"@type": ERROR_INFO, "reason": "R", "domain": "d", "metadata": {f"k{number}": letter * 256 for number in range(16)}}

    async def agent(request: Request) -> None:
        await request.error({"code": -32004, "message": letter * 1000, "data": [info] * 8})

    async with scripted(agent) as (url, _), gateway(tmp_path, {"ref": url}, grpc=False) as world, stub(world) as client:
        error = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "paul")))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (error.details() or "").strip(letter) == ""
        assert info_of(error).reason == "R"
        decision = dict(error.trailing_metadata() or ())["bailiwick-decision"]
        assert decision == world.ledger.entries[-1].fields["call"]
