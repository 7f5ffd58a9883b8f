"""Two people share an agent: what one names of the other's is as what never was, by every operation and in every disguise."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Engine, event

from gateway.a2a.operations import OPERATIONS
from gateway.a2a.webhook import Allowed
from tests.a2a.clients.transcript import normalised
from tests.a2a.conformance.verdicts import WIRES
from tests.a2a.conformance.wires import Answer, Rest, Rpc, Wire
from tests.a2a.pairs import Hook, Side
from tests.a2a.world import World, gateway, reference_agent
from tests.attacks.a2a_tricks import ALL, HOOK, TRICKS, Names, Trick

SECRET = "the price is 4711"
VARYING = {"date", "bailiwick-decision", "bailiwick-workflow", "content-length"}
ROWS = [(name, binding) for name, trick in TRICKS.items() for binding in trick.bindings]
PEER = {"versions": frozenset({"1.0", "0.3"})}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def agent_url() -> Iterator[str]:
    with reference_agent("--compat03") as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, agent_url: str) -> AsyncIterator[World]:
    """As settings have it where they say nothing of contexts."""
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
    told: Any = None

    def by(self, names: Names) -> Said:
        """The same with what was named under one name, whatever it is, and so whatever is new."""
        known = {value: field for field, value in asdict(names).items() if value}
        return replace(self, whole="", told=normalised(self.told, known), headers=normalised(str(self.headers), known))

    @classmethod
    def of(cls, answer: Answer) -> Said:
        headers = tuple(sorted((name, value) for name, value in answer.headers.items() if name not in VARYING))
        told = answer.error if answer.error is not None else answer.result
        if isinstance(told, dict) and told.get("nextPageToken"):
            told = told | {"nextPageToken": "sealed anew each time"}
        whole = str(told)
        return cls(answer.status, whole, headers, answer.error is None, told)


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
                return Said(stream.status, str(event), (), True, event)
        assert stream.answer is not None
        return Said.of(stream.answer)


async def belongings(world: World) -> Names:
    """A waiting task of paul with a secret in it, its context, a webhook, a second page of a list, another task; and a word."""
    async with wire(world, "paul", "JSONRPC") as mine:
        own = await mine.task("tck-input-required", text="another")
        task = await mine.task("tck-input-required", contextId=own["contextId"], text=SECRET)
        made = await mine.ask("CreateTaskPushNotificationConfig", {"taskId": task["id"], "id": "hook-of-paul", "url": HOOK})
        assert made.error is None
        word = str(uuid.uuid4())
        await mine.task("tck-input-required", contextId=word, text=SECRET)
        inner = str(next(entry.fields["context"] for entry in reversed(world.ledger.entries) if "context" in entry.fields))
        page = (await mine.ask("ListTasks", {"contextId": own["contextId"], "pageSize": 1})).result["nextPageToken"]
        assert page
    return Names(task["id"], task["contextId"], "hook-of-paul", page, own["id"], word, inner)


def never_was(own: str) -> Names:
    """Names that nobody ever said."""
    return Names(own=own, context=str(uuid.uuid4()), word=str(uuid.uuid4()), inner=str(uuid.uuid4()))


@contextmanager
def looked_up() -> Iterator[list[str]]:
    """Each question that is asked of the tables of tasks and contexts."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "_owners" in statement:
            asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def shape(value: Any) -> Any:
    """Of a record, all but its values."""
    if isinstance(value, dict):
        return {key: inner if key in {"status", "code", "method"} else shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list | tuple) else type(value).__name__


@dataclass
class Way:
    """Which way a call went: what was asked of the state store, and what went on record."""

    asked: list[str]
    recorded: list[Any]


async def watched(world: World, binding: str, trick: Trick, names: Names) -> tuple[Said, Way]:
    """What mia hears, and the way that it went."""
    before = len(world.ledger.entries)
    with looked_up() as asked:
        said = await tried(world, "mia", binding, trick, names)
        kinds = world.ledger.kinds()[before:]
        if kinds and kinds[0] == "call.start":  # of a stream that was left its end follows
            await world.ledger.when(lambda entries: len(entries) > before + 1)
    entries = world.ledger.entries[before:]
    return said, Way(asked, [(each.kind, None if each.kind == "call.end" else shape(each.fields)) for each in entries])


async def state(world: World, names: Names) -> Any:
    """All that paul can see of what is his."""
    async with wire(world, "paul", "JSONRPC") as his:
        answers = [
            await his.ask("GetTask", {"id": names.task}),
            await his.ask("ListTaskPushNotificationConfigs", {"taskId": names.task}),
            await his.ask("ListTasks", {"contextId": names.context, "includeArtifacts": True}),
            await his.ask("ListTasks", {"contextId": names.word, "includeArtifacts": True}),
        ]
    shown = json.loads(json.dumps([answer.result for answer in answers]))
    shown[0].pop("metadata", None)
    return shown


@pytest.mark.parametrize(("name", "binding"), ROWS, ids=[f"{name}-{binding}" for name, binding in ROWS])
async def test_what_is_anothers_is_as_what_never_was(world: World, name: str, binding: str) -> None:
    trick = TRICKS[name]
    theirs = await belongings(world)
    async with wire(world, "mia", "JSONRPC") as hers:
        own = (await hers.task("tck-input-required"))["id"]
    before = await state(world, theirs)
    named, nothing = replace(theirs, own=own), never_was(own)
    foreign, way = await watched(world, binding, trick, named)
    unknown, usual = await watched(world, binding, trick, nothing)
    if trick.begins or trick.echoes:
        assert foreign.by(named) == unknown.by(nothing)
    else:
        assert foreign == unknown
    assert way == usual, "another way for what is another's"
    assert foreign.well == (trick.lists or trick.begins), foreign
    said = str(trick.raw(named) if trick.raw is not None else trick.params and trick.params(named))
    for secret in (SECRET, theirs.task, theirs.page, theirs.context, theirs.word, theirs.inner):
        assert secret not in foreign.whole or (secret in said and (trick.begins or trick.echoes)), secret
    if not trick.lists and not trick.asks and not trick.begins:
        assert {kind for kind, _ in way.recorded} == {"decision.deny"}, "the agent was asked"
    assert await state(world, theirs) == before
    if trick.owner is None:
        return
    mine = await tried(world, "paul", binding, trick, theirs)
    assert mine.well == (trick.owner or trick.lists), mine
    if trick.op == "ListTasks" and trick.lists:
        assert mine.told["tasks"]


async def test_every_operation_that_names_something_is_tried_over_every_binding() -> None:
    tried_ = {(trick.op, binding) for trick in TRICKS.values() for binding in trick.bindings}
    named = OPERATIONS.keys() - {"GetExtendedAgentCard"}
    assert {(op, binding) for op in named for binding in ALL} <= tried_
    assert len(ROWS) > 120
