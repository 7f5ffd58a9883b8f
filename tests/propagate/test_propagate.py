"""What an agent shows with its calls: the delegation of the request that it serves, to the gateway and to nobody else."""

from __future__ import annotations

import asyncio
import contextvars
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gateway import propagate
from gateway.propagate import Carrier, Delegation, DelegationMiddleware, NoDelegationError, served, serving
from tests.interaction.world import ROOT
from tests.mcp.world import serving as listening
from tests.propagate.world import Server, server, token

TRACE = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
PAUL = Delegation(token("paul"), TRACE)
CLIENTS: dict[str, Any] = {
    "httpx": httpx.AsyncClient, "httpx2": httpx2.AsyncClient, "httpx sync": httpx.Client, "httpx2 sync": httpx2.Client,
}  # fmt: skip


@pytest.fixture
def gateway() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=CLIENTS)
def send(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """(carrier, url, headers…) → nothing: one POST by a client that follows redirects."""
    kind = CLIENTS[request.param]

    async def post(carrier: Carrier, url: str, **headers: str) -> None:
        common: dict[str, Any] = {"follow_redirects": True, "trust_env": False, "timeout": 20}
        if "sync" in request.param:
            with kind(event_hooks=carrier.sync_hooks, **common) as client:
                client.post(url, content=b"{}", headers=headers)
        else:
            async with kind(event_hooks=carrier.hooks, **common) as client:
                await client.post(url, content=b"{}", headers=headers)

    return post


def shown(heard: dict[str, str]) -> dict[str, str]:
    return {name: heard[name] for name in ("authorization", "bailiwick-delegation", "traceparent") if name in heard}


async def test_a_call_to_the_gateway_shows_the_agents_credential_and_the_delegation_that_it_serves(
    gateway: Server, send: Any
) -> None:
    with serving(PAUL):
        await send(Carrier(gateway.url, "bws_secret"), f"{gateway.url}/mcp/desk")
    expected = {"authorization": "Bearer bws_secret", "bailiwick-delegation": PAUL.token, "traceparent": TRACE}
    assert [shown(heard) for heard in gateway.heard] == [expected]


async def test_an_agent_without_a_credential_of_its_own_shows_the_delegation_alone(gateway: Server, send: Any) -> None:
    with serving(Delegation(PAUL.token)):
        await send(Carrier(f"{gateway.url}/"), gateway.url)
    assert shown(gateway.heard[0]) == {"bailiwick-delegation": PAUL.token}


async def test_a_credential_that_is_made_for_each_call_is_made_for_each_call(gateway: Server, send: Any) -> None:
    made = iter(("first", "second"))
    carrier = Carrier(gateway.url, lambda: next(made))
    with serving(PAUL):
        await send(carrier, gateway.url)
        await send(carrier, gateway.url)
    assert [heard["authorization"] for heard in gateway.heard] == ["Bearer first", "Bearer second"]


async def test_what_the_agent_set_itself_is_replaced_and_its_own_trace_stays(gateway: Server, send: Any) -> None:
    own = TRACE.replace("0af7", "1111")
    with serving(PAUL):
        headers = {"Authorization": "Bearer old", "Bailiwick-Delegation": token("mia"), "traceparent": own}
        await send(Carrier(gateway.url, "new"), gateway.url, **headers)
    assert shown(gateway.heard[0]) == {"authorization": "Bearer new", "bailiwick-delegation": PAUL.token, "traceparent": own}


async def test_a_call_elsewhere_shows_nothing_and_keeps_what_the_agent_shows_there(
    gateway: Server, other: Server, send: Any
) -> None:
    with serving(PAUL):
        await send(Carrier(gateway.url, "bws_secret"), other.url)
        await send(Carrier(gateway.url, "bws_secret"), other.url, authorization="Bearer theirs")
    await send(Carrier(gateway.url, "bws_secret"), other.url)  # for nobody: that is not the gateway's affair
    assert [shown(heard) for heard in other.heard] == [{}, {"authorization": "Bearer theirs"}, {}]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_away_from_the_gateway_takes_nothing_along(
    gateway: Server, other: Server, send: Any, status: int
) -> None:
    gateway.elsewhere, gateway.status = f"{other.url}/mcp", status
    with serving(PAUL):
        await send(Carrier(gateway.url, "bws_secret"), gateway.url)
    assert len(gateway.heard) == len(other.heard) == 1
    assert set(shown(other.heard[0])) <= {"traceparent"}


async def test_a_redirect_to_the_gateway_makes_no_call_in_the_persons_name(gateway: Server, other: Server, send: Any) -> None:
    other.elsewhere = f"{gateway.url}/mcp/desk"
    with serving(PAUL):
        await send(Carrier(gateway.url, "bws_secret"), other.url)
    assert [shown(heard) for heard in gateway.heard] == [{}]


async def test_a_redirect_that_leads_away_and_back_shows_nothing_any_more(gateway: Server, other: Server, send: Any) -> None:
    gateway.elsewhere, other.elsewhere = other.url, f"{gateway.url}/mcp/desk"
    with serving(PAUL), pytest.raises((httpx.TooManyRedirects, httpx2.TooManyRedirects)):
        await send(Carrier(gateway.url, "bws_secret"), gateway.url)
    first, *after = gateway.heard
    assert first["bailiwick-delegation"] == PAUL.token
    assert not [heard for heard in (*after, *other.heard) if {"authorization", "bailiwick-delegation"} & heard.keys()]


async def test_a_redirect_within_the_gateway_shows_what_a_call_shows(gateway: Server, send: Any) -> None:
    gateway.elsewhere = f"{gateway.url}/again"
    with serving(PAUL), pytest.raises((httpx.TooManyRedirects, httpx2.TooManyRedirects)):
        await send(Carrier(gateway.url, "bws_secret"), gateway.url)
    assert {heard["bailiwick-delegation"] for heard in gateway.heard} == {PAUL.token}


SAME = (
    "https://gw.example.com/mcp/desk",
    "https://GW.example.com:443/",
    "HTTPS://gw.example.com",
    "https://gw.example.com/a?b=c#d",
)
ALIKE = (
    "http://gw.example.com/", "https://gw.example.com:8443/", "https://gw.example.com./", "https://gw.example.com.evil.net/",
    "https://evil.net/gw.example.com", "https://evil.net#gw.example.com", "https://evil.net?https://gw.example.com/",
    "https://gw.example.com@evil.net/", "https://evil.net@gw.example.com/", "https://evil.net\\@gw.example.com/",
    "https://gw.example.com\\@evil.net/", "https://gw.example.com\\.evil.net/", "https://gw-example.com/", "https://w.example.com/",
    "https://xgw.example.com/", "https://gw.example.com:443@evil.net/", "https://gw.example.com%2eevil.net/", "//gw.example.com/",
    "https:/gw.example.com/", "https:gw.example.com", "https://gw.exаmple.com/", "https://gw.example.com\t/", " https://gw.example.com/",
    "https://gw.example.com/\r\nx", "ftp://gw.example.com/", "https://[::1]/", "https://gw.example.com:0443443/", "",
)  # fmt: skip


@pytest.mark.parametrize("url", SAME)
def test_one_origin_in_all_its_spellings_is_the_gateway(url: str) -> None:
    with serving(PAUL):
        assert Carrier("https://gw.example.com", "s").headers(url)["bailiwick-delegation"] == PAUL.token


@pytest.mark.parametrize("url", ALIKE)
def test_an_address_that_looks_like_the_gateways_gets_nothing(url: str) -> None:
    with serving(PAUL):
        assert Carrier("https://gw.example.com", "s").headers(url) == {}


@pytest.mark.parametrize("kind", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("url", ALIKE)
async def test_a_client_that_reads_such_an_address_in_its_own_way_shows_nothing_to_another_host(kind: Any, url: str) -> None:
    went: list[Any] = []

    def answer(request: Any) -> Any:
        went.append(request)
        return kind.Response(200)

    hooks = Carrier("https://gw.example.com", "s").hooks
    with serving(PAUL):
        async with kind.AsyncClient(transport=kind.MockTransport(answer), event_hooks=hooks) as client:
            try:
                await client.get(url)
            except (kind.InvalidURL, kind.UnsupportedProtocol, ValueError):
                return
    for request in went:
        origin = request.url.scheme, request.url.host, request.url.port
        assert ("bailiwick-delegation" in request.headers) == (origin == ("https", "gw.example.com", None))


@pytest.mark.parametrize(
    "url", ["", "gw.example.com", "ftp://gw.example.com", "https://", "https://gw.example.com/mcp", "https://a@gw.example.com",
            "https://gw.example.com?x", "https://gw.example.com#x", "https://gw.example.com//", "https://gw example.com"],
)  # fmt: skip
def test_a_gateway_that_is_no_origin_is_a_mistake_that_is_seen_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="scheme, a host"):
        Carrier(url, "s")


def test_each_of_several_origins_of_the_gateway_is_the_gateway_and_no_other() -> None:
    carrier = Carrier("https://gw.example.com", "s", more=["https://clerk.gw.example.com:9090/"])
    with serving(PAUL):
        for url in ("https://gw.example.com/", "https://clerk.gw.example.com:9090"):
            assert carrier.headers(url)["bailiwick-delegation"] == PAUL.token
        for url in ("https://clerk.gw.example.com", "https://gw.example.com:9090", "https://buyer.gw.example.com:9090"):
            assert carrier.headers(url) == {}
    with pytest.raises(ValueError, match="scheme, a host"):
        Carrier("https://gw.example.com", more=["clerk.gw.example.com:9090"])


async def test_without_a_delegation_nothing_is_sent(gateway: Server, send: Any) -> None:
    """Or the agent would act in its own name, with its own rights, for whoever asked."""
    with pytest.raises(NoDelegationError, match="no request is being served"):
        await send(Carrier(gateway.url, "bws_secret"), gateway.url)
    for carrier in (Carrier(gateway.url, "bws_secret"), Carrier(gateway.url, "bws_secret", alone=True)):
        with serving(Delegation()), pytest.raises(NoDelegationError, match="came without"):
            await send(carrier, gateway.url)
    assert gateway.heard == []


async def test_an_agent_may_call_in_its_own_name_where_it_serves_nobody_and_says_so(gateway: Server, send: Any) -> None:
    await send(Carrier(gateway.url, "bws_secret", alone=True), gateway.url)
    assert shown(gateway.heard[0]) == {"authorization": "Bearer bws_secret"}


GOOD = token("paul")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Authorization", f"Bearer {GOOD}")], GOOD),
        ([("authorization", f"bearer  {GOOD}")], GOOD),
        ([(b"Bailiwick-Delegation", GOOD.encode())], GOOD),
        ([("Bailiwick-Delegation", GOOD), ("Authorization", f"Bearer {token('mia')}")], GOOD),
        ([("Bailiwick-Delegation", "no token"), ("Authorization", f"Bearer {GOOD}")], ""),
        ([("Bailiwick-Delegation", GOOD), ("bailiwick-delegation", GOOD)], ""),
        ([("Authorization", f"Bearer {GOOD}"), ("authorization", f"Bearer {GOOD}")], ""),
        ([("Bailiwick-Delegation", f"{GOOD}, {GOOD}")], ""),
        ([("Authorization", f"Basic {GOOD}")], ""),
        ([("Authorization", f"Bearer {token('paul', 'at+jwt')}")], ""),
        ([("Authorization", "Bearer bws_clerk_secret")], ""),
        ([("Authorization", "Bearer a.b.c")], ""),
        ([("Authorization", f"Bearer {GOOD}\r\nx: y")], ""),
        ([("Authorization", f"Bearer {'A' * 2000}.e30.e30")], ""),
        ([("X-Forwarded-User", "paul")], ""),
        ([], ""),
    ],
)
def test_only_what_is_a_delegation_by_its_own_word_and_stands_once_is_taken(headers: Any, expected: str) -> None:
    assert Delegation.of(headers).token == expected


