"""The examples as they stand: an agent on the A2A SDK asks one on a framework, which calls a tool; the person comes along.

No model is asked: the frameworks' own models for tests stand in, and everything else is what is shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import pypackages
from tests.delegation.world import Chained, chained, who
from tests.interaction.world import ROOT

EXAMPLES = ROOT / "examples" / "propagate"
FRAMEWORKS = ("langgraph", "openai_agents")
pytestmark = [pytest.mark.index, pytest.mark.timeout(400)]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chained]:
    """`herald` asks `clerk`, who is an agent of the framework."""
    folder = Path(__file__).parent / request.param
    python = pypackages.environment(folder, f"the example of {request.param}")
    agents = {
        "herald": (sys.executable, str(EXAMPLES / "a2a_sdk.py")),
        "clerk": (str(python), str(folder / "scripted.py")),
    }
    path = os.pathsep.join((str(ROOT), str(EXAMPLES)))
    with chained(tmp_path_factory.mktemp(request.param), agents, PYTHONPATH=path, PEER="clerk") as running:
        yield running


def asked(gateway: Chained, person: str, text: str, agent: str = "herald") -> tuple[str, Any]:
    """The workflow, and what the agent said."""
    answer = gateway.send(agent, gateway.token(person), text)
    result = answer.json()
    said = result["result"]["message"]["parts"][0]["text"] if "result" in result else result["error"]
    return answer.headers["bailiwick-workflow"], said


def calls(gateway: Chained, workflow: str) -> list[Any]:
    return [(hop.who, hop.what, hop.kind, hop.reason) for hop in gateway.hops(workflow, "SendMessage", "tools/call")]


def test_the_ledger_names_the_person_and_both_agents(gateway: Chained) -> None:
    workflow, said = asked(gateway, "paul", "a lot")
    assert said == "note proven read: noted a lot"
    assert calls(gateway, workflow) == [
        (who("paul"), "a2a:herald", "call.start", "allowed"),
        (who("paul", "herald"), "a2a:clerk", "call.start", "allowed"),
        (who("paul", "herald", "clerk"), "desk.note", "call.start", "allowed"),
    ]


def test_the_model_is_shown_what_this_person_may_use_and_a_person_without_the_right_is_refused(gateway: Chained) -> None:
    workflow, said = asked(gateway, "mia", "a lot")
    tools, _, heard = said.partition(": ")
    assert tools == "note read"
    assert "code: user-lacks-right" in heard
    assert calls(gateway, workflow)[-1] == (who("mia", "herald", "clerk"), "desk.note", "decision.deny", "user-lacks-right")
    assert asked(gateway, "mia", "little")[1] == "note read: noted little"


def test_people_who_ask_at_the_same_time_are_each_themselves(gateway: Chained) -> None:
    people = ["paul", "mia"] * 5
    with ThreadPoolExecutor(len(people)) as pool:
        answers = list(pool.map(lambda person: asked(gateway, person, "a lot"), people))
    for person, (workflow, said) in zip(people, answers, strict=True):
        assert said.startswith("note proven read: noted" if person == "paul" else "note read: ")
        assert {chain[0] for chain, *_ in calls(gateway, workflow)} == {f"user:dev/{person}"}


def test_an_agent_that_is_asked_past_the_gateway_calls_nothing_in_its_own_name(gateway: Chained) -> None:
    """Whoever reaches an agent's port has nobody's delegation, so it shows the gateway nothing at all."""
    before = len(gateway.records())
    message = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "a lot"}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    url = gateway.settings["agents"]["clerk"]["url"]
    answer = httpx.post(url, json=body, headers={"a2a-version": "1.0"}, trust_env=False, timeout=60)
    assert "error" in answer.json()
    assert len(gateway.records()) == before
