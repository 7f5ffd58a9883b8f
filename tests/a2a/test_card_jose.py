"""The gateway's signatures of cards hold for code that was not written here: `jose` and `canonicalize` of npm."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import npm
from tests.a2a.carded import PATH, PLAIN, carded
from tests.a2a.world import World, gateway
from tests.conformance.legs import FOLDER as NODE

FOLDER = Path(__file__).resolve().parent / "jose"
SECONDS = 60
pytestmark = pytest.mark.node
ODD: dict[str, Any] = PLAIN | {"description": "Žluťoučký 🐎 \u2028 \u00e9 e\u0301", "documentationUrl": ""}


@pytest.fixture(scope="module")
def node() -> str:
    npm.installed(FOLDER, "a verifier of cards that was not written here")
    return npm.node(npm.installed(NODE, "Node"))


async def verified(node: str, world: World) -> Any:
    """What the program says of the card that paul reads."""
    token = world.token("paul")["authorization"].removeprefix("Bearer ")
    program = await asyncio.create_subprocess_exec(
        node, str(FOLDER / "verify.mjs"), world.url + PATH,
        env={"BAILIWICK_TOKEN": token}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(program.communicate(), SECONDS)
    assert program.returncode == 0, err.decode()[-2000:]
    return json.loads(out)


async def test_jose_verifies_both_signatures_by_the_keys_that_are_published_and_none_of_a_card_that_was_touched(
    node: str, tmp_path: Path
) -> None:
    async with carded(ODD) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        said = await verified(node, world)
        assert said["name"] == "Buyer"
        assert {each["kid"] for each in said["signatures"]} == {world.delegations.ring.kid}
        assert {each["over"] for each in said["signatures"]} == {"sent", "filled"}
        assert {each["at"] for each in said["signatures"]} == set(range(said["count"]))
        assert said["touched"] == []
