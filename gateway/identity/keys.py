"""Public keys of others: read strictly, pinned to their algorithms, kept for a bounded time.

A set that shows a secret (a symmetric or private key) or names two keys alike is refused whole; a key that is weak or of an
unknown kind is left out.  No token is verified with a key that is not in the newest good set.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.identity.renewal import COOLDOWN_SECONDS, Renewed, SourceError
from gateway.identity.strictjson import loads
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Keys

Fetch = Callable[[str], Awaitable[bytes]]
"""GET of a URL's whole body: follows no redirect, bounds time and size, raises OSError or UpstreamError when it fails."""

Source = Callable[[], Awaitable[bytes]]
"""The bytes of a key set, wherever they are; raises OSError, UpstreamError or SourceError when they cannot be had."""

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

SIGNATURE = frozenset({"sig"})
MAX_BYTES = 256 * 1024
MAX_KEYS = 100
LOOK_SECONDS = 1.0

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_CURVES: Mapping[str, tuple[type[ec.EllipticCurve], int, str]] = {
    "P-256": (ec.SECP256R1, 32, "ES256"),
    "P-384": (ec.SECP384R1, 48, "ES384"),
}
_RSA_ALGORITHMS = frozenset({"RS256", "PS256"})
_RSA_BITS = range(2048, 8193)
_SMALL_PRIMES = math.prod(n for n in range(2, 1000) if all(n % d for d in range(2, math.isqrt(n) + 1)))
_ED25519_P = 2**255 - 19
_ED25519_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_ED25519_SMALL = frozenset({0, 1, _ED25519_P - 1, _ED25519_Y8, _ED25519_P - _ED25519_Y8})
"""The y of every Ed25519 point whose order divides 8: under such a key a signature fits many messages."""
_ROCA_PRIMES = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)


class KeySetError(SourceError):
    """The set cannot be used at all; the text names no key material."""


@dataclass(frozen=True, slots=True)
class Key:
    """One public key and the only signature algorithms it may be used with."""

    kid: str
    algorithms: frozenset[str]
    public: PublicKey


def parse_jwks(data: bytes, uses: frozenset[str] = SIGNATURE) -> dict[str, Key]:
    """The signature keys of a JWK Set (RFC 7517 §5) by kid; `uses` are the words of `use` that mean a signature key here.

    KeySetError refuses the whole set: not a JWK Set, too large, a symmetric or private key, two signature keys with one kid.
    Left out: keys for encryption, without kid, of unknown kty, curve or algorithm, RSA outside 2048..8192 bits, with a small
    factor or the ROCA fingerprint, Ed25519 points of small order, keys whose `alg` does not fit their kty and crv.
    """
    if len(data) > MAX_BYTES:
        msg = "the key set is too large"
        raise KeySetError(msg)
    try:
        document = loads(data, depth=8)
    except ValueError as error:
        msg = f"the key set is {error}"
        raise KeySetError(msg) from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        msg = f"a key set has a member keys: a list of at most {MAX_KEYS}"
        raise KeySetError(msg)
    found: dict[str, Key] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            msg = "a key is not an object"
            raise KeySetError(msg)
        if entry.get("kty") == "oct" or "d" in entry or "k" in entry:
            msg = "the key set shows a secret key"
            raise KeySetError(msg)
        key = _key(entry, uses)
        if key is None:
            continue
        if key.kid in found:
            msg = "two keys have the same kid"
            raise KeySetError(msg)
        found[key.kid] = key
    return found


def _key(jwk: Mapping[str, object], uses: frozenset[str]) -> Key | None:
    """One JWK; None where it is no signature key of a kind that is used here."""
    kid, kty, alg = jwk.get("kid"), jwk.get("kty"), jwk.get("alg")
    if not isinstance(kid, str) or not 1 <= len(kid) <= 128 or not kid.isprintable():
        return None
    use = jwk.get("use", "sig")
    if not isinstance(use, str) or use not in uses:
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        if kty == "EC":
            public, algorithms = _ec(jwk)
        elif kty == "OKP" and jwk.get("crv") == "Ed25519":
            public, algorithms = _ed25519(_bytes(jwk.get("x"))), frozenset({"EdDSA"})
        elif kty == "RSA":
            public, algorithms = _rsa(jwk)
        else:
            return None
    except ValueError:
        return None
    if alg is not None:
        algorithms = algorithms & {alg} if isinstance(alg, str) else frozenset()
    return Key(kid, algorithms, public) if algorithms else None


def _ec(jwk: Mapping[str, object]) -> tuple[PublicKey, frozenset[str]]:
    curve, size, algorithm = _CURVES.get(str(jwk.get("crv")), (None, 0, ""))
    x, y = _bytes(jwk.get("x")), _bytes(jwk.get("y"))
    if curve is None or len(x) != size or len(y) != size:  # RFC 7518 §6.2.1.2: full length, leading zeros kept
        raise ValueError
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve())
    return numbers.public_key(), frozenset({algorithm})


def _ed25519(data: bytes) -> PublicKey:
    y = int.from_bytes(data, "little") & ((1 << 255) - 1)
    if y >= _ED25519_P or y in _ED25519_SMALL:
        raise ValueError
    return ed25519.Ed25519PublicKey.from_public_bytes(data)


