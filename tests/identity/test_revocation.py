"""Who may act no more: what is asked for every call, what ends a call under way, and what happens when it cannot be known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway import model
from gateway.identity.access import workflow_id
from gateway.identity.killed import Killed, Names, wrong_target
from gateway.identity.revocation import Kills
from gateway.model import Arrival, Call, Intent, Outcome, OutcomeStatus, Permit, Principal, Refused, Reply, Said, Trace
from gateway.pipeline import Stages, govern
from gateway.reasons import Code
from gateway.state.database import open_engine
from gateway.state.kills import Kill, KillRows
from gateway.state.worker import Worker
from policies.model import AccessRequest, Decision, Effect, Reason

NOW = 1_800_000_000
PAUL = Principal(
    "user:idp/paul", ("agent:a", "agent:b"), "acme", "wf-1", NOW + 60, "delegation", "00",
    jti="j-2", path=("j-1", "j-2"), issued=NOW, grant="g-1",
)  # fmt: skip
NAMES = Names("acme", frozenset({"idp"}), frozenset({"a", "b"}), frozenset({"acme"}))


def kill(kind: str, target: str, **changes: object) -> Kill:
    return replace(Kill(f"k-{kind}-{target}", kind, target, None, "why", "api", "user:idp/fiona", NOW * 1_000_000), **changes)


MATCHING = [
    ("user", "user:idp/paul"), ("agent", "agent:a"), ("agent", "agent:b"), ("workflow", "wf-1"), ("branch", "j-1"),
    ("branch", "j-2"), ("token", "j-2"), ("grant", "g-1"), ("tenant", "acme"),
]  # fmt: skip
OTHERS = [
    ("user", "user:idp/mia"), ("user", "agent:a"), ("agent", "agent:c"), ("agent", "user:idp/paul"), ("workflow", "wf-2"),
    ("branch", "j-3"), ("branch", "wf-1"), ("token", "j-1"), ("grant", "g-2"), ("tenant", "other"), ("token", ""), ("grant", ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "target"), MATCHING)
def test_each_kind_reaches_what_it_names(kind: str, target: str) -> None:
    found = Killed([kill(kind, target)]).of(PAUL)
    assert found == kill(kind, target)


@pytest.mark.parametrize(("kind", "target"), OTHERS)
def test_no_kind_reaches_anything_else(kind: str, target: str) -> None:
    assert Killed([kill(kind, target)]).of(PAUL) is None


def test_only_what_was_given_until_then_is_dead_and_of_several_the_furthest_counts() -> None:
    for before, dead in ((NOW - 1, False), (NOW, True), (NOW + 1, True), (None, True)):
        for kind, target in MATCHING:
            assert (Killed([kill(kind, target, before=before)]).of(PAUL) is not None) is dead
    both = [kill("user", "user:idp/paul", before=NOW - 9, id="old"), kill("user", "user:idp/paul", before=NOW, id="new")]
    for kills in (both, both[::-1]):
        found = Killed(kills).of(PAUL)
        assert found is not None
        assert found.id == "new"


def test_authority_of_unknown_age_is_as_old_as_can_be() -> None:
    assert Killed([kill("user", "user:idp/paul", before=1)]).of(changed(PAUL, issued=0)) is not None


def test_the_token_of_a_person_kills_the_workflow_that_began_with_it() -> None:
    began = changed(PAUL, workflow=workflow_id("https://idp", "person's token"))
    killed = Killed([kill("token", "person's token")], ["https://idp"])
    assert killed.of(began) is not None
    assert killed.of(PAUL) is None
    exchanged = changed(PAUL, path=(began.workflow, "j-1", "j-2"))  # as the token endpoint writes it
    assert killed.of(exchanged) is not None
    assert Killed([kill("workflow", began.workflow)]).of(exchanged) is not None


@pytest.mark.parametrize(("kind", "target"), [("workflow", "wf-1"), ("branch", "j-1"), ("token", "j-2"), ("grant", "g-1")])
def test_what_somebody_kills_of_their_own_reaches_nobody_else(kind: str, target: str) -> None:
    own = kill(kind, target, source="self", by="user:idp/mia")
    assert Killed([own]).of(PAUL) is None
    assert Killed([own]).of(changed(PAUL, subject="user:idp/mia")) is not None


def test_nobody_kills_a_person_by_calling_them_their_own() -> None:
    own = kill("user", "user:idp/paul", source="self", by="user:idp/mia")
    assert Killed([own]).of(PAUL) is None
    assert Killed([own]).of(changed(PAUL, subject="user:idp/mia")) is None
    assert Killed([replace(own, by="user:idp/paul")]).of(PAUL) is not None


@given(
    kills=st.lists(
        st.tuples(st.sampled_from(MATCHING + OTHERS), st.sampled_from([None, NOW - 1, NOW]), st.sampled_from(["api", "self"])),
        max_size=8,
    )
)
def test_an_index_says_what_looking_at_every_kill_says(kills: list[tuple[tuple[str, str], int | None, str]]) -> None:
    rows = [
        kill(kind, target, before=before, source="api" if kind in {"agent", "tenant"} else source, by="user:idp/paul")
        for (kind, target), before, source in kills
    ]
    plainly = any((row.kind, row.target) in MATCHING and (row.before is None or row.before >= NOW) for row in rows)
    assert (Killed(rows).of(PAUL) is not None) is plainly


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("user", "paul"), ("user", "user:idp/"), ("user", "user:IDP/paul"), ("user", "user:idp/a\nb"),
        ("user", "user:idp/" + "x" * 256), ("agent", "a"), ("agent", "agent:A"), ("workflow", "wf-1"),
        ("workflow", "wf-" + "G" * 26), ("branch", ""), ("token", " x"), ("token", "x" * 256),
        ("tenant", "Acme"), ("tenant", "a/b"), ("grant", "\x00"),
    ],
)  # fmt: skip
def test_a_target_of_another_form_is_none(kind: str, target: str) -> None:
    assert wrong_target(kind, target)


def test_a_name_that_the_settings_do_not_have_is_told_with_those_that_they_do() -> None:
    assert NAMES.wrong("user", "user:dpi/paul") == "the settings have no issuer dpi; there are: idp"
    assert NAMES.wrong("user", "svc:c") == "the settings have no agent c; there are: a, b"
    assert [NAMES.wrong(kind, target) for kind, target in MATCHING if kind in {"user", "agent", "tenant"}] == [""] * 4


@dataclass
class World:
    kills: Kills
    worker: Worker
    now: float = 0.0
    entries: list[Entry] = field(default_factory=list)
    ledger: bool = True


@pytest.fixture
async def world() -> AsyncIterator[World]:
    engine, threads = open_engine("sqlite://")
    worker = Worker(engine, threads)

    async def append(entry: Entry) -> Receipt:
        if not made.ledger:
            raise LedgerUnavailableError("gone")
        made.entries.append(entry)
        return Receipt("log", entry.id, len(made.entries), b"")

    kills = Kills(KillRows(worker), append, names=NAMES, stale_seconds=60, monotonic=lambda: made.now)
    made = World(kills, worker)
    yield made
    await kills.close()
    await worker.close()


def refused(world: World, principal: Principal = PAUL) -> Code | None:
    try:
        world.kills.alive(principal)
    except Refused as refusal:
        return refusal.code if refusal.principal == principal else None
    return None


async def test_nobody_is_known_to_be_alive_before_the_table_was_read(world: World) -> None:
    assert refused(world) is Code.INTERNAL_ERROR
    assert world.kills.fault
    await world.kills.refresh()
    assert refused(world) is None
    assert not world.kills.fault


async def test_a_kill_is_on_record_then_durable_then_in_force(world: World) -> None:
    await world.kills.refresh()
    world.ledger = False
    with pytest.raises(Refused) as caught:
        await world.kills.kill(kill("user", "user:idp/paul"), about="user:idp/paul")
    assert caught.value.code is Code.LEDGER_UNAVAILABLE
    assert await world.kills.listed(9) == []
    assert refused(world) is None
    world.ledger = True
    await world.kills.kill(kill("user", "user:idp/paul"), about="user:idp/paul")
    assert [(entry.kind, entry.subject, entry.fields["target"]) for entry in world.entries] == [
        ("identity.kill", "user:idp/paul", "@subject")
    ]
    assert refused(world) is Code.REVOKED
    await world.kills.lift(kill("user", "user:idp/paul").id, 5)
    assert refused(world) is None


async def test_a_kill_that_could_not_be_kept_is_not_in_force(world: World) -> None:
    await world.kills.refresh()
    await world.worker.close()
    with pytest.raises(Refused):
        await world.kills.kill(kill("user", "user:idp/paul"), about=None)
    assert refused(world) is None


async def test_what_is_too_old_is_not_believed_and_believed_again_once_it_is_read(world: World) -> None:
    await world.kills.refresh()
    world.now = 59.9
    assert refused(world) is None
    world.now = 60
    assert refused(world) is Code.INTERNAL_ERROR
    await world.kills.refresh()
    assert refused(world) is None


async def test_what_is_known_to_be_killed_stays_killed_while_nothing_can_be_read(world: World) -> None:
    await world.kills.kill(kill("user", "user:idp/paul"), about=None)
    await world.kills.refresh()
    await world.worker.close()
    await world.kills.refresh()
    assert refused(world) is Code.REVOKED
    assert refused(world, changed(PAUL, subject="user:idp/mia")) is None
    world.now = 61
    assert refused(world, changed(PAUL, subject="user:idp/mia")) is Code.INTERNAL_ERROR


async def test_kills_written_beside_the_gateway_are_recorded_once_even_where_the_ledger_was_away(world: World) -> None:
    world.ledger = False
    await KillRows(world.worker).add(kill("user", "user:idp/paul", source="offline", by="os:root"))
    await world.kills.refresh()
    assert refused(world) is Code.REVOKED  # in force all the same
    assert world.entries == []
    world.ledger = True
    for _ in range(3):
        await world.kills.refresh()
    assert [(entry.fields["source"], entry.fields["by"]) for entry in world.entries] == [("offline", "os:root")]


async def test_a_lift_written_beside_the_gateway_is_on_record_before_anybody_goes_on(world: World) -> None:
    made = await world.kills.kill(kill("user", "user:idp/paul"), about="user:idp/paul")
    await world.kills.refresh()
    rows = KillRows(world.worker)
    wish = replace(kill("lift", made.id, source="offline", by="os:root"), id="wish-1")
    assert await rows.order(wish) == made
    world.ledger = False
    await world.kills.refresh()
    assert refused(world) is Code.REVOKED
    world.ledger = True
    for _ in range(2):
        await world.kills.refresh()
    assert refused(world) is None
    lifts = [(entry.id, entry.subject, entry.fields) for entry in world.entries if entry.kind == "identity.lift"]
    assert lifts == [("wish-1", "user:idp/paul", {"kill": made.id, "what": "user", "source": "offline", "by": "os:root"})]
    assert await world.kills.listed(10) == []
    assert [(each.id, each.lifted_at is not None) for each in await world.kills.listed(10, lifted=True)] == [(made.id, True)]
    for gone in (made.id, "wish-1", "no-such"):
        assert await rows.order(replace(wish, id="wish-2", target=gone)) is None


async def test_a_defect_while_kills_are_followed_does_not_end_the_following(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    asked, recorded = [0], asyncio.Event()

    async def append(entry: Entry) -> Receipt:
        asked[0] += 1
        if asked[0] < 3:
            raise ValueError("no record")
        recorded.set()
        return Receipt("log", entry.id, 1, b"")

    kills = Kills(KillRows(world.worker), append, names=NAMES, poll_seconds=0.01)
    await KillRows(world.worker).add(kill("user", "user:idp/paul", source="offline"))
    kills.start()
    try:
        async with asyncio.timeout(10):
            await recorded.wait()
        assert kills.dead(PAUL)
        assert caplog.text.count("begins again") == 2
    finally:
        await kills.close()


async def test_a_kill_of_a_kind_that_is_not_known_here_keeps_everything_back_until_it_is_gone(world: World) -> None:
    """Written by a newer replica, say: to pass over it could let somebody go on who was stopped."""
    await world.kills.refresh()
    rows = KillRows(world.worker)
    made = await rows.add(kill("planet", "earth"))
    world.now = 59
    await world.kills.refresh()
    world.now = 61
    assert refused(world) is Code.INTERNAL_ERROR
    await rows.lift(made.id, 5)
    await world.kills.refresh()
    assert refused(world) is None


async def test_many_kills_are_in_force_as_few_are(world: World) -> None:
    await world.kills.refresh()
    found = [kill("user", f"user:idp/{n}", id=f"k-{n}") for n in range(1100)]
    await world.kills.apply("event:idp", "jti", NOW, found, [], [], 1)
    assert refused(world, changed(PAUL, subject="user:idp/1099")) is Code.REVOKED
    assert refused(world) is None


# the road

ARRIVAL = Arrival("call-1", "mcp", "erp", (), b"{}", 1_000_000, Trace("0" * 31 + "1", "0" * 15 + "2"))
CALL = Call(ARRIVAL, "tools/call", "erp", {}, ARRIVAL.trace, name="read")
REQUEST = AccessRequest("user:idp/paul", ("agent:a",), "acme", "call", "erp.read", 1)
ALLOW = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0")
ON_THE_WAY, FINAL = Reply({"n": 1}, is_final=False, body=b"1"), Reply({"ok": True}, is_final=True, body=b"2")


@dataclass
class Road:
    world: World
    forwarded: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    recording: asyncio.Event = field(default_factory=asyncio.Event)
    waits: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the upstream was reached and says nothing."""
    stubborn: bool = False
    kill_at_intent: bool = False

    def stages(self) -> Stages:
        async def authenticate(_: Arrival) -> Principal:
            self.world.kills.alive(PAUL)
            return PAUL

        async def fulfil(permit: Permit) -> Permit:
            return permit

        async def record_intent(permit: Permit) -> Intent:
            if self.kill_at_intent:  # the very moment between the first look and the forward
                await self.world.kills.kill(kill("workflow", "wf-1"), about=None)
            return Intent(permit, 7, model._RECORDED)

        async def messages() -> AsyncGenerator[Reply, None]:
            self.forwarded.append("begun")
            yield ON_THE_WAY
            self.waits.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.forwarded.append("cut")
                if not self.stubborn:
                    raise
            yield FINAL

        async def forward(_: Intent) -> Said:
            return messages()

        async def record_outcome(_: Intent, outcome: Outcome) -> None:
            self.outcomes.append(outcome)

        async def record_refusal(_: Arrival, refusal: Refused) -> None:
            self.forwarded.append(f"refused {refusal.code}")

        return Stages(
            authenticate=authenticate,
            parse=lambda *_: CALL,
            normalise=lambda *_: REQUEST,
            decide=lambda _: ALLOW,
            fulfil=fulfil,
            record_intent=record_intent,
            forward=forward,
            filter=lambda reply, _: reply,
            record_outcome=record_outcome,
            record_refusal=record_refusal,
            observe=lambda *_: None,
            watch=self.world.kills.watch,
        )

    async def client(self, slow: asyncio.Event | None = None) -> list[bytes | None]:
        """What a client gets; one that does not read waits for `slow` after each message."""
        got = []
        async with aclosing(govern(ARRIVAL, self.stages())) as replies:
            async for reply in replies:
                got.append(reply.body)
                if slow is not None:
                    self.waits.set()
                    await slow.wait()
        return got


