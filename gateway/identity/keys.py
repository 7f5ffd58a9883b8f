"""Public keys of others: read strictly, pinned to their algorithms, kept for a bounded time.

A set that shows a secret (a symmetric or private key) or names two keys alike is refused whole; a key that is weak or of an
unknown kind is left out.  No token is verified with a key that is not in the newest good set.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.identity.strictjson import loads
from gateway.model import UpstreamError
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Keys

Fetch = Callable[[str], Awaitable[bytes]]
"""GET of a URL's whole body: follows no redirect, bounds time and size, raises OSError or UpstreamError when it fails."""

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

MAX_BYTES = 256 * 1024
MAX_KEYS = 100
FRESH_SECONDS = 300.0
STALE_SECONDS = 24 * 3600.0
COOLDOWN_SECONDS = 30.0
FETCH_SECONDS = 10.0
LOOK_SECONDS = 1.0

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_CURVES: Mapping[str, tuple[type[ec.EllipticCurve], int, str]] = {
    "P-256": (ec.SECP256R1, 32, "ES256"),
    "P-384": (ec.SECP384R1, 48, "ES384"),
}
_RSA_ALGORITHMS = frozenset({"RS256", "PS256"})
_RSA_BITS = range(2048, 8193)
_ROCA_PRIMES = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)


class KeySetError(Exception):
    """The set cannot be used at all; the text names no key material."""


@dataclass(frozen=True, slots=True)
class Key:
    """One public key and the only signature algorithms it may be used with."""

    kid: str
    algorithms: frozenset[str]
    public: PublicKey


