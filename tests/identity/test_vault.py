"""What a person let the gateway keep: refreshed by one replica at a time, forgotten when taken back, opened for nobody else."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from audit.model import Entry, LedgerUnavailableError
from gateway.identity.client import OAuthClient
from gateway.identity.consent import ANEW_SECONDS, TICKET_SECONDS, ConsentError, Consents
from gateway.identity.discovery import Discovery
from gateway.identity.keys import KeySet
from gateway.identity.login import Login
from gateway.identity.marks import Marks
from gateway.identity.token_request import TokenRequests
from gateway.identity.vault import EARLY_SECONDS, LEASE_SECONDS, ForgottenError, Held, Provider, Vault
from gateway.identity.vault_oauth import VaultOauth
from gateway.model import Arrival, Call, Permit, Principal, Refused, Trace
from gateway.reasons import Code
from gateway.settings_base import Client, Secret
from gateway.state import State
from gateway.state.sealing import Sealer
from gateway.state.vault import Key
from gateway.upstream.client import Upstreams
from policies.model import AccessRequest, Decision, Effect, Reason
from tests.interaction.consent_world import NOTES, Servers, servers

NOW = 1_800_000_000
PAUL, MIA = (Key("acme", f"user:corp/{name}", "notes") for name in ("paul", "mia"))
SEAL = b"k" * 32


class Clock:
    """One for every replica of a test."""

    def __init__(self) -> None:
        self.seconds = NOW
        self.looks = 0

    def __call__(self) -> int:
        return self.seconds * 1_000_000

    def monotonic(self) -> float:
        self.looks += 1  # whoever begins to refresh looks at it, and whoever waits for another replica
        return self.seconds


Replica = Callable[..., Awaitable[Vault]]


@pytest.fixture
def notes() -> Iterator[Servers]:
    with servers() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorded() -> list[Entry]:
    return []


@pytest.fixture
async def replica(tmp_path: Path, notes: Servers, clock: Clock, recorded: list[Entry]) -> AsyncIterator[Replica]:
    """Makes replicas: each with its own connection to the one database, and to the authorization server."""
    closing: list[Callable[[], Awaitable[None]]] = []

    async def record(entry: Entry) -> None:
        recorded.append(entry)

    async def make(append: Callable[[Entry], Awaitable[None]] = record, url: str = "", seal: bytes = SEAL) -> Vault:
        state = await asyncio.to_thread(State.open, f"sqlite:///{tmp_path}/state.db")
        upstreams = Upstreams()
        client = OAuthClient(Client(id=NOTES[0], secret=Secret(env="NOTES")), {"NOTES": NOTES[1]})
        ask = partial(TokenRequests(client, upstreams, clock).ask, url or f"{notes.url}/as/token")
        provider = Provider("notes", f"{notes.url}/as/authorize", NOTES[0], ask)
        vault = Vault(state.vaulted, Sealer(seal, "vault"), {"notes": provider}, append, clock, clock.monotonic)
        closing.extend((vault.close, upstreams.aclose, state.close))
        return vault

    yield make
    for close in closing:
        await close()


def given(notes: Servers, key: Key = PAUL, **more: Any) -> Held:
    """What the server gave when the person consented."""
    refresh = f"rt-of-{key.subject}"
    notes.refresh[refresh] = key.subject
    answer = {"access_token": "at-first", "refresh_token": refresh, "token_type": "bearer", "expires_in": 600, **more}
    return Held.of(answer, NOW)


async def test_a_token_is_used_until_shortly_before_its_end_and_refreshed_then(
    replica: Replica, notes: Servers, clock: Clock
) -> None:
    vault = await replica()
    await vault.keep(PAUL, given(notes))
    clock.seconds += 600 - EARLY_SECONDS - 1
    assert await vault.token(PAUL) == "at-first"
    assert notes.requests == []
    clock.seconds += 1
    fresh = await vault.token(PAUL)
    assert notes.access[fresh] == PAUL.subject
    assert [form["refresh_token"] for form in notes.requests] == [f"rt-of-{PAUL.subject}"]
    clock.seconds += 3600
    assert await vault.token(PAUL) != fresh  # with the refresh token that came with it: rotation is kept
    assert notes.requests[-1]["refresh_token"] != f"rt-of-{PAUL.subject}"


async def test_of_two_replicas_that_need_a_refresh_at_once_one_asks_and_both_have_its_answer(
    replica: Replica, notes: Servers, clock: Clock
) -> None:
    """Were both to ask, the server would take the second for a thief, and all of the person's tokens back."""
    one, other = await replica(), await replica()
    await one.keep(PAUL, given(notes))
    clock.seconds += 601
    came, go = [], threading.Event()

    def hold(form: dict[str, str]) -> None:
        came.append(form)
        assert go.wait(30)

    notes.before = hold
    waiting = [asyncio.create_task(vault.token(PAUL)) for vault in (one, other) * 8]
    async with asyncio.timeout(30):
        while not came or (clock.looks < 3 and len(came) < 2):  # noqa: ASYNC110  one asks, and the other has seen that it does
            await asyncio.sleep(0.01)  # said by a thread and by another's clock: no event of ours
    assert not any(task.done() for task in waiting)
    go.set()
    assert len(set(await asyncio.gather(*waiting))) == 1
    assert len(notes.requests) == 1
    assert notes.spent == {f"rt-of-{PAUL.subject}"}


