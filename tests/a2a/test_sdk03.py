"""Agents and clients on the SDK of 0.3 itself, which knows nothing of 1.0: the same direct and through the gateway."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.a2a.webhook import Allowed
from tests.a2a.test_push import receiver
from tests.a2a.world import gateway
from tests.pypackages import environment

pytestmark = pytest.mark.index
HERE = Path(__file__).parent / "sdk03"
NEW = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}")
OLD = {"versions": ("0.3",)}


@pytest.fixture(scope="module")
def python() -> Path:
    return environment(HERE, "the SDK of A2A 0.3")


@pytest.fixture(scope="module")
def agent(python: Path) -> Iterator[str]:
    with subprocess.Popen([python, HERE / "agent.py"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, port = process.stdout.readline().split()
            assert word == "ready"
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()


async def transcript(python: Path, url: str, *arguments: str) -> list[Any]:
    """What the client of 0.3 made of it, without what is new every time."""
    command = [str(python), str(HERE / "client.py"), url, *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=sys.stderr)
    said, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0
    steady: list[Any] = _steady(json.loads(NEW.sub("ID", said.decode())))
    return steady


def _steady(value: Any) -> Any:
    """Without times, and without `append` and `lastChunk` that are false, which is what they are where they are not said."""
    if isinstance(value, dict):
        unsaid = {"timestamp"} | {name for name in ("append", "lastChunk") if value.get(name) is False}
        return {name: _steady(inner) for name, inner in value.items() if name not in unsaid}
    return [_steady(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("mode", ["whole", "stream"])
async def test_its_client_gets_the_same_from_its_agent_direct_and_through_the_gateway(
    tmp_path: Path, python: Path, agent: str, mode: str
) -> None:
    async with (
        receiver() as (hook, place, got),
        gateway(tmp_path, {"old": agent}, peers={"old": OLD}, allowed=Allowed(private=(place,))) as world,
    ):
        wanted = await transcript(python, agent, mode, hook)
        direct = len(got.requests)
        assert direct
        governed = await transcript(python, f"{world.url}/a2a/old/", mode, hook, world.token("paul")["authorization"])
        assert governed == wanted
        news = (await got.got(2 * direct))[direct:]
        assert [shown(request) for request in news] == [shown(request) for request in got.requests[:direct]]
        assert {request.headers["authorization"] for request in news} == {"Bearer c"}


def shown(request: Any) -> Any:
    """A push notification as a client of 0.3 got it."""
    return _steady(json.loads(NEW.sub("ID", json.dumps(request.rpc)))), request.headers["x-a2a-notification-token"]