@pytest.mark.parametrize(
    "text", ["", "00-abc-def-01", TRACE.upper(), f"{TRACE}-x", TRACE.replace("00-", "ff-", 1), f"{TRACE}\r\nx: y"]
)
def test_a_trace_that_is_none_is_not_taken(text: str) -> None:
    assert Delegation.of([("traceparent", text)]).traceparent == ""
    assert Delegation.of([("traceparent", TRACE), ("traceparent", TRACE)]).traceparent == ""
    assert Delegation.of([("traceparent", TRACE)]).traceparent == TRACE


def test_a_delegation_is_not_shown_where_objects_are_printed() -> None:
    assert PAUL.token not in repr(PAUL)


async def test_requests_at_the_same_time_keep_their_own_delegations_with_all_tasks_that_they_start() -> None:
    """Also what goes on after the answer; a thread of the agent's own knows nobody's."""
    everybody, later = asyncio.Event(), []

    async def slowly(name: str) -> None:
        await everybody.wait()
        delegation = served()
        later.append(delegation is not None and delegation.token == token(name))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"][1:]
        tasks.append(asyncio.create_task(slowly(name)))
        if len(tasks) == 40:
            gathered.set()
        await gathered.wait()
        seen: list[Delegation | None] = [await asyncio.to_thread(served)]
        thread = threading.Thread(target=contextvars.Context().run, args=(lambda: seen.append(served()),))
        thread.start()
        await asyncio.to_thread(thread.join)
        delegation = served()
        assert delegation is not None
        good = delegation.token == token(name) and seen == [delegation, None]
        await send({"type": "http.response.start", "status": 200 if good else 500, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    tasks: list[asyncio.Task[None]] = []
    gathered = asyncio.Event()
    sock = socket.create_server(("127.0.0.1", 0))
    async with listening(DelegationMiddleware(app), sock):
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            asked = [client.get(f"{url}/{n}", headers={"Bailiwick-Delegation": token(str(n))}) for n in range(40)]
            answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200] * 40
    everybody.set()
    await asyncio.gather(*tasks)
    assert later == [True] * 40
    assert served() is None


async def test_frameworks_take_the_middleware_as_their_own() -> None:
    async def whose(request: Request) -> PlainTextResponse:
        delegation = served()
        return PlainTextResponse(delegation.token if delegation is not None else "nobody's")

    app = Starlette(routes=[Route("/", whose)])
    app.add_middleware(DelegationMiddleware)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://agent") as client:
        assert (await client.get("/", headers={"Bailiwick-Delegation": PAUL.token})).text == PAUL.token
        assert (await client.get("/")).text == ""


def test_work_that_is_handed_to_a_thread_takes_its_delegation_along_by_hand(gateway: Server) -> None:
    carrier, tried = Carrier(gateway.url, "bws_secret"), []

    def work(delegation: Delegation | None) -> None:
        with pytest.raises(NoDelegationError):
            carrier.headers(gateway.url)
        with serving(delegation):
            tried.append(carrier.headers(gateway.url)["bailiwick-delegation"])

    with serving(PAUL):
        thread = threading.Thread(target=contextvars.Context().run, args=(work, served()))
    thread.start()
    thread.join()
    assert tried == [PAUL.token]


def test_an_agent_may_keep_a_copy_of_the_one_file_and_needs_nothing_else(tmp_path: Path) -> None:
    shutil.copy(propagate.__file__, tmp_path / "propagate.py")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import propagate; print(propagate.Carrier('http://gw', 's'))"
    assert subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True).stdout


def test_importing_it_from_the_gateway_loads_no_other_part_of_the_gateway() -> None:
    code = "import sys; import gateway.propagate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    ours = {name for name in loaded if name.split(".")[0] in {"gateway", "policies", "audit", "sandbox"}}
    assert ours == {"gateway", "gateway.propagate"}
    assert not {"httpx", "httpx2", "a2a", "mcp", "pydantic", "fastapi", "starlette", "casbin", "jwt"} & set(loaded)
