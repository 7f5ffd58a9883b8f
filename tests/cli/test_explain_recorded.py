"""A recorded decision explained: what the record says, the same made again, and what is not smoothed over."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest

from gateway.model import Principal, Refused, wall_clock
from gateway.reasons import Code
from gateway.record import Recorder
from policies.bundle import load
from tests.audit.conftest import SEAL_KEY
from tests.gateway.test_reproduce import Recorded, arrival, tool_call

from .conftest import PROCUREMENT, Run

PAUL = Principal(
    "user:dev/paul", ("agent:procurement-analyst", "agent:erp-integration"), "acme", "wf-1", 2**33, "bearer", "0" * 64,
    groups=frozenset({"procurement-managers"}),
)  # fmt: skip
ORDER = b'{"supplier": "S-77", "amount": %d, "currency": "EUR"}'


class World:
    """A gateway's folder with a ledger in which three decisions stand."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "bailiwick.yaml"
        self.policies = folder / "policies"
        self.ledger = folder / "recorded.db"
        self.ids: dict[str, str] = {}

    async def fill(self) -> None:
        made = Recorded(self.ledger, load(self.policies))
        journal = await made.open()
        recorder = Recorder(journal.append, journal.submit, wall_clock)
        self.ids["allowed"] = await made.take(recorder, tool_call("erp", "read", b"{}"), PAUL)
        self.ids["denied"] = await made.take(recorder, tool_call("risk", "nothing"), PAUL)
        self.ids["limit"] = await made.take(recorder, tool_call("erp", "write_po", ORDER % 300_000), PAUL)
        unasked = arrival("mcp", "erp", b"no")
        await recorder.refusal(unasked, Refused(Code.MALFORMED, principal=PAUL))
        self.ids["unasked"] = unasked.id
        await journal.close()

    def words(self, name: str) -> tuple[object, ...]:
        return ("explain", "--decision", self.ids[name], "--config", self.config, "--ledger", self.ledger)


@pytest.fixture
async def world(run: Run, tmp_path: Path) -> World:
    assert run("init", tmp_path).code == 0
    found = World(tmp_path)
    shutil.rmtree(found.policies)
    shutil.copytree(PROCUREMENT, found.policies)
    from gateway.configuration import load as settings

    data = settings(found.config, {}).data
    data.mkdir(exist_ok=True)
    (data / "seal-key").write_bytes(base64.b64encode(SEAL_KEY))
    (data / "seal-key").chmod(0o600)
    await found.fill()
    return found


async def test_a_recorded_denial_says_bundle_rule_line_who_lacked_what_and_the_smallest_change(run: Run, world: World) -> None:
    ran = run(*world.words("limit"))
    assert ran.code == 1
    for part in (
        "refused: user-lacks-right",
        load(world.policies).digest,
        "nearly PRO-2 grants/people.csv:7",
        "Decided again under the same bundle",
        "DENIED  user-lacks-right",
        "call it with amount = 250000 (it was 300000)",
    ):
        assert part in ran.out
    assert "COMES OUT OTHERWISE" not in ran.out
    found = run(*world.words("limit"), "--json").json
    assert found["decision"] is False
    assert found["context"]["differs"] == []
    assert found["again"]["context"]["nearest"][0]["arguments"] == {"amount": {"then": "300000", "instead": "250000"}}


async def test_a_recorded_permission_ends_with_0_and_shows_every_line(run: Run, world: World) -> None:
    ran = run(*world.words("allowed"))
    assert ran.code == 0
    assert "PRO-1 grants/people.csv:6" in ran.out
    assert "What would allow it" not in ran.out


async def test_what_another_bundle_would_say_today_is_said_and_not_taken_for_the_record(run: Run, world: World) -> None:
    archive = world.config.parent / "data" / "bundles"
    kept = load(world.policies)
    (world.policies / "conditions.yaml").write_text((world.policies / "conditions.yaml").read_text().replace("250000", "900000"))
    ran = run(*world.words("limit"))
    assert ran.code == 1
    assert "the bundle that decided is not at hand" in ran.out
    assert "nearly PRO-2 grants/people.csv:7" in ran.out
    from gateway.configuration import load as settings

    archive = settings(world.config, {}).data / "bundles"
    shutil.copytree(PROCUREMENT, archive / kept.digest.removeprefix("sha256:"))
    ran = run(*world.words("limit"))
    assert ran.code == 1
    assert "would allow it" in ran.out
    assert run(*world.words("limit"), "--json").json["context"]["today"] is True


async def test_a_call_that_policy_was_not_asked_about_is_shown_as_far_as_the_record_goes(run: Run, world: World) -> None:
    ran = run(*world.words("unasked"))
    assert ran.code == 1
    assert "policy was not asked" in ran.out


async def test_an_unknown_id_and_mixed_questions_are_misuse(run: Run, world: World) -> None:
    ran = run("explain", "--decision", "none-such", "--config", world.config, "--ledger", world.ledger)
    assert ran.code == 2
    assert "there is no decision" in ran.err
    assert run(*world.words("denied"), "--for", "user:dev/paul").code == 2
    assert run("explain").code == 2
