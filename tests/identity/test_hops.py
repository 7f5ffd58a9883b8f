"""Agents that cannot be changed: the trace of what was handed to them says for whom they go on, and nobody else gains by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.identity.agents import new_secret
from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import Delegations
from gateway.identity.hops import MOST_OF_A_TRACE, Hops
from gateway.model import Arrival, Call, Principal, Refused, Trace, new_id
from gateway.reasons import Code
from gateway.settings import Agent, AgentAuth
from gateway.state import State
from gateway.state.sealing import Sealer

URL = "http://127.0.0.1:8080"
SECRETS = {name: new_secret(name) for name in ("clerk", "courier", "plain")}
AGENTS = {name: Agent(auth=AgentAuth(secret_sha256=(digest,), trace_ok=name != "plain")) for name, (_, digest) in SECRETS.items()}
THEIRS = "0af7651916cd43dd8448eb211c80319c"


class Gate:
    """A gateway's two ends of a hop: what is handed on, and who comes back."""

    def __init__(self, world, state: State, key: bytes = b"k" * 32) -> None:
        self.clock, self.issuer, self.state = world.clock, world.issuer, state
        self.delegations: Delegations = world.delegations
        self.hops = Hops(state.hops, world.delegations, Sealer(key, "handed hop"), key, AGENTS, world.clock)
        self.authenticator = Authenticator(
            tenant="acme", public_url=URL, issuers=(world.issuer.settings(),), agents=AGENTS, delegations=world.delegations,
            hops=self.hops, clock=world.clock, monotonic=world.clock.monotonic,
        )  # fmt: skip

    def arrival(self, credential: str, trace: str = "", *headers: tuple[str, str]) -> Arrival:
        at, parent = self.clock(), "00f067aa0ba902b7" if trace else ""
        return Arrival(
            new_id(at), "a2a", "clerk", (("authorization", f"Bearer {credential}"), *headers), b"", at,
            Trace(trace or "1" * 32, "b7ad6b7169203331", parent=parent, state="vendor=1"),
        )  # fmt: skip

    async def person(self, name: str, trace: str = "") -> tuple[Arrival, Principal]:
        arrival = self.arrival(self.issuer.issue(name, [f"{name}s"]), trace)
        return arrival, await self.authenticator(arrival)

    async def hand(self, arrival: Arrival, principal: Principal, agent: str = "clerk") -> Trace:
        """What A2A's road does: mint, hand over, send under a trace."""
        call = Call(arrival, "SendMessage", agent, None, arrival.trace)
        await self.hops.hand(call, self.delegations.mint(principal, agent, arrival.id))
        return self.hops.trace(call)

    async def back(self, agent: str, trace: str = "", *headers: tuple[str, str]) -> Principal:
        return await self.authenticator(self.arrival(SECRETS[agent][0], trace, *headers))


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    opened = State.open(f"sqlite:///{tmp_path}/state.db")
    yield opened
    await opened.close()


@pytest.fixture
def gate(world, state: State) -> Gate:
    return Gate(world, state)


async def refused(awaitable) -> Refused:
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value


async def test_an_agent_goes_on_for_the_person_whose_call_it_was_handed(gate) -> None:
    arrival, paul = await gate.person("paul")
    trace = await gate.hand(arrival, paul)
    clerk = await gate.back("clerk", trace.trace_id)
    assert (clerk.subject, clerk.actors, clerk.groups) == ("user:dev/paul", ("agent:clerk",), {"pauls"})
    assert (clerk.workflow, clerk.ends, clerk.tenant) == (paul.workflow, paul.ends, "acme")
    assert (clerk.method, clerk.assurance, clerk.caused_by) == ("trace+secret", "correlated", arrival.id)


async def test_correlation_says_exactly_what_the_delegation_token_would_have_said(gate) -> None:
    arrival, paul = await gate.person("paul")
    paul = replace(paul, scope=("erp.read",), acr="gold", assurance="pop", issued=paul.issued - 5)
    call = Call(arrival, "SendMessage", "clerk", None, arrival.trace)
    token = gate.delegations.mint(paul, "clerk", arrival.id)
    await gate.hops.hand(call, token)
    shown = await gate.authenticator(gate.arrival(SECRETS["clerk"][0], "", ("bailiwick-delegation", token)))
    found = await gate.back("clerk", gate.hops.trace(call).trace_id)
    assert replace(found, method=shown.method, assurance=shown.assurance) == shown
    assert (found.scope, found.acr, found.path) == (("erp.read",), "gold", (found.jti,))


