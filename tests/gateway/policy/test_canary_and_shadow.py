"""A second bundle for some workflows, a third that is only asked, and lines that are watched before they count."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.canary import ByWorkflow, is_canary
from gateway.policy.in_force import InForce, Pair, Policy
from gateway.policy.shadowing import Shadowing
from policies.bundle import load_texts
from policies.engine import Engine
from policies.model import AccessRequest, Decision
from tests.gateway.policy.live import ASKED_ONLY, QUICK, live, texts, write
from tests.interaction.world import Peers

SEAL = "p, role:buyer, acme, desk.seal, call, allow, -, -, BUY-9\n"
NO_READ = "p, role:buyer, acme, desk.read, call, deny, -, -, SEC-9\n"


def pair(files: dict[str, str]) -> Pair:
    bundle = load_texts(files)
    return Pair(bundle, Engine(bundle), 0)


def question(tool: str = "desk.seal") -> AccessRequest:
    return AccessRequest(
        subject="user:dev/paul", actors=(), tenant="acme", action="call", resource=tool, at=0,
        groups=frozenset({"procurement-managers"}), arguments={"text": "a"},
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ canary
@given(st.text(max_size=60), st.floats(0, 100), st.floats(0, 100))
def test_a_workflow_belongs_to_one_side_and_a_larger_part_contains_every_smaller_one(
    workflow: str, one: float, two: float
) -> None:
    small, large = sorted((one, two))
    assert is_canary(workflow, small) == is_canary(workflow, small)
    assert not is_canary(workflow, small) or is_canary(workflow, large)
    assert not is_canary(workflow, 0)
    assert is_canary(workflow, 100)


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
def test_a_part_is_as_large_as_it_says(percent: float) -> None:
    among = sum(is_canary(f"wf-{number:026x}", percent) for number in range(20_000))
    assert abs(among / 200 - percent) < 1.5


def test_a_question_that_nobody_noted_is_an_error_and_so_a_refusal() -> None:
    judge = pair(texts()).engine.decide
    asked = ByWorkflow(lambda *_: question(), lambda _: judge)
    with pytest.raises(RuntimeError):
        asked.decide(question())


def test_a_canary_decides_for_its_workflows_alone_and_their_records_say_so(tmp_path: Path, peers: Peers) -> None:
    active, canary = texts(), texts(more=SEAL)
    write(tmp_path / "canary", canary)
    with live(tmp_path, peers, active, canary={"folder": "canary", "percent": 50}, **ASKED_ONLY) as running:
        gateway = running.gateway
        digests = {False: load_texts(active).digest, True: load_texts(canary).digest}
        sides: Counter[bool] = Counter()
        for token in [gateway.token() for _ in range(16)]:
            for _ in range(2):
                answer = gateway.call("desk.seal", token)
                chosen = is_canary(answer.headers["bailiwick-workflow"], 50)
                assert ("result" in answer.json()) is chosen
                message = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
                frame = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
                listed = gateway.post("/mcp/desk", message, frame | {"MCP-Protocol-Version": "2025-11-25"}).json()["result"][
                    "tools"
                ]
                assert ("seal" in {tool["name"] for tool in listed}) is chosen
            sides[chosen] += 1
            for record in gateway.records(workflow=answer.headers["bailiwick-workflow"]):
                assert record.leaf.get("decision", {"policy": digests[chosen]})["policy"] == digests[chosen]
        assert len(sides) == 2, sides
        shown = running.status()
        assert (shown["canary"]["digest"], shown["canary"]["percent"]) == (digests[True], 50)


def test_a_broken_canary_leaves_the_last_good_one_and_the_active_bundle_alone(tmp_path: Path, peers: Peers) -> None:
    write(tmp_path / "canary", texts(more=SEAL))
    with live(tmp_path, peers, texts(), canary={"folder": "canary", "percent": 100}, **ASKED_ONLY) as running:
        write(tmp_path / "canary", texts(more="p, nonsense\n"))
        answer = running.reload()
        assert (answer.status_code, answer.json()["active"]["result"], answer.json()["canary"]["result"]) == (
            422,
            "unchanged",
            "rejected",
        )
        assert "result" in running.gateway.call("desk.seal", running.admin).json()
        assert running.gateway.http.get("/readyz").json()["degraded"] == {"policy": "stale"}


# ------------------------------------------------------------------------------------------------------------ shadow
def test_shadow_lines_and_a_shadow_bundle_are_asked_beside_and_change_nothing(tmp_path: Path, peers: Peers) -> None:
    watched = texts() | {"shadow/next.csv": SEAL}
    write(tmp_path / "shadow", texts(more=NO_READ))
    with live(tmp_path, peers, watched, shadow="shadow", **QUICK) as running:
        gateway = running.gateway
        for _ in range(3):
            assert "result" in gateway.call("desk.read", running.admin).json()
            assert "result" not in gateway.call("desk.seal", running.admin).json()
        while (shown := running.status())["shadowed"]["compared"] < 6:
            pass
        flips = {(each["rule"], each["direction"], each["source"]): each["count"] for each in shown["would_flip"]}
        assert flips["BUY-9", "deny->allow", "shadow"] == 3
        assert flips["SEC-9", "allow->deny", "candidate"] == 3
        scraped = gateway.http.get("/metrics").text
        assert 'bailiwick_policy_would_flip_total{rule="BUY-9",direction="deny->allow",source="shadow"} 3' in scraped
        assert "bailiwick_policy_beside_info" in scraped
        write(running.folder, texts(more=SEAL))  # promoted: the line moves from shadow/ to grants/
        running.becomes(load_texts(texts(more=SEAL)).digest)
        assert "result" in gateway.call("desk.seal", running.admin).json()


def test_a_shadow_bundle_needs_no_tests_but_must_be_a_bundle(tmp_path: Path, peers: Peers) -> None:
    write(tmp_path / "shadow", {name: text for name, text in texts(more=SEAL).items() if not name.startswith("tests/")})
    with live(tmp_path, peers, texts(), shadow="shadow", require_tests=True, **ASKED_ONLY) as running:
        write(tmp_path / "shadow", texts(more="p, nonsense\n"))
        assert running.reload().json()["shadow"]["result"] == "rejected"


def test_what_is_asked_beside_never_waits_and_never_grows(tmp_path: Path) -> None:
    """Its thread is held up: every question goes on at once, the queue stays as long as it may be, the rest is counted."""
    policy = Policy(pair(texts() | {"shadow/next.csv": SEAL})).watching()
    assert policy.watched is not None
    entered, release = threading.Event(), threading.Event()

    class Held:
        """What watches, held at its first question."""

        def compare(self, request: AccessRequest, decision: Decision) -> tuple[()]:
            entered.set()
            release.wait(60)
            return ()

    shadowing = Shadowing(room=10)
    decide = shadowing.wrap(policy.active.engine.decide, Held())  # type: ignore[arg-type]
    try:
        decide(question())
        assert entered.wait(60)
        answers = [decide(question()) for _ in range(100)]
        assert {answer.allowed for answer in answers} == {False}
        assert shadowing.dropped == 90
    finally:
        release.set()
        shadowing.close()
    assert shadowing.compared >= 1


def test_without_anything_to_watch_the_judge_is_itself_and_no_thread_is_begun() -> None:
    policy = Policy(pair(texts())).watching()
    decide = policy.active.engine.decide
    shadowing = Shadowing()
    assert policy.watched is None
    assert shadowing.wrap(decide, None) is decide
    assert shadowing._thread is None


# ---------------------------------------------------------------------------------------------------------- the swap
def test_followers_hear_of_each_policy_before_anybody_can_ask_for_it() -> None:
    first, second = Policy(pair(texts())), Policy(pair(texts(more=SEAL)))
    in_force, heard = InForce(first), []
    in_force.follow(lambda policy: heard.append((policy, in_force.current)))
    in_force.swap(second)
    assert heard == [(first, first), (second, second)]


def test_a_bundle_that_is_out_of_force_is_let_go_of_without_the_collector() -> None:
    """The collector is told to leave alone what is in force, so nothing of a bundle may need it."""
    gc.collect()
    gc.disable()
    try:
        in_force = InForce(Policy(pair(texts() | {"shadow/next.csv": SEAL})).watching())
        in_force.current.active.engine.decide(question())
        gone = [weakref.ref(in_force.current.active.engine._enforcer), weakref.ref(in_force.current.active.engine)]
        in_force.swap(Policy(pair(texts())))
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()
