"""Key sets: what is refused whole, what is left out, and how long a set is believed."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.identity.keys import MAX_BYTES, KeySet, KeySetError, b64url, es256_jwk, parse_jwks
from gateway.model import UpstreamError
from gateway.problem import ProblemError
from gateway.settings import Keys

RSA_2048 = rsa.generate_private_key(65537, 2048)


def p256(kid: str = "", **changes: object) -> dict[str, object]:
    jwk: dict[str, object] = dict(es256_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
    return jwk | ({"kid": kid} if kid else {}) | changes


def rsa_jwk(key: rsa.RSAPrivateKey = RSA_2048, **changes: object) -> dict[str, object]:
    numbers = key.public_key().public_numbers()
    n = b64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big"))
    return {"kty": "RSA", "kid": "r", "n": n, "e": b64url(numbers.e.to_bytes(3, "big"))} | changes


def ed25519_jwk(**changes: object) -> dict[str, object]:
    public = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return {"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": b64url(public)} | changes


def document(*keys: object) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def algorithms(*keys: object) -> dict[str, set[str]]:
    return {kid: set(key.algorithms) for kid, key in parse_jwks(document(*keys)).items()}


def test_each_kind_of_key_is_pinned_to_its_algorithms() -> None:
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    curve = {
        "kty": "EC",
        "crv": "P-384",
        "kid": "p",
        "x": b64url(p384.x.to_bytes(48, "big")),
        "y": b64url(p384.y.to_bytes(48, "big")),
    }
    found = algorithms(p256("a"), curve, ed25519_jwk(), rsa_jwk(), rsa_jwk(kid="s", alg="PS256"))
    assert found == {"a": {"ES256"}, "p": {"ES384"}, "e": {"EdDSA"}, "r": {"RS256", "PS256"}, "s": {"PS256"}}


@pytest.mark.parametrize(
    "key",
    [
        p256(kid="k" * 129),
        p256(kid="k\n"),
        p256(alg="RS256"),
        p256(alg="HS256"),
        p256(alg=7),
        p256(use="enc"),
        p256(key_ops=["sign"]),
        p256(key_ops="verify"),
        p256(crv="secp256k1"),
        p256(crv="P-384"),
        p256(x="AA"),
        p256(x="!!"),
        p256(y=p256()["y"]),
        rsa_jwk(alg="ES256"),
        rsa_jwk(alg="none"),
        rsa_jwk(alg="RS512"),
        rsa_jwk(rsa.generate_private_key(65537, 1024)),
        rsa_jwk(e=b64url(b"\x03")),
        rsa_jwk(n=b64url(b"\xff" * 1100)),
        rsa_jwk(n=b64url((2**2047 + 1).to_bytes(256, "big")), e="AQAAAAAB"),
        ed25519_jwk(crv="X25519"),
        ed25519_jwk(x="AA"),
        {"kty": "AKP", "kid": "q", "alg": "ML-DSA-44", "pub": "AA"},
        {"kid": "nothing"},
    ],
)
def test_a_key_that_is_weak_misused_or_unknown_is_left_out_and_the_others_stay(key: dict[str, object]) -> None:
    assert set(algorithms(key, p256("good"))) == {"good"}


def test_a_modulus_with_the_roca_fingerprint_is_left_out() -> None:
    primes = [
        2,
        3,
        5,
        7,
        11,
        13,
        17,
        19,
        23,
        29,
        31,
        37,
        41,
        43,
        47,
        53,
        59,
        61,
        67,
        71,
        73,
        79,
        83,
        89,
        97,
        101,
        103,
        107,
        109,
        113,
    ]
    primes += [127, 131, 137, 139, 149, 151, 157, 163, 167]
    product = 1
    for prime in primes:
        product *= prime
    residue = pow(65537, 12345, product)
    modulus = residue + product * ((1 << 2047) // product + 1)
    assert modulus.bit_length() == 2048
    assert algorithms(rsa_jwk(n=b64url(modulus.to_bytes(256, "big")))) == {}


@pytest.mark.parametrize(
    "data",
    [
        document(p256("a"), {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}),
        document(p256("a"), p256("b", d="c2VjcmV0")),
        document(p256("a"), p256("a")),
        document(*[p256(f"k{i}") for i in range(101)]),
        document("text"),
        b'{"keys": {}}',
        b"[]",
        b"",
        b'{"keys": [], "keys": []}',
        b'{"keys": []}' + b" " * MAX_BYTES,
        b'{"keys": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
    ids=[
        "symmetric",
        "private",
        "same-kid",
        "too-many",
        "no-object",
        "no-list",
        "no-set",
        "empty",
        "twice",
        "too-large",
        "too-deep",
    ],
)
def test_a_set_that_cannot_be_trusted_is_refused_whole(data: bytes) -> None:
    with pytest.raises(KeySetError):
        parse_jwks(data)


class Source:
    """A JWKS endpoint whose answers, failures and pace the test decides."""

    def __init__(self, *keys: dict[str, object]) -> None:
        self.now = 0.0
        self.calls = 0
        self.keys: list[dict[str, object]] = list(keys)
        self.gate: asyncio.Event | None = None
        self.failing = False

    def monotonic(self) -> float:
        return self.now

    async def fetch(self, url: str) -> bytes:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise UpstreamError("status", "503")
        return document(*self.keys)

    def key_set(self) -> KeySet:
        return KeySet(Keys.model_validate({"url": "https://idp.example/jwks"}), self.fetch, self.monotonic)


async def test_however_many_wait_one_fetch_is_made() -> None:
    source = Source(p256("a"))
    source.gate = asyncio.Event()
    keys = source.key_set()
    waiting = [asyncio.create_task(keys.get("a")) for _ in range(50)]
    await asyncio.sleep(0)
    source.gate.set()
    assert all(key is not None for key in await asyncio.gather(*waiting))
    assert source.calls == 1


async def test_a_rotated_key_is_found_at_once_and_an_invented_kid_asks_only_every_thirty_seconds() -> None:
    source = Source(p256("old"))
    keys = source.key_set()
    assert await keys.get("old") is not None
    source.now += 31
    source.keys = [p256("old"), p256("new")]
    assert await keys.get("new") is not None
    assert source.calls == 2
    for n in range(100):
        assert await keys.get(f"invented-{n}") is None
    assert source.calls == 2
    source.now += 30
    assert await keys.get("invented") is None
    assert source.calls == 3


async def test_a_set_of_five_minutes_is_renewed_without_anybody_waiting_and_a_withdrawn_key_goes() -> None:
    source = Source(p256("a"), p256("b"))
    keys = source.key_set()
    await keys.get("a")
    source.keys = source.keys[1:]
    source.now += 301
    assert await keys.get("a") is not None  # the answer of before, while the new one is on its way
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "jwks"))
    assert await keys.get("a") is None
    assert await keys.get("b") is not None
    assert source.calls == 2


async def test_while_the_provider_is_down_the_last_good_set_serves_for_a_day_and_no_longer() -> None:
    source = Source(p256("a"))
    keys = source.key_set()
    key = await keys.get("a")
    source.failing = True
    source.now += 23 * 3600
    assert await keys.get("a") is key
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "jwks"))
    assert await keys.get("a") is key
    assert keys.failure == "status: 503"
    source.now += 3600 + 1
    assert await keys.get("a") is None
    source.failing = False
    source.now += 30
    assert await keys.get("a") is not None


async def test_a_set_that_goes_bad_does_not_replace_a_good_one() -> None:
    source = Source(p256("a"))
    keys = source.key_set()
    key = await keys.get("a")
    source.keys = [p256("a"), {"kty": "oct", "k": "AA", "kid": "x"}]
    source.now += 31
    assert await keys.get("x") is None
    assert await keys.get("a") is key
    assert keys.failure == "the key set shows a secret key"


async def test_closing_ends_a_fetch_that_hangs() -> None:
    source = Source(p256("a"))
    source.gate = asyncio.Event()
    keys = source.key_set()
    waiting = asyncio.create_task(keys.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await keys.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://idp.example/jwks", True),
        ("http://127.0.0.1:9/jwks", True),
        ("http://[::1]:9/jwks", True),
        ("http://localhost:9/jwks", True),
        ("http://idp.example/jwks", False),
        ("http://127.0.0.1.idp.example/jwks", False),
        ("http://localhost@idp.example/jwks", False),
    ],
)
def test_keys_come_over_https_or_from_this_machine(url: str, good: bool) -> None:
    source = Source()
    keys = Keys.model_validate({"url": url})
    if good:
        KeySet(keys, source.fetch)
    else:
        with pytest.raises(ProblemError, match="https only"):
            KeySet(keys, source.fetch)


async def test_a_key_file_is_read_again_when_it_changes_and_a_broken_one_keeps_the_last_good_set(tmp_path: Path) -> None:
    path, source = tmp_path / "jwks.json", Source()

    def write(data: bytes) -> None:
        aside = tmp_path / "aside"
        aside.write_bytes(data)
        aside.replace(path)

    first: dict[str, Any] = p256("a")
    write(document(first))
    keys = KeySet(Keys(file=path), monotonic=source.monotonic)
    key = await keys.get("a")
    assert key is not None
    write(document(first, p256("b")))
    assert await keys.get("b") is not None
    assert await keys.get("a") is key  # an unchanged key stays the same, so what it verified stays verified
    write(b"{")
    assert await keys.get("a") is key
    assert not keys.failure  # a file is looked at once a second
    source.now += 1
    assert await keys.get("a") is key
    assert keys.failure
    path.unlink()
    source.now += 24 * 3600 + 1
    assert await keys.get("a") is None
    write(document(first))
    assert await keys.get("a") is not None


def test_a_modulus_with_a_small_factor_is_left_out() -> None:
    assert algorithms(rsa_jwk(n=b64url(((2**2047 // 991 + 1) * 991).to_bytes(256, "big")))) == {}
    assert algorithms(rsa_jwk(n=b64url((2**2047 + 2).to_bytes(256, "big")))) == {}


def test_base64_that_has_a_twin_is_left_out() -> None:
    key = p256("a")
    twin = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    x = str(key["x"])
    assert algorithms(key | {"x": x[:-1] + twin[twin.index(x[-1]) | 1]}) == {}


def test_every_ed25519_point_of_small_order_is_left_out_and_no_other() -> None:
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p

    def add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        (x1, y1), (x2, y2) = one, other
        k = d * x1 * x2 * y1 * y2 % p
        return (x1 * y2 + x2 * y1) * pow(1 + k, -1, p) % p, (y1 * y2 + x1 * x2) * pow(1 - k, -1, p) % p

    def points(y: int) -> list[tuple[int, int]]:
        square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        root = pow(square, (p + 3) // 8, p)
        root = root if root * root % p == square else root * pow(2, (p - 1) // 4, p) % p
        return [(x, y) for x in {root, -root % p}] if root * root % p == square else []

    y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
    of_order_8 = points(y8)[0]
    group, here = set(), (0, 1)
    for _ in range(8):
        group.add(here)
        here = add(here, of_order_8)
    assert here == (0, 1)
    assert len(group) == 8
    for x, y in group:
        for sign in (0, 1):
            assert algorithms(ed25519_jwk(x=b64url((y | sign << 255).to_bytes(32, "little")))) == {}, (x, y)
    for y in range(p, 2**255):  # the same points by numbers that are too large
        assert algorithms(ed25519_jwk(x=b64url(y.to_bytes(32, "little")))) == {}
    assert algorithms(ed25519_jwk()) == {"e": {"EdDSA"}}


async def test_a_key_file_that_hangs_holds_up_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    os.mkfifo(path)  # opening it waits until somebody writes: as a network's file system does that is gone
    keys = KeySet(Keys(file=path))
    waiting = asyncio.create_task(keys.get("a"))
    ran = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, ran.set)
    await asyncio.wait_for(ran.wait(), 5)
    assert not waiting.done()
    writer = await asyncio.to_thread(path.open, "wb")
    await asyncio.to_thread(lambda: (writer.write(document(p256("a"))), writer.close()))
    assert await waiting is not None
    assert keys.at_hand("a") is not None