async def ended(call: asyncio.Task[list[bytes | None]]) -> Refused:
    with pytest.raises(Refused) as caught:
        await call
    assert call.cancelling() == 0  # nothing of it is left in the task
    return caught.value


async def test_a_call_under_way_ends_with_its_kill_and_is_recorded_as_interrupted(world: World) -> None:
    await world.kills.refresh()
    road = Road(world)
    call = asyncio.create_task(road.client())
    await road.waits.wait()
    assert len(world.kills.running) == 1
    await world.kills.kill(kill("agent", "agent:b"), about=None)
    refusal = await ended(call)
    assert (refusal.code, refusal.call, refusal.principal) == (Code.REVOKED, CALL, PAUL)
    assert road.forwarded == ["begun", "cut"]
    (outcome,) = road.outcomes
    assert outcome.status is OutcomeStatus.INTERRUPTED
    assert outcome.detail.startswith("revoked")
    assert len(world.kills.running) == 0


async def test_a_call_whose_client_does_not_read_ends_as_well(world: World) -> None:
    await world.kills.refresh()
    road = Road(world)
    call = asyncio.create_task(road.client(asyncio.Event()))
    await road.waits.wait()
    await world.kills.kill(kill("user", "user:idp/paul"), about=None)
    assert (await ended(call)).code is Code.REVOKED
    assert [outcome.status for outcome in road.outcomes] == [OutcomeStatus.INTERRUPTED]