async def test_a_replica_that_died_while_it_refreshed_holds_up_the_others_for_its_lease_alone(
    replica: Replica, notes: Servers, clock: Clock
) -> None:
    one, other = await replica(), await replica()
    await one.keep(PAUL, given(notes))
    clock.seconds += 601
    came, go = threading.Event(), threading.Event()

    def hold(_form: dict[str, str]) -> None:
        if not came.is_set():
            came.set()
            assert go.wait(30)
            raise ConnectionAbortedError  # its answer reaches nobody

    notes.before = hold
    dying = asyncio.create_task(one.token(PAUL))
    assert await asyncio.to_thread(came.wait, 30)
    await one.close()
    with pytest.raises(asyncio.CancelledError):
        await dying
    clock.seconds += LEASE_SECONDS
    go.set()
    assert notes.access[await other.token(PAUL)] == PAUL.subject


async def test_what_the_server_takes_back_is_forgotten_and_on_record(
    replica: Replica, notes: Servers, clock: Clock, recorded: list[Entry]
) -> None:
    vault = await replica()
    await vault.keep(PAUL, given(notes))
    notes.refresh.clear()
    clock.seconds += 601
    for _ in range(2):
        with pytest.raises(ForgottenError):
            await vault.token(PAUL)
    assert [(entry.kind, entry.subject, entry.fields["why"]) for entry in recorded] == [
        ("vault.forget", PAUL.subject, "taken back")
    ]
    assert await vault.listed(PAUL.tenant, PAUL.subject) == []


async def test_a_server_that_cannot_be_asked_costs_the_call_and_not_the_credential(
    replica: Replica, notes: Servers, clock: Clock, recorded: list[Entry]
) -> None:
    away, there = await replica(url="http://127.0.0.1:9/token"), await replica()
    await there.keep(PAUL, given(notes))
    clock.seconds += 601
    with pytest.raises(Refused) as refused:
        await away.token(PAUL)
    assert refused.value.code is Code.CREDENTIAL_UNAVAILABLE
    assert f"rt-of-{PAUL.subject}" not in str(refused.value)
    assert notes.access[await there.token(PAUL)] == PAUL.subject  # at once: the lease was let go
    assert recorded == []


async def test_each_caller_that_waited_is_refused_by_a_refusal_of_its_own(replica: Replica, notes: Servers, clock: Clock) -> None:
    """A refusal says whose call it befell; one for all would tell one call's story in another's record."""
    vault = await replica(url="http://127.0.0.1:9/token")
    await vault.keep(PAUL, given(notes))
    clock.seconds += 601
    refusals = await asyncio.gather(*[vault.token(PAUL) for _ in range(4)], return_exceptions=True)
    assert all(isinstance(each, Refused) for each in refusals)
    assert len({id(each) for each in refusals}) == 4


async def test_what_was_forgotten_while_it_was_refreshed_stays_forgotten(replica: Replica, notes: Servers, clock: Clock) -> None:
    vault, other = await replica(), await replica()
    await vault.keep(PAUL, given(notes))
    clock.seconds += 601
    loop, gone = asyncio.get_running_loop(), threading.Event()

    async def forget() -> None:
        assert await other.forget(PAUL, "asked for")
        gone.set()

    def meanwhile(_form: dict[str, str]) -> None:
        asyncio.run_coroutine_threadsafe(forget(), loop)
        assert gone.wait(30)

    notes.before = meanwhile
    with pytest.raises(ForgottenError):
        await vault.token(PAUL)
    assert await other.listed(PAUL.tenant, PAUL.subject) == []


