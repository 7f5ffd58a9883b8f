"""Tokens that were got for others: fetched once, kept apart, never beyond their end; people's tokens, kept sealed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.access import Access
from gateway.identity.fetched import EARLY_SECONDS, MAX_FLIGHTS, Fetched, Key
from gateway.identity.oauthclient import Token
from gateway.identity.subjects import Subjects
from gateway.model import Principal, Refused
from gateway.reasons import Code
from gateway.state.store import State

Fetch = Callable[[], Awaitable[Token]]
START = 1_800_000_000
NEVER = 1 << 40


class Clock:
    def __init__(self) -> None:
        self.seconds = START

    def __call__(self) -> int:
        return self.seconds * 1_000_000


class Server:
    """Gives `t1`, `t2` …; waits where it is told to, fails where it is told to."""

    def __init__(self, clock: Clock, lifetime: int = 300) -> None:
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()
        self.fails = False
        self._clock = clock
        self._lifetime = lifetime

    async def __call__(self) -> Token:
        self.asked += 1
        name = f"t{self.asked}"
        await self.open.wait()
        if self.fails:
            raise Refused(Code.CREDENTIAL_UNAVAILABLE)
        return Token(name, "bearer", self._clock.seconds + self._lifetime, "")


async def test_many_calls_at_once_ask_once_and_one_that_hangs_up_takes_it_from_nobody() -> None:
    clock = Clock()
    tokens, server = Fetched(clock), Server(clock)
    server.open.clear()
    waiting = [asyncio.create_task(tokens.get(("a",), server, NEVER)) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    server.open.set()
    assert set(await asyncio.gather(*waiting[1:])) == {"t1"}
    assert server.asked == 1
    await tokens.aclose()


async def test_a_failure_is_told_to_all_who_wait_and_the_next_call_asks_anew() -> None:
    clock = Clock()
    tokens, server = Fetched(clock), Server(clock)
    server.fails = True
    told = await asyncio.gather(*(tokens.get(("a",), server, NEVER) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [Refused] * 3
    assert len({id(each) for each in told}) == 3  # a refusal says whose call it befell: one for all would name one of them
    assert server.asked == 1
    server.fails = False
    assert await tokens.get(("a",), server, NEVER) == "t2"


async def test_a_failure_that_nobody_waits_for_any_more_disturbs_nobody() -> None:
    clock = Clock()
    tokens, server = Fetched(clock), Server(clock)
    server.fails = True
    server.open.clear()
    waiting = asyncio.create_task(tokens.get(("a",), server, NEVER))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    server.open.set()
    server.fails = False
    assert await tokens.get(("a",), server, NEVER) == "t1"


async def test_a_token_is_fetched_again_before_it_ends_and_never_used_beyond_the_persons_time() -> None:
    clock = Clock()
    tokens, server = Fetched(clock), Server(clock)
    assert await tokens.get(("a",), server, NEVER) == "t1"
    clock.seconds += 300 - EARLY_SECONDS - 1
    assert await tokens.get(("a",), server, NEVER) == "t1"
    clock.seconds += 1
    assert await tokens.get(("a",), server, clock.seconds + 10) == "t2"
    clock.seconds += 10
    assert await tokens.get(("a",), server, clock.seconds + 10) == "t3"


async def test_only_the_very_token_that_was_not_taken_is_forgotten() -> None:
    clock = Clock()
    tokens, server = Fetched(clock), Server(clock)
    await tokens.get(("a",), server, NEVER)
    tokens.drop(("a",), "an older one")
    assert await tokens.get(("a",), server, NEVER) == "t1"
    tokens.drop(("a",), "t1")
    assert await tokens.get(("a",), server, NEVER) == "t2"


async def test_tokens_and_questions_are_bounded() -> None:
    clock = Clock()
    tokens, server = Fetched(clock, most=3), Server(clock)
    for name in "abcd":
        await tokens.get((name,), server, NEVER)
    assert await tokens.get(("b",), server, NEVER) == "t2"
    assert await tokens.get(("a",), server, NEVER) == "t5"  # the oldest had to go
    server.open.clear()
    waiting = [asyncio.create_task(tokens.get(("mcp.a", str(n)), server, NEVER)) for n in range(MAX_FLIGHTS)]
    await asyncio.sleep(0)
    with pytest.raises(Refused) as refused:
        await tokens.get(("mcp.a", "one more"), server, NEVER)
    assert refused.value.code is Code.OVERLOADED
    assert await tokens.get(("mcp.b", "one more"), Server(clock), NEVER) == "t1"  # whose server answers
    await tokens.aclose()
    await asyncio.gather(*waiting, return_exceptions=True)


KEYS = st.tuples(st.sampled_from(["mcp.a", "mcp.b"]), st.sampled_from(["x", "y"]), st.sampled_from(["paul", "mia"]))
STEPS = st.lists(st.tuples(KEYS, st.integers(0, 60)), min_size=8, max_size=30)


async def _played(tokens: Fetched, clock: Clock, steps: list[tuple[Key, int]]) -> int:
    """Every step's token is the one of its key, and still counts; how many were not fetched for the very step."""
    ends: dict[str, int] = {}
    remembered = 0
    for number, (key, passed) in enumerate(steps):
        clock.seconds += passed

        async def fetch(key: Key = key, number: int = number) -> Token:
            text = f"{'/'.join(key)}#{number}"
            ends[text] = clock.seconds + 100
            return Token(text, "bearer", ends[text], "")

        got = await tokens.get(key, fetch, NEVER)
        assert got.partition("#")[0] == "/".join(key)
        assert ends[got] > clock.seconds
        remembered += got != f"{'/'.join(key)}#{number}"
    return remembered