async def test_an_upstream_hop_that_swallows_the_end_releases_nothing_afterwards(world: World) -> None:
    await world.kills.refresh()
    road = Road(world, stubborn=True)
    call = asyncio.create_task(road.client())
    await road.waits.wait()
    await world.kills.kill(kill("user", "user:idp/paul"), about=None)
    assert (await ended(call)).code is Code.REVOKED


async def test_a_kill_between_the_first_look_and_the_forward_stops_the_call_before_it_is_sent(world: World) -> None:
    await world.kills.refresh()
    road = Road(world, kill_at_intent=True)
    assert (await ended(asyncio.create_task(road.client()))).code is Code.REVOKED
    assert road.forwarded == []
    assert [outcome.status for outcome in road.outcomes] == [OutcomeStatus.INTERRUPTED]


async def test_somebody_elses_kill_does_not_touch_a_call(world: World) -> None:
    await world.kills.refresh()
    road = Road(world)
    call = asyncio.create_task(road.client())
    await road.waits.wait()
    for kind, target in OTHERS:
        await world.kills.kill(kill(kind, target), about=None)
    assert not call.done()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):  # a client that hangs up is still one that hangs up
        await call
    assert road.outcomes[0].detail == ""


async def test_a_client_that_hangs_up_at_the_same_moment_keeps_its_cancellation(world: World) -> None:
    await world.kills.refresh()
    road = Road(world)
    call = asyncio.create_task(road.client())
    await road.waits.wait()
    world.kills.running.end(lambda _: Refused(Code.REVOKED))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_what_is_under_way_ends_once_nobody_knows_who_is_alive(world: World) -> None:
    await world.kills.refresh()
    road = Road(world)
    call = asyncio.create_task(road.client())
    await road.waits.wait()
    await world.worker.close()
    await world.kills.refresh()
    assert not call.done()  # what was read is still young
    world.now = 60
    await world.kills.refresh()
    assert (await ended(call)).code is Code.INTERNAL_ERROR


async def test_a_row_that_somebody_else_wrote_is_found_by_looking_again(world: World) -> None:
    await world.kills.refresh()
    road = Road(world)
    call = asyncio.create_task(road.client())
    await road.waits.wait()
    await KillRows(world.worker).add(kill("grant", "g-1"))
    world.kills.start()
    world.kills.wake()
    assert (await ended(call)).code is Code.REVOKED


async def test_what_is_sent_to_a_killed_agent_ends_too(world: World) -> None:
    await world.kills.refresh()
    arrival = changed(ARRIVAL, protocol="a2a", target="clerk")
    permit = Permit(changed(CALL, arrival=arrival, target="clerk"), PAUL, REQUEST, ALLOW)
    intent = Intent(permit, 7, model._RECORDED)
    with world.kills.watch(intent):
        pass
    await world.kills.kill(kill("agent", "agent:clerk"), about=None)
    assert refused(world) is None  # who sent it goes on
    with pytest.raises(Refused) as caught:
        world.kills.watch(intent)
    assert caught.value.code is Code.REVOKED