def parse_jwks(data: bytes) -> dict[str, Key]:
    """The signature keys of a JWK Set (RFC 7517 §5) by kid.

    KeySetError refuses the whole set: not a JWK Set, too large, a symmetric or private key, two signature keys with one kid.
    Left out: keys for encryption, without kid, of unknown kty, curve or algorithm, RSA outside 2048..8192 bits or with the
    ROCA fingerprint, keys whose `alg` does not fit their kty and crv.
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
        key = _key(entry)
        if key is None:
            continue
        if key.kid in found:
            msg = "two keys have the same kid"
            raise KeySetError(msg)
        found[key.kid] = key
    return found


def _key(jwk: Mapping[str, object]) -> Key | None:
    """One JWK; None where it is no signature key of a kind that is used here."""
    kid, kty, alg = jwk.get("kid"), jwk.get("kty"), jwk.get("alg")
    if not isinstance(kid, str) or not 1 <= len(kid) <= 128 or not kid.isprintable():
        return None
    if jwk.get("use", "sig") != "sig":
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        if kty == "EC":
            public, algorithms = _ec(jwk)
        elif kty == "OKP" and jwk.get("crv") == "Ed25519":
            public, algorithms = ed25519.Ed25519PublicKey.from_public_bytes(_bytes(jwk.get("x"))), frozenset({"EdDSA"})
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


def _rsa(jwk: Mapping[str, object]) -> tuple[PublicKey, frozenset[str]]:
    n, e = int.from_bytes(_bytes(jwk.get("n")), "big"), int.from_bytes(_bytes(jwk.get("e")), "big")
    if n.bit_length() not in _RSA_BITS or e < 65537 or e.bit_length() > 32 or _is_roca(n):
        raise ValueError
    return rsa.RSAPublicNumbers(e, n).public_key(), _RSA_ALGORITHMS


def _is_roca(n: int) -> bool:
    """Whether a modulus bears the fingerprint of CVE-2017-15361: a power of 65537 modulo every small prime."""
    return all(n % p in {pow(65537, k, p) for k in range(p)} for p in _ROCA_PRIMES)


def _bytes(value: object) -> bytes:
    if not isinstance(value, str) or len(value) > 2048 or not _BASE64URL.fullmatch(value):
        raise ValueError
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))


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
    """The keys behind one `jwks` setting: a file, re-read when it changes, or a URL, fetched when it is needed.

    A file is looked at once a second while its keys are in use, and at once for a kid that it did not hold.
    A URL's set is renewed in the background once it is 5 minutes old, fetched at most every 30 seconds for a kid that nobody
    knows, by one request at a time however many callers wait, and used for at most 24 hours after its last good fetch.
    """

    def __init__(self, keys: Keys, fetch: Fetch | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """ProblemError for a URL that is neither https nor loopback, or a URL without `fetch`.  Does no I/O."""
        self._url = str(keys.url) if keys.url is not None else ""
        self._file = keys.file
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: dict[str, Key] = {}
        self._good_at: float | None = None
        self._tried_at: float | None = None
        self._seen: tuple[int, int, int] | None = None
        self._flight: asyncio.Task[None] | None = None
        self.failure = ""
        """Why the last attempt to read the set failed; "" when it did not."""
        if self._url:
            _check_url(self._url, fetch)

    async def get(self, kid: str) -> Key | None:
        """The key of that kid in the newest good set; None where there is none or the set is too old to be trusted."""
        if self._file is not None:
            now = self._monotonic()
            if kid not in self._usable() or self._tried_at is None or not 0 <= now - self._tried_at < LOOK_SECONDS:
                self._tried_at = now
                self._read_file(self._file)
            return self._usable().get(kid)
        key = self._usable().get(kid)
        if key is None and self._may_try(COOLDOWN_SECONDS):
            await asyncio.shield(self._start())
            return self._usable().get(kid)
        if self._flight is not None and key is None:  # somebody asked a moment ago: wait for the same answer
            await asyncio.shield(self._flight)
            return self._usable().get(kid)
        if self._age() > FRESH_SECONDS and self._may_try(COOLDOWN_SECONDS):
            self._start()
        return key

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    def _usable(self) -> dict[str, Key]:
        return self._keys if self._age() <= STALE_SECONDS else {}

    def _age(self) -> float:
        return float("inf") if self._good_at is None else self._monotonic() - self._good_at

    def _may_try(self, cooldown: float) -> bool:
        return self._flight is None and (self._tried_at is None or self._monotonic() - self._tried_at >= cooldown)

    def _start(self) -> asyncio.Task[None]:
        self._tried_at = self._monotonic()
        self._flight = asyncio.create_task(self._download(), name="jwks")
        return self._flight

    async def _download(self) -> None:
        try:
            if self._fetch is not None:
                async with asyncio.timeout(FETCH_SECONDS):
                    data = await self._fetch(self._url)
                self._accept(data)
        except (OSError, UpstreamError) as error:  # a timeout is an OSError; whatever the network does, the last good set stays
            self.failure = type(error).__name__
        finally:
            self._flight = None

    def _read_file(self, path: Path) -> None:
        try:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                if not self.failure:
                    self._good_at = self._monotonic()
                return
            self._seen = seen
            with path.open("rb") as file:
                self._accept(file.read(MAX_BYTES + 1))
        except OSError as error:
            self._seen = None
            self.failure = type(error).__name__

    def _accept(self, data: bytes) -> None:
        try:
            fresh = parse_jwks(data)
        except KeySetError as error:
            self.failure = str(error)
            return
        # A key that has not changed stays the same object, so that what was verified with it stays verified.
        self._keys = {kid: self._same(key) for kid, key in fresh.items()}
        self._good_at = self._monotonic()
        self.failure = ""

    def _same(self, key: Key) -> Key:
        old = self._keys.get(key.kid)
        return old if old is not None and old == key else key


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_url(url: str, fetch: Fetch | None) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ProblemError(Problem("insecure-jwks-url", "a key set is fetched over https only", url, "use https, or a file"))
    if fetch is None:
        raise ProblemError(Problem("no-fetcher", "a key set by URL needs the gateway's HTTP client", url, "use a file here"))