async def test_a_token_that_the_upstream_does_not_take_is_refreshed_though_its_end_is_far(
    replica: Replica, notes: Servers
) -> None:
    vault = await replica()
    await vault.keep(PAUL, given(notes))
    assert await vault.worn(PAUL, "at-first")
    fresh = await vault.token(PAUL)
    assert fresh != "at-first"
    assert await vault.worn(PAUL, "at-first")  # a late 401 for the old one costs the new one nothing
    assert await vault.token(PAUL) == fresh
    assert not await vault.worn(MIA, "at-first")


async def test_without_a_refresh_token_the_person_is_asked_again_when_it_has_ended(
    replica: Replica, notes: Servers, clock: Clock, recorded: list[Entry]
) -> None:
    vault = await replica()
    await vault.keep(PAUL, given(notes, refresh_token=""))
    assert await vault.token(PAUL) == "at-first"
    clock.seconds += 601
    with pytest.raises(ForgottenError):
        await vault.token(PAUL)
    assert recorded[-1].fields["why"] == "ended"


async def test_a_row_that_somebody_moved_to_another_person_opens_for_nobody(
    replica: Replica, notes: Servers, tmp_path: Path, recorded: list[Entry]
) -> None:
    """Whoever may write to the database cannot make mia's calls with paul's account."""
    vault = await replica()
    await vault.keep(PAUL, given(notes))
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("update vault_tokens set subject = ?", (MIA.subject,))
    database.close()
    with pytest.raises(ForgottenError):
        await vault.token(MIA)
    assert recorded[-1].fields["why"] == "unreadable"
    assert notes.requests == []


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("state.db*"))


async def test_a_thief_of_the_database_finds_no_token_in_it(replica: Replica, notes: Servers, tmp_path: Path) -> None:
    vault = await replica()
    await vault.keep(PAUL, given(notes))
    found = stored(tmp_path)
    assert PAUL.subject.encode() in found  # who has an account where can be seen
    assert b"at-first" not in found
    assert b"rt-of" not in found


async def test_what_cannot_be_recorded_is_not_forgotten(replica: Replica, notes: Servers) -> None:
    async def gone(_entry: Entry) -> None:
        raise LedgerUnavailableError("the disk is full")

    vault = await replica(append=gone)
    await vault.keep(PAUL, given(notes))
    with pytest.raises(Refused) as refused:
        await vault.forget(PAUL, "asked for")
    assert refused.value.code is Code.LEDGER_UNAVAILABLE
    assert await vault.token(PAUL) == "at-first"


@pytest.mark.parametrize(
    "answer",
    [
        {"token_type": "mac"},
        {"token_type": None},
        {"access_token": ""},
        {"access_token": "two words"},
        {"access_token": "line\r\nSet-Cookie: a=b"},
        {"access_token": "x" * 8193},
        {"access_token": 7},
        {"refresh_token": "a\nb"},
        {"refresh_token": None},
        {"expires_in": True},
        {"expires_in": -1},
        {"expires_in": "600"},
        {"expires_in": 1.5},
        {"scope": ["a"]},
        {"scope": "a\x00b"},
    ],
    ids=str,
)
def test_an_answer_that_is_no_token_response_is_not_kept(answer: dict[str, Any]) -> None:
    good = {"access_token": "a", "refresh_token": "r", "token_type": "Bearer", "expires_in": 60}
    assert Held.of(good, NOW).until == NOW + 45
    with pytest.raises(Refused) as refused:
        Held.of(good | answer, NOW)
    assert refused.value.code is Code.CREDENTIAL_UNAVAILABLE


def permit_of(subject: str) -> Permit:
    trace = Trace("0" * 31 + "1", "0" * 15 + "1")
    arrival = Arrival("c", "mcp", "notes", (), b"", NOW * 1_000_000, trace)
    principal = Principal(subject, (), "acme", "wf", NOW + 60, method="bearer", credential="0", issued=NOW)
    request = AccessRequest(subject, (), "acme", "call", "notes.read", NOW * 1_000_000)
    call = Call(arrival, "tools/call", "notes", {}, trace)
    return Permit.of(call, principal, request, Decision(Effect.ALLOW, Reason.ALLOWED, bundle=""))


