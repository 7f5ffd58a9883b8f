"""An issuer's metadata: whose it must be, what it may name, and how often it is read.  Real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import pytest

from gateway.identity.discovery import Discovery, MetadataError, locations, parse
from gateway.identity.keys import KeySet
from gateway.problem import ProblemError
from gateway.upstream.client import Upstreams
from tests.identity.provider import Provider, provider

ISSUER = "https://idp.example/tenant"
GOOD = {"issuer": ISSUER, "jwks_uri": "https://keys.example/jwks"}


def document(**changes: object) -> bytes:
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("issuer", "openid", "oauth"),
    [
        (
            "https://i.example",
            "https://i.example/.well-known/openid-configuration",
            "https://i.example/.well-known/oauth-authorization-server",
        ),
        (
            "https://i.example/",
            "https://i.example/.well-known/openid-configuration",
            "https://i.example/.well-known/oauth-authorization-server",
        ),
        (
            "https://i.example:8443/realms/a",
            "https://i.example:8443/realms/a/.well-known/openid-configuration",
            "https://i.example:8443/.well-known/oauth-authorization-server/realms/a",
        ),
    ],
)
def test_metadata_is_where_both_standards_put_it(issuer: str, openid: str, oauth: str) -> None:
    assert locations(issuer) == (openid, oauth)


def test_what_is_used_of_metadata_is_read_and_the_rest_is_not() -> None:
    found = parse(document(introspection_endpoint=f"{ISSUER}/i", token_endpoint=f"{ISSUER}/t", claims_supported=["x"]), ISSUER)
    assert (found.jwks_uri, found.introspection_endpoint) == ("https://keys.example/jwks", f"{ISSUER}/i")
    assert (found.token_endpoint, found.authorization_endpoint) == (f"{ISSUER}/t", "")


@pytest.mark.parametrize(
    "data",
    [
        document(issuer=ISSUER + "/"),
        document(issuer=ISSUER.upper()),
        document(issuer="https://evil.example"),
        document(issuer=[ISSUER]),
        document(issuer=None),
        document(jwks_uri=None),
        document(jwks_uri=""),
        document(jwks_uri=["https://keys.example/jwks"]),
        document(jwks_uri="http://keys.example/jwks"),
        document(jwks_uri="http://127.0.0.1:1/jwks"),
        document(jwks_uri="https://localhost/jwks"),
        document(jwks_uri="https://[::1]/jwks"),
        document(jwks_uri="file:///etc/passwd"),
        document(jwks_uri="data:,{}"),
        document(jwks_uri="https:///jwks"),
        document(jwks_uri="https://user@keys.example/jwks"),
        document(jwks_uri="https://keys.example/jwks#a"),
        document(jwks_uri="https://keys.example/jw ks"),
        document(jwks_uri="https://keys.example/\njwks"),
        document(jwks_uri="https://keys.example:99999/jwks"),
        document(jwks_uri="https://[::1/jwks"),
        document(jwks_uri="https://keys.example/" + "a" * 2048),
        document(introspection_endpoint="http://idp.example/i"),
        document(token_endpoint=7),
        document()[:-1] + b', "issuer": "' + ISSUER.encode() + b'"}',
        document()[:-1],
        b"[]",
        b"\xff",
        document() + b" " * 300_000,
        b'{"a": ' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    ],
)
def test_metadata_that_is_not_exactly_this_issuers_or_names_what_nobody_should_reach_is_refused(data: bytes) -> None:
    with pytest.raises(MetadataError):
        parse(data, ISSUER)


@pytest.mark.parametrize(
    "issuer",
    ["http://idp.example", "idp", "", "https://i.example?x=1", "https://i.example#a", "https://u@i.example", "ftp://i.example"],
)
def test_an_issuer_that_has_no_place_for_metadata_is_refused_at_start(issuer: str) -> None:
    async def fetch(_: str) -> bytes:
        raise AssertionError

    with pytest.raises(ProblemError, match="https URL"):
        Discovery(issuer, fetch)


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def idp() -> AsyncIterator[Provider]:
    async with provider() as it:
        yield it


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    it = Upstreams()
    yield it
    await it.aclose()


def discovered(idp: Provider, upstreams: Upstreams, time: Time, path: str = "") -> tuple[Discovery, KeySet]:
    discovery = Discovery(f"{idp.url}{path}", partial(upstreams.fetch, allow_private=True), time, elsewhere=upstreams.fetch)
    return discovery, KeySet(discovery.keys, monotonic=time)


async def renewed() -> None:
    while tasks := [task for task in asyncio.all_tasks() if task.get_name() in {"metadata", "jwks"}]:
        await asyncio.gather(*tasks)


async def test_keys_are_found_by_openid_metadata_and_however_many_wait_it_is_read_once(
    idp: Provider, upstreams: Upstreams
) -> None:
    idp.publish("/realms/a")
    _, keys = discovered(idp, upstreams, Time(), "/realms/a")
    found = await asyncio.gather(*(keys.get(idp.jwk["kid"]) for _ in range(40)))
    assert all(key is not None for key in found)
    assert idp.count("/realms/a/.well-known/openid-configuration") == idp.count("/jwks") == 1


async def test_keys_are_found_by_rfc_8414_where_there_is_no_openid_metadata(idp: Provider, upstreams: Upstreams) -> None:
    idp.publish("/a")
    metadata = idp.routes.pop("/a/.well-known/openid-configuration")
    idp.routes["/.well-known/oauth-authorization-server/a"] = metadata
    _, keys = discovered(idp, upstreams, Time(), "/a")
    assert await keys.get(idp.jwk["kid"]) is not None


async def test_metadata_of_another_issuer_gives_no_keys_even_where_it_names_good_ones(
    idp: Provider, upstreams: Upstreams
) -> None:
    idp.publish(issuer=f"http://localhost:{idp.port}")
    discovery, keys = discovered(idp, upstreams, Time())
    assert await keys.get(idp.jwk["kid"]) is None
    assert discovery.failure == keys.failure == "the metadata names another issuer"
    assert idp.count("/jwks") == 0


@pytest.mark.parametrize("place", ["/.well-known/openid-configuration", "/jwks"])
async def test_a_redirect_is_not_followed(idp: Provider, upstreams: Upstreams, place: str) -> None:
    idp.publish()
    good = idp.routes[place]
    idp.routes["/elsewhere"] = good
    idp.tell(place, {}, 302)
    _, keys = discovered(idp, upstreams, Time())
    assert await keys.get(idp.jwk["kid"]) is None
    assert idp.count("/elsewhere") == 0


async def test_what_metadata_names_on_another_private_host_is_not_reached(idp: Provider, upstreams: Upstreams) -> None:
    idp.publish(jwks_uri=f"http://localhost:{idp.port}/jwks")  # another name than the issuer's: not what the operator named
    _, keys = discovered(idp, upstreams, Time())
    assert await keys.get(idp.jwk["kid"]) is None
    assert idp.count("/jwks") == 0
    assert "loopback" in keys.failure


async def test_keys_that_moved_are_found_where_the_metadata_says_now(idp: Provider, upstreams: Upstreams) -> None:
    time = Time()
    idp.publish()
    _, keys = discovered(idp, upstreams, time)
    assert await keys.get(idp.jwk["kid"]) is not None
    idp.publish(jwks_uri=f"{idp.url}/new")
    idp.routes["/new"] = idp.routes.pop("/jwks")
    time.now += 40
    assert await keys.get("unknown") is None
    assert idp.count("/new") == 1
    assert keys.failure == ""


async def test_an_invented_kid_asks_every_thirty_seconds_at_most_and_metadata_is_renewed_after_five_minutes(
    idp: Provider, upstreams: Upstreams
) -> None:
    time, kid = Time(), idp.jwk["kid"]
    idp.publish()
    _, keys = discovered(idp, upstreams, time)
    for n in range(50):
        assert await keys.get(f"invented-{n}") is None
    assert idp.count("/jwks") == 1
    time.now += 301
    assert await keys.get(kid) is not None
    await renewed()
    assert (idp.count("/jwks"), idp.count("/.well-known/openid-configuration")) == (2, 2)


async def test_while_the_metadata_is_down_the_last_good_one_serves_for_a_day_and_no_longer(
    idp: Provider, upstreams: Upstreams
) -> None:
    time, kid = Time(), idp.jwk["kid"]
    idp.publish()
    discovery, keys = discovered(idp, upstreams, time)
    key = await keys.get(kid)
    assert key is not None
    idp.tell("/.well-known/openid-configuration", {}, 503)
    idp.tell("/jwks", {}, 503)
    time.now += 23 * 3600
    assert await keys.get(kid) is key
    await renewed()
    assert await keys.get(kid) is key
    time.now += 3600 + 1
    assert await keys.get(kid) is None
    assert await discovery.get() is None
    idp.publish()
    time.now += 31
    assert await keys.get(kid) is not None


async def test_metadata_that_goes_bad_does_not_replace_a_good_one(idp: Provider, upstreams: Upstreams) -> None:
    time = Time()
    idp.publish()
    discovery, _ = discovered(idp, upstreams, time)
    good = await discovery.get()
    idp.tell("/.well-known/openid-configuration", {"issuer": "https://evil.example", "jwks_uri": "https://evil.example/jwks"})
    time.now += 301
    assert await discovery.get() is good
    await renewed()
    assert await discovery.get() is good
    assert discovery.failure == "the metadata names another issuer"


async def test_closing_ends_a_reading_that_hangs(idp: Provider, upstreams: Upstreams) -> None:
    idp.publish()
    idp.gate = asyncio.Event()
    discovery, keys = discovered(idp, upstreams, Time())
    waiting = asyncio.create_task(keys.get("a"))
    await idp.came.wait()
    await keys.close()
    await discovery.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    idp.gate.set()