@given(STEPS)
async def test_whatever_the_order_nobody_is_given_what_was_got_for_another_or_has_ended(steps: list[tuple[Key, int]]) -> None:
    clock = Clock()
    await _played(Fetched(clock, most=4), clock, steps)


async def test_the_steps_that_are_played_are_not_vacuous() -> None:
    played = [step for _ in range(40) for step in [(("mcp.a", "x", "paul"), 5), (("mcp.b", "x", "mia"), 40)]]
    clock = Clock()
    assert await _played(Fetched(clock), clock, played) > len(played) // 3


class _ForgetsThePerson(Fetched):
    async def get(self, key: Key, fetch: Fetch, ends: int) -> str:
        return await super().get(key[:2], fetch, ends)


class _ForgetsTheUpstream(Fetched):
    async def get(self, key: Key, fetch: Fetch, ends: int) -> str:
        return await super().get(key[1:], fetch, ends)


class _ForgetsTheEnd(Fetched):
    async def get(self, key: Key, fetch: Fetch, ends: int) -> str:
        async def endless() -> Token:
            return replace(await fetch(), until=NEVER)

        return await super().get(key, endless, ends)


@pytest.mark.parametrize("broken", [_ForgetsThePerson, _ForgetsTheUpstream, _ForgetsTheEnd])
async def test_a_planted_bug_shows(broken: type[Fetched]) -> None:
    who = [("mcp.a", "x", "paul"), ("mcp.a", "x", "mia"), ("mcp.b", "x", "paul")]
    clock = Clock()
    with pytest.raises(AssertionError):
        await _played(broken(clock), clock, [(key, 60) for _ in range(3) for key in who])


def access(**changes: object) -> Access:
    said: dict[str, object] = {
        "subject": "user:idp/paul", "actors": (), "groups": frozenset(), "workflow": "wf-1", "ends": START + 600, "jti": "",
        "tenant": "acme", "issued": START, "issuer": "idp",
    }  # fmt: skip
    return Access(**(said | changes))  # type: ignore[arg-type]  a table of what a test changes


def principal(**changes: str) -> Principal:
    said: dict[str, object] = {
        "subject": "user:idp/paul", "actors": (), "tenant": "acme", "workflow": "wf-1", "ends": START + 600, "method": "bearer",
        "credential": "",
    }  # fmt: skip
    return Principal(**(said | changes))  # type: ignore[arg-type]  as above


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    opened = await asyncio.to_thread(State.open, f"sqlite:///{tmp_path / 'state.db'}")
    yield opened
    await opened.close()


def subjects(state: State, seal: bytes = b"k" * 32) -> Subjects:
    return Subjects(state.subject_tokens, seal, Clock(), frozenset({"idp"}))


async def test_a_persons_token_is_kept_for_their_workflow_and_only_sealed(state: State, tmp_path: Path) -> None:
    await subjects(state).keep(access(), "the.persons.token")
    assert await subjects(state).get(principal(), "idp") == "the.persons.token"
    await state.close()
    written = await asyncio.to_thread(lambda: b"".join(path.read_bytes() for path in tmp_path.iterdir()))
    assert b"persons" not in written


@pytest.mark.parametrize(
    ("who", "issuer"),
    [
        (principal(workflow="wf-2"), "idp"),
        (principal(subject="user:idp/mia"), "idp"),
        (principal(tenant="other"), "idp"),
        (principal(subject="svc:clerk"), "idp"),
        (principal(), "another"),
    ],
)
async def test_a_kept_token_is_for_nobody_else_and_for_no_other_issuer(state: State, who: Principal, issuer: str) -> None:
    await subjects(state).keep(access(), "the.persons.token")
    with pytest.raises(Refused) as refused:
        await subjects(state).get(who, issuer)
    assert refused.value.code is Code.CREDENTIAL_UNAVAILABLE


async def test_a_token_that_no_upstream_needs_is_not_kept(state: State) -> None:
    for unwanted in (access(issuer="another"), access(subject="svc:clerk")):
        await subjects(state).keep(unwanted, "the.persons.token")
        assert await state.subject_tokens.get("wf-1", START) is None


async def test_a_row_that_was_moved_or_sealed_by_another_key_is_refused(state: State) -> None:
    await subjects(state).keep(access(), "the.persons.token")
    sealed = await state.subject_tokens.get("wf-1", START)
    assert sealed is not None
    await state.subject_tokens.keep("wf-2", sealed, START + 60, START)
    with pytest.raises(Refused):
        await subjects(state).get(principal(workflow="wf-2"), "idp")
    with pytest.raises(Refused):
        await subjects(state, b"x" * 32).get(principal(), "idp")


async def test_the_persons_token_ends_with_their_time(state: State) -> None:
    await subjects(state).keep(access(ends=START), "the.persons.token")
    with pytest.raises(Refused):
        await subjects(state).get(principal(), "idp")


def test_what_is_shown_of_a_token_is_not_the_token() -> None:
    token = Token("the.persons.token", "bearer", START, "")
    assert "persons" not in repr(token)
    assert "persons" not in repr(replace(token, until=0))