def _rsa(jwk: Mapping[str, object]) -> tuple[PublicKey, frozenset[str]]:
    n, e = int.from_bytes(_bytes(jwk.get("n")), "big"), int.from_bytes(_bytes(jwk.get("e")), "big")
    if n.bit_length() not in _RSA_BITS or e < 65537 or e.bit_length() > 32 or _is_roca(n) or math.gcd(n, _SMALL_PRIMES) > 1:
        raise ValueError
    return rsa.RSAPublicNumbers(e, n).public_key(), _RSA_ALGORITHMS


def _is_roca(n: int) -> bool:
    """Whether a modulus bears the fingerprint of CVE-2017-15361: a power of 65537 modulo every small prime."""
    return all(n % p in {pow(65537, k, p) for k in range(p)} for p in _ROCA_PRIMES)


def _bytes(value: object) -> bytes:
    if not isinstance(value, str) or len(value) > 2048 or not _BASE64URL.fullmatch(value):
        raise ValueError
    data = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    if b64url(data) != value:  # bits that decode to nothing
        raise ValueError
    return data


def b64url(data: bytes) -> str:
    """Unpadded base64url (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def es256_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The public JWK of a P-256 key; its kid is the RFC 7638 thumbprint."""
    numbers = key.public_numbers()
    x, y = b64url(numbers.x.to_bytes(32, "big")), b64url(numbers.y.to_bytes(32, "big"))
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    kid = b64url(hashlib.sha256(canonical.encode("ascii")).digest())
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "alg": "ES256", "use": "sig"}


class KeySet:
    """The keys behind one `jwks` setting, or behind whatever else gives their bytes.

    A file is looked at once a second while its keys are in use, and at once for a kid that it did not hold.
    Any other set is renewed in the background once it is 5 minutes old, read at most every 30 seconds for a kid that nobody
    knows, by one request at a time however many callers wait, and used for at most 24 hours after it was last read well.
    """

    def __init__(
        self,
        keys: Keys | Source,
        fetch: Fetch | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        uses: frozenset[str] = SIGNATURE,
    ) -> None:
        """ProblemError for a URL that is neither https nor loopback, or a URL without `fetch`.  Does no I/O."""
        self._uses = uses
        self._of_file = not callable(keys) and keys.file is not None
        self._source = keys if callable(keys) else _source(keys, fetch)
        self._newest: dict[str, Key] = {}
        self._renewed: Renewed[dict[str, Key]] = Renewed(self._read, "jwks", monotonic)

    @property
    def failure(self) -> str:
        """Why the last attempt to read the set failed; "" when it did not."""
        return self._renewed.failure

    def at_hand(self, kid: str) -> Key | None:
        """The key, where nobody has to be waited for."""
        if self._of_file:
            keys = self._renewed.usable(LOOK_SECONDS)
            return None if keys is None else keys.get(kid)
        keys = self._renewed.usable()
        key = keys.get(kid) if keys is not None else None
        if key is not None:
            self._renewed.refresh()
        return key

    async def get(self, kid: str) -> Key | None:
        """The key of that kid in the newest good set; None where there is none or the set is too old to be trusted."""
        key = self.at_hand(kid)
        if key is None:
            await self._renewed.renew(0 if self._of_file else COOLDOWN_SECONDS)
            keys = self._renewed.usable()
            key = keys.get(kid) if keys is not None else None
        return key

    async def holding(self, public: PublicKey) -> Key | None:
        """The key of the newest good set that is this very key, whatever its kid; one that nobody knows is looked for again.

        What agents' proofs of possession are held to (see agents.py).
        """
        for _ in range(2):
            kid = next((key.kid for key in (self._renewed.usable() or {}).values() if key.public == public), "")
            key = await self.get(kid)  # "" is no key's kid: the set is read again, as it is for any kid that nobody knows
            if key is not None and key.public == public:
                return key
        return None

    async def close(self) -> None:
        """End a reading that is under way."""
        await self._renewed.close()

    async def _read(self) -> dict[str, Key]:
        fresh = parse_jwks(await self._source(), self._uses)
        # A key that has not changed stays the same object, so that what was verified with it stays verified.
        self._newest = {kid: self._same(key) for kid, key in fresh.items()}
        return self._newest

    def _same(self, key: Key) -> Key:
        old = self._newest.get(key.kid)
        return old if old is not None and old == key else key


def _source(keys: Keys, fetch: Fetch | None) -> Source:
    if keys.file is not None:
        return _File(keys.file)
    url = str(keys.url)
    if not is_confidential(url):
        raise ProblemError(Problem("insecure-jwks-url", "a key set is fetched over https only", url, "use https, or a file"))
    if fetch is None:
        raise ProblemError(Problem("no-fetcher", "a key set by URL needs the gateway's HTTP client", url, "use a file here"))
    return partial(fetch, url)


class _File:
    """A file's bytes, off the event loop, read where its looks have changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._data = b""

    async def __call__(self) -> bytes:
        self._seen, self._data = await asyncio.to_thread(self._look, self._seen, self._data)
        return self._data

    def _look(self, seen: tuple[int, int, int] | None, data: bytes) -> tuple[tuple[int, int, int], bytes]:
        status = self._path.stat()
        now = (status.st_mtime_ns, status.st_size, status.st_ino)
        if now == seen:
            return now, data
        with self._path.open("rb") as file:
            return now, file.read(MAX_BYTES + 1)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_confidential(url: str) -> bool:
    """Whether nobody between here and there can read or change what this URL answers: https, or this machine."""
    parts = urlsplit(url)
    return (parts.scheme == "https" and bool(parts.hostname)) or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
