"""Two people share an agent: what one names of the other's is as what never was, by every operation and in every disguise."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from gateway.a2a.operations import OPERATIONS
from gateway.a2a.webhook import Allowed
from tests.a2a.conformance.verdicts import WIRES
from tests.a2a.conformance.wires import Answer, Rest, Rpc, Wire
from tests.a2a.pairs import Hook, Side
from tests.a2a.world import World, gateway, reference_agent
from tests.attacks.a2a_tricks import ALL, HOOK, TRICKS, Names, Trick

SECRET = "the price is 4711"
VARYING = {"date", "bailiwick-decision", "bailiwick-workflow", "content-length"}
ROWS = [(name, binding) for name, trick in TRICKS.items() for binding in trick.bindings]
PEER = {"own_contexts": False, "versions": frozenset({"1.0", "0.3"})}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def agent_url() -> Iterator[str]:
    with reference_agent("--compat03") as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, agent_url: str) -> AsyncIterator[World]:
    """Nobody makes up contexts here: so one that is another's and one that never was are the same."""
    options = {"allowed": Allowed(private=("127.0.0.1:9",)), "grpc": False, "peers": {"ref": PEER}}
    async with gateway(tmp_path_factory.mktemp("gateway"), {"ref": agent_url}, **options) as running:
        yield running


@asynccontextmanager
async def wire(world: World, person: str, binding: str) -> AsyncIterator[Wire]:
    base = f"{world.url}/a2a/ref"
    places = {"JSONRPC": f"{base}/", "HTTP+JSON": f"{base}/rest", "GRPC": f"127.0.0.1:{world.doors['ref']}"}
    card = {"supportedInterfaces": [{"url": url, "protocolBinding": name} for name, url in places.items()]}
    opened = WIRES[binding](Side("through", f"{base}/", world.token(person)), world.client, Hook(), card)
    try:
        yield opened
    finally:
        await opened.close()


@dataclass(frozen=True)
class Said:
    """An answer as far as it could give something away."""

    status: int
    whole: str
    headers: tuple[tuple[str, Any], ...]
    well: bool

    @classmethod
    def of(cls, answer: Answer) -> Said:
        headers = tuple(sorted((name, value) for name, value in answer.headers.items() if name not in VARYING))
        told = answer.error if answer.error is not None else answer.result
        if isinstance(told, dict) and told.get("nextPageToken"):
            told = told | {"nextPageToken": "sealed anew each time"}
        whole = str(told)
        return cls(answer.status, whole, headers, answer.error is None)


async def tried(world: World, person: str, binding: str, trick: Trick, names: Names) -> Said:
    """What is answered to somebody who names this."""
    async with wire(world, person, binding) as asking:
        if trick.raw is not None:
            raw = trick.raw(names)
            if isinstance(asking, Rpc):
                return Said.of(await asking.post(raw, {"a2a-version": trick.version}))
            assert isinstance(asking, Rest)
            return Said.of(await asking.request(*raw))
        assert trick.params is not None
        if trick.op not in {"SendStreamingMessage", "SubscribeToTask"}:
            return Said.of(await asking.ask(trick.op, trick.params(names)))
        async with asking.stream(trick.op, trick.params(names)) as stream:
            async for event in stream.events:
                return Said(stream.status, str(event), (), well=True)
        assert stream.answer is not None
        return Said.of(stream.answer)


async def belongings(world: World, person: str) -> Names:
    """A waiting task with a secret in it, its context, a webhook of it, a second page of a list, and another task there."""
    async with wire(world, person, "JSONRPC") as mine:
        own = await mine.task("tck-input-required", text=f"another of {person}")
        task = await mine.task("tck-input-required", contextId=own["contextId"], text=SECRET if person == "paul" else "nothing")
        made = await mine.ask("CreateTaskPushNotificationConfig", {"taskId": task["id"], "id": f"hook-of-{person}", "url": HOOK})
        assert made.error is None
        page = (await mine.ask("ListTasks", {"contextId": own["contextId"], "pageSize": 1})).result["nextPageToken"]
        assert page
    return Names(task["id"], task["contextId"], f"hook-of-{person}", page, own["id"])


async def state(world: World, names: Names) -> Any:
    """All that paul can see of what is his."""
    async with wire(world, "paul", "JSONRPC") as his:
        answers = [
            await his.ask("GetTask", {"id": names.task}),
            await his.ask("ListTaskPushNotificationConfigs", {"taskId": names.task}),
            await his.ask("ListTasks", {"contextId": names.context, "includeArtifacts": True}),
        ]
    shown = json.loads(json.dumps([answer.result for answer in answers]))
    shown[0].pop("metadata", None)
    return shown


@pytest.mark.parametrize(("name", "binding"), ROWS, ids=[f"{name}-{binding}" for name, binding in ROWS])
async def test_what_is_anothers_is_as_what_never_was(world: World, name: str, binding: str) -> None:
    trick = TRICKS[name]
    theirs, mias = await belongings(world, "paul"), await belongings(world, "mia")
    before, records = await state(world, theirs), len(world.ledger.entries)
    foreign = await tried(world, "mia", binding, trick, replace(theirs, own=mias.own))
    unknown = await tried(world, "mia", binding, trick, Names(own=mias.own))
    assert foreign == unknown
    assert foreign.well == trick.lists, foreign
    for secret in (SECRET, theirs.task, theirs.context, theirs.page):
        assert secret not in foreign.whole
    if not trick.lists and not trick.asks:
        assert {entry.kind for entry in world.ledger.entries[records:]} == {"decision.deny"}, "the agent was asked"
    assert await state(world, theirs) == before
    if trick.owner is None:
        return
    mine = await tried(world, "paul", binding, trick, theirs)
    assert mine.well == (trick.owner or trick.lists), mine
    if trick.op == "ListTasks" and trick.lists:
        assert theirs.task in mine.whole


async def test_every_operation_that_names_something_is_tried_over_every_binding() -> None:
    tried_ = {(trick.op, binding) for trick in TRICKS.values() for binding in trick.bindings}
    named = OPERATIONS.keys() - {"GetExtendedAgentCard"}
    assert {(op, binding) for op in named for binding in ALL} <= tried_
    assert len(ROWS) > 120