async def test_a_second_hop_of_correlated_calls_keeps_the_person_and_stays_correlated(gate) -> None:
    first = await gate.back("clerk", (await gate.hand(*await gate.person("paul"))).trace_id)
    at = gate.arrival(SECRETS["clerk"][0])
    second = await gate.back("courier", (await gate.hand(at, first, "courier")).trace_id)
    assert second.actors == ("agent:clerk", "agent:courier")
    assert (second.subject, second.assurance, second.workflow) == ("user:dev/paul", "correlated", first.workflow)
    shown = gate.delegations.mint(second, "plain", "c")  # an agent that shows its token does not wash it clean
    third = await gate.back("plain", "", ("bailiwick-delegation", shown))
    assert (third.method, third.assurance) == ("delegation+secret", "correlated")


async def test_it_counts_as_long_as_the_token_would_have_lived(gate) -> None:
    trace = await gate.hand(*await gate.person("paul"))
    gate.clock.advance(299)
    assert (await gate.back("clerk", trace.trace_id)).subject == "user:dev/paul"
    gate.clock.advance(1)
    assert (await gate.back("clerk", trace.trace_id)).subject == "svc:clerk"


async def test_without_a_match_an_agent_is_a_service_of_its_own(gate) -> None:
    await gate.hand(*await gate.person("paul"))
    for trace in ("", THEIRS):
        clerk = await gate.back("clerk", trace)
        assert (clerk.subject, clerk.groups, clerk.method, clerk.assurance) == ("svc:clerk", frozenset(), "secret", "bearer")


async def test_another_agent_gains_nothing_by_the_trace(gate) -> None:
    trace = await gate.hand(*await gate.person("paul"))
    assert (await gate.back("courier", trace.trace_id)).subject == "svc:courier"
    assert (await gate.back("plain", trace.trace_id)).subject == "svc:plain"
    stranger = gate.arrival("bws_clerk_" + "A" * 43, trace.trace_id)
    assert (await refused(gate.authenticator(stranger))).code is Code.INVALID_CREDENTIAL


async def test_an_agent_whose_settings_do_not_say_so_keeps_its_trace_and_is_not_correlated(gate) -> None:
    arrival, paul = await gate.person("paul", THEIRS)
    trace = await gate.hand(arrival, paul, "plain")
    assert trace == arrival.trace
    assert (await gate.back("plain", trace.trace_id)).subject == "svc:plain"


async def test_a_delegation_that_is_shown_goes_before_the_trace(gate) -> None:
    trace = await gate.hand(*await gate.person("paul"))
    token = gate.delegations.mint((await gate.person("mia"))[1], "clerk", "c")
    assert (await gate.back("clerk", trace.trace_id, ("bailiwick-delegation", token))).subject == "user:dev/mia"


async def test_the_persons_own_token_under_the_trace_is_the_persons_own(gate) -> None:
    trace = await gate.hand(*await gate.person("paul"))
    _, mia = await gate.person("mia", trace.trace_id)
    assert (mia.subject, mia.actors) == ("user:dev/mia", ())


async def test_no_caller_chooses_or_foresees_the_trace_under_which_its_call_goes_on(gate, world, state: State) -> None:
    arrival, paul = await gate.person("paul", THEIRS)
    trace = await gate.hand(arrival, paul)
    assert trace.trace_id != THEIRS
    assert (trace.parent, trace.state) == ("", "")
    assert trace.span_id == arrival.trace.span_id
    call = Call(arrival, "SendMessage", "clerk", None, arrival.trace)
    assert gate.hops.trace(call) == trace  # on every replica
    assert (
        Gate(world, state, b"x" * 32).hops.trace(call).trace_id != trace.trace_id
    )  # the call's id, which its caller knows, is not enough


async def test_a_caller_who_reuses_another_persons_trace_gains_nothing_and_takes_nothing(gate) -> None:
    """Mia knows the trace of Paul's client, and the one under which his call went on; the agent works for both."""
    pauls = await gate.hand(*await gate.person("paul", THEIRS))
    for known in (THEIRS, pauls.trace_id):
        mias = await gate.hand(*await gate.person("mia", known))
        assert mias.trace_id not in {known, pauls.trace_id}
        assert (await gate.back("clerk", mias.trace_id)).subject == "user:dev/mia"
    assert (await gate.back("clerk", pauls.trace_id)).subject == "user:dev/paul"
    assert (await gate.back("clerk", THEIRS)).subject == "svc:clerk"