@pytest.fixture
async def strategy(replica: Replica, notes: Servers, clock: Clock, tmp_path: Path) -> AsyncIterator[VaultOauth]:
    """With a login that is never asked: a link needs nobody's network."""
    vault = await replica()
    state = await asyncio.to_thread(State.open, f"sqlite:///{tmp_path}/state.db")
    upstreams = Upstreams()
    discovery = Discovery(notes.issuer, upstreams.fetch)
    requests = TokenRequests(OAuthClient(Client(id="browser"), {}), upstreams, clock)
    login = Login("corp", notes.issuer, "browser", frozenset({"ES256"}), discovery, KeySet(discovery.keys), requests.ask)
    sealer = Sealer(SEAL, "consent")

    async def record(_entry: Entry) -> None:
        pass

    marks = Marks(SEAL)
    consents = Consents("https://gateway.example", state.tickets, sealer, marks, login, vault, record, lambda _: None, clock)
    yield VaultOauth(vault.providers["notes"], vault, consents)
    await login.close()
    await upstreams.aclose()
    await state.close()


async def test_only_people_of_the_issuer_at_which_they_can_log_in_are_asked(strategy: VaultOauth) -> None:
    with pytest.raises(Refused) as asked:
        await strategy.for_call(permit_of(PAUL.subject))
    assert asked.value.code is Code.CONSENT_REQUIRED
    assert str(asked.value.data["url"]).startswith("https://gateway.example/vault/")
    assert str(asked.value.data["url"]) not in str(asked.value)  # what the ledger gets
    for subject in ("svc:night-clerk", "user:other/paul", "user:corporate/paul", "user:corp"):
        with pytest.raises(Refused) as refused:
            await strategy.for_call(permit_of(subject))
        assert refused.value.code is Code.CREDENTIAL_UNAVAILABLE
        assert not refused.value.data


async def test_a_link_takes_anothers_place_in_the_second_half_of_its_life_and_one_is_good_at_a_time(
    strategy: VaultOauth, clock: Clock
) -> None:
    async def link() -> str:
        with pytest.raises(Refused) as asked:
            await strategy.for_call(permit_of(PAUL.subject))
        return str(asked.value.data["url"])

    first = await link()
    clock.seconds += ANEW_SECONDS - 1
    assert await link() == first
    clock.seconds += 1
    second = await link()
    assert second != first
    with pytest.raises(ConsentError) as refused:
        await strategy._consents.enter(first.rpartition("/")[2])
    assert refused.value.why == "link"
    clock.seconds += TICKET_SECONDS
    with pytest.raises(ConsentError):
        await strategy._consents.enter(second.rpartition("/")[2])


async def test_what_the_upstream_refuses_is_worn_and_the_next_call_shows_another(
    strategy: VaultOauth, replica: Replica, notes: Servers
) -> None:
    await (await replica()).keep(PAUL, given(notes))
    permit = permit_of(PAUL.subject)
    lines, kind = await strategy.for_call(permit)
    assert (lines, kind) == (((b"authorization", b"Bearer at-first"),), "person")
    assert await strategy.rejected(replace(permit, credentials=lines))
    (other,), _ = await strategy.for_call(permit)
    assert notes.access[other[1].removeprefix(b"Bearer ").decode()] == PAUL.subject


def test_a_text_that_was_not_made_here_is_told_from_ours() -> None:
    marks, others = Marks(b"a" * 32), Marks(b"b" * 32)
    text = marks.fresh()
    assert marks.made(text)
    assert len({marks.fresh() for _ in range(100)}) == 100
    flipped = [text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :] for at in range(len(text))]
    for other in (*flipped, others.fresh(), text[:-1], text + "A", "", "é" * 64, text[:-1] + "="):
        assert not marks.made(other)


def test_a_token_is_never_shown_by_its_holders() -> None:
    held = Held.of({"access_token": "at-secret", "refresh_token": "rt-secret", "token_type": "Bearer"}, NOW)
    assert "secret" not in repr(held)
    assert VaultOauth.personal