async def planted(gate, person: str, call: str, trace: str, **changes: object) -> None:
    """A row as a gateway would write it that did not choose the trace itself."""
    _, principal = await gate.person(person)
    token = gate.delegations.mint(replace(principal, **changes), "clerk", call)
    sealed = Sealer(b"k" * 32, "handed hop").seal(f"clerk {trace} {call}", token.encode())
    now = int(gate.clock.seconds)
    await gate.state.hops.hand("clerk", trace, call, sealed, now + 300, now)


@pytest.mark.parametrize(
    "other",
    [{}, {"workflow": "wf-" + "1" * 26}, {"scope": ("erp.read",)}, {"actors": ("agent:plain",)}, {"tenant": "other"}],
    ids=str,
)
async def test_two_hops_of_one_trace_that_differ_are_ambiguous_and_none_is_picked(gate, other: dict[str, object]) -> None:
    same = {"workflow": "wf-" + "0" * 26}
    await planted(gate, "paul", "call-1", THEIRS, **same)
    assert (await gate.back("clerk", THEIRS)).caused_by == "call-1"
    await planted(gate, "paul", "call-2", THEIRS, **same)
    assert (await gate.back("clerk", THEIRS)).caused_by == "call-2"  # the same workflow goes on: the newest
    await planted(gate, "paul" if other else "mia", "call-3", THEIRS, **(same | other))
    refusal = await refused(gate.back("clerk", THEIRS))
    assert (refusal.code, refusal.detail) == (
        Code.INVALID_CREDENTIAL,
        "calls of different workflows were handed over under this trace",
    )


async def test_a_trace_with_more_hops_than_are_read_is_refused(gate) -> None:
    for number in range(MOST_OF_A_TRACE + 1):
        await planted(gate, "paul", f"call-{number}", THEIRS, workflow="wf-" + "0" * 26)
    assert "too many" in (await refused(gate.back("clerk", THEIRS))).detail


async def test_whoever_writes_to_the_table_makes_no_correlation(gate) -> None:
    trace = await gate.hand(*await gate.person("paul"))
    now = int(gate.clock.seconds)
    ((call, sealed),) = await gate.state.hops.handed("clerk", trace.trace_id, now)
    for agent, under, name, value in (
        ("courier", trace.trace_id, call, sealed),  # another agent
        ("clerk", THEIRS, call, sealed),  # another trace
        ("clerk", "2" * 32, "another-call", sealed),
        ("clerk", "3" * 32, call, b"\1" + b"x" * 200),
    ):
        await gate.state.hops.hand(agent, under, name, value, now + 300, now)
        assert "cannot be opened" in (await refused(gate.back(agent, under))).detail
    assert (await gate.back("clerk", trace.trace_id)).subject == "user:dev/paul"


async def test_the_table_shows_no_token_and_no_person(gate, tmp_path: Path) -> None:
    arrival, paul = await gate.person("paul")
    token = gate.delegations.mint(paul, "clerk", arrival.id)
    await gate.hops.hand(Call(arrival, "SendMessage", "clerk", None, arrival.trace), token)
    stored = b"".join((tmp_path / name).read_bytes() for name in ("state.db", "state.db-wal"))
    assert arrival.id.encode() in stored
    for secret in (token, token.split(".")[1], token.split(".")[2], "user:dev/paul"):
        assert secret.encode() not in stored


async def test_an_agent_that_left_the_settings_ends_what_was_handed_to_it(gate, monkeypatch) -> None:
    first = await gate.back("clerk", (await gate.hand(*await gate.person("paul"))).trace_id)
    trace = await gate.hand(gate.arrival(SECRETS["clerk"][0]), first, "courier")
    monkeypatch.delitem(AGENTS, "clerk")
    assert "not registered" in (await refused(gate.back("courier", trace.trace_id))).detail


async def test_what_was_handed_counts_no_more_once_the_settings_say_so(gate, monkeypatch) -> None:
    trace = await gate.hand(*await gate.person("paul"))
    auth = AGENTS["clerk"].auth.model_copy(update={"trace_ok": False})
    monkeypatch.setitem(AGENTS, "clerk", Agent(auth=auth))
    assert (await gate.back("clerk", trace.trace_id)).subject == "svc:clerk"
