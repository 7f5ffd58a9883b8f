"""The key ring on disk: an index that says which key signs from when, and one private key a file.  Only the clock moves it on.

A key's file is whole before the index names it, and goes after the index has let it go: wherever a crash falls, what the index
names works.  A thief of the folder could speak as the gateway until the keys are rotated and retired.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.keyfiles import DELEGATION_FILE, create, private_pem, read_signing_key, write_over
from gateway.identity.keyfiles import read as read_file
from gateway.identity.keys import KeySetError, es256_jwk, parse_jwks
from gateway.identity.signing import LocalSigner
from gateway.identity.strictjson import loads
from gateway.problem import Problem, ProblemError

FOLDER, INDEX, LOCK = "keys", "index.json", ".lock"
OVERLAP_SECONDS: Final = 600
"""From publishing to signing: twice what a cache may keep the key set."""
KEEP_SECONDS: Final = 360
"""For how long a key verifies after it signed last: the longest token (300), leeway, and a replica that noticed late."""
MAX_KEYS: Final = 16
LOCK_SECONDS: Final = 5.0

_KID = re.compile(r"[A-Za-z0-9_-]{43}")
_MEMBERS = frozenset({"kid", "use", "created", "activates", "retires", "x", "y"})
_READERS = stat.S_IRWXG | stat.S_IRWXO
_WRITERS = stat.S_IWGRP | stat.S_IWOTH
_LATEST = 1 << 33


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the index; epoch seconds.

    activates  from when it may sign; it verifies, and is published, before.
    retires    when it verifies no more; None while no other key is named to follow it.
    """

    jwk: Mapping[str, str]
    created: int
    activates: int
    retires: int | None = None

    @property
    def kid(self) -> str:
        """RFC 7638 thumbprint."""
        return self.jwk["kid"]

    def counts(self, now: int) -> bool:
        """Whether its signatures count."""
        return self.retires is None or now < self.retires


Index = tuple[Entry, ...]
"""By the time from which they sign."""


def signing(index: Index, now: int) -> Entry | None:
    """The key that signs now, where the clock alone is asked."""
    due = [entry for entry in index if entry.activates <= now and entry.counts(now)]
    return due[-1] if due else None


def waiting(index: Index, now: int) -> Entry | None:
    """The key that is published and signs later.  None where the clock was set back behind all: one of them signs then."""
    later = [entry for entry in index if entry.activates > now]
    return later[-1] if later and signing(index, now) is not None else None


class KeyFolder:
    """`data/keys`.  Every change is made under a lock and is whole or not at all; all of it blocks, and raises ProblemError."""

    def __init__(self, data: Path) -> None:
        self.path = data / FOLDER
        self._index = self.path / INDEX
        self._former = data / DELEGATION_FILE

    def mark(self) -> tuple[int, int, int] | None:
        """What changes whenever the index does; None where there is none."""
        try:
            status = self._index.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def read(self) -> Index:
        """What the index names."""
        self._check_folder()
        return _parsed(read_file(self._index, _WRITERS), self._index)

    def opened(self, now: int) -> Index:
        """The same; at first need it is made, of the one key that was used before there was a ring, or of a new one."""
        if self.mark() is None:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                if self.mark() is None:  # of several that start together the first one makes it
                    self._begin(now)
        index = self.read()
        if self._former.exists() and self._is_named(index):
            self._former.unlink(missing_ok=True)  # the ring has it: a second copy would outlive its rotation
        return index

    def signer(self, kid: str) -> LocalSigner | None:
        """The private key; None where its file is gone."""
        path = self._file(kid)
        if not path.exists():
            return None
        key = read_signing_key(path)
        if es256_jwk(key.public_key())["kid"] != kid:
            raise _problem("wrong-key", "the file holds another key than its name says", str(path), "put the right one back")
        return LocalSigner(key)

    def rotate(self, now: int, overlap: int = OVERLAP_SECONDS, key: ec.EllipticCurvePrivateKey | None = None) -> Entry:
        """A new key (or `key`) that is published at once and signs `overlap` seconds later; 0: at once."""
        with self._locked():
            index = tuple(entry for entry in self.read() if entry.counts(now))
            pending = waiting(index, now)
            if pending is not None:
                if overlap:
                    message = f"{pending.kid} is published already and signs in {pending.activates - now} s"
                    raise _problem("key-waits", message, str(self.path), "wait for it, or rotate --now: a new key signs at once")
                index = tuple(entry for entry in index if entry is not pending)  # it has signed nothing yet
            private = key or ec.generate_private_key(ec.SECP256R1())
            made = Entry(es256_jwk(private.public_key()), now, now + overlap)
            if any(entry.kid == made.kid for entry in index):
                raise _problem("known-key", f"{made.kid} is one of the ring already", str(self.path), "give another key")
            followed = tuple(replace(each, retires=_earlier(each.retires, made.activates + KEEP_SECONDS)) for each in index)
            create(self._file(made.kid), private_pem(private))
            self._write((*followed, made))
            self._sweep((*followed, made), now)
            return made

    def retire(self, kid: str, now: int) -> None:
        """Trust a key no longer, from now on; a key that waits never signs then.  Not the one that signs."""
        with self._locked():
            index = self.read()
            entry = next((entry for entry in index if entry.kid == kid), None)
            if entry is None:
                known = ", ".join(entry.kid for entry in index)
                raise _problem("unknown-key", "the ring has no key of that kid", str(self.path), f"it has {known}")
            if entry is (signing(index, now) or index[0]):
                raise _problem("key-signs", "this key signs now", str(self.path), "bailiwick keys rotate --now, then retire it")
            rest = tuple(each for each in index if each is not entry)
            if entry.activates > now:  # nothing follows the key that signs any more
                rest = tuple(replace(each, retires=None) if each is signing(index, now) else each for each in rest)
            self._write(rest)
            self._sweep(rest, now)

    def sweep(self, index: Index, now: int) -> frozenset[str]:
        """Remove the private keys that sign no more, once the one after them can be read; the kids of all that sign no more."""
        followed = frozenset(entry.kid for entry in _followed(index, now))
        if any(self._file(kid).exists() for kid in followed):
            with self._locked():
                self._sweep(self.read(), now)
        return followed

    def holds(self, kid: str) -> bool:
        """Whether the private key is still there."""
        return self._file(kid).exists()

    def _sweep(self, index: Index, now: int) -> None:
        """Also of a key that the index has let go, or never came to name."""
        current = signing(index, now)
        if current is None or self.signer(current.kid) is None:
            return
        needed = {entry.kid for entry in index} - {entry.kid for entry in _followed(index, now)}
        for path in self.path.glob("*.pem"):
            if path.stem not in needed and _KID.fullmatch(path.stem):
                path.unlink(missing_ok=True)

    def _begin(self, now: int) -> None:
        key = read_signing_key(self._former) if self._former.exists() else ec.generate_private_key(ec.SECP256R1())
        entry = Entry(es256_jwk(key.public_key()), now, now)
        create(self._file(entry.kid), private_pem(key))
        self._write((entry,))
        self._sweep((entry,), now)

    def _is_named(self, index: Index) -> bool:
        kid = es256_jwk(read_signing_key(self._former).public_key())["kid"]
        return any(entry.kid == kid for entry in index)

    def _file(self, kid: str) -> Path:
        if not _KID.fullmatch(kid):
            raise _problem("wrong-kid", "a kid is 43 characters of base64url", str(self.path), "bailiwick keys list shows them")
        return self.path / f"{kid}.pem"

    def _write(self, index: Index) -> None:
        if len(index) > MAX_KEYS:
            raise _problem("too-many-keys", f"a ring has at most {MAX_KEYS} keys", str(self.path), "retire some of them")
        write_over(self._index, _text(index))

    def _check_folder(self) -> None:
        try:
            mode = self.path.stat().st_mode
        except OSError as error:
            raise _problem(
                "missing-secret", f"cannot be read: {error.strerror}", str(self.path), "start the gateway once"
            ) from None
        if mode & _READERS:
            found = f"the folder's mode {stat.S_IMODE(mode):04o} lets others at the keys"
            raise _problem("open-key-file", found, str(self.path), f"chmod 700 {self.path}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes that change this folder.  The lock goes with its holder, however that ends."""
        self._check_folder()
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            help_ = f"run this as the user with the id {owner}"
            raise _problem(
                "wrong-user", "the keys belong to another user, who could not read what is made", str(self.path), help_
            )
        descriptor = -1
        try:
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            _take(descriptor, self.path)
            for half in (*self.path.glob(".*.pem.*.*"), *self.path.glob(f".{INDEX}.*.*")):
                half.unlink(missing_ok=True)  # of somebody who was killed: whoever holds the lock writes alone
            yield
        except OSError as error:
            text = f"the keys cannot be changed: {error.strerror}"
            raise _problem("cannot-write", text, str(self.path), "can this user write there, and is the disk full?") from None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise _problem("keys-busy", "another process changes the keys", str(path), "try again") from None
            time.sleep(0.02)
        else:
            return


def ring_of(index: Index, signers: Mapping[str, LocalSigner], now: int) -> tuple[LocalSigner | None, list[Mapping[str, str]]]:
    """Who signs now, and every key that counts, as a `KeyRing` takes them.

    Where the key that is due cannot be read, the one before it signs on for as long as it counts; where that is gone, the next.
    """
    counting = [entry for entry in index if entry.counts(now)]
    able = [entry for entry in counting if entry.kid in signers]
    due = [entry for entry in able if entry.activates <= now]
    chosen = due[-1] if due else able[0] if able else None
    return signers[chosen.kid] if chosen is not None else None, [entry.jwk for entry in counting]


def signers_of(folder: KeyFolder, index: Index, known: Mapping[str, LocalSigner]) -> dict[str, LocalSigner]:
    """The private keys that the folder holds for this index; those that are known are not read again."""
    found = {entry.kid: known.get(entry.kid) or folder.signer(entry.kid) for entry in index}
    return {kid: signer for kid, signer in found.items() if signer is not None}


def _earlier(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)


def _followed(index: Index, now: int) -> list[Entry]:
    """Keys after which another one signs already."""
    current = signing(index, now)
    return [] if current is None else list(index[: index.index(current)])


def _text(index: Index) -> bytes:
    keys = [
        {"kid": each.kid, "use": "sig", "created": each.created, "activates": each.activates, "retires": each.retires}
        | {"x": each.jwk["x"], "y": each.jwk["y"]}
        for each in index
    ]
    return orjson.dumps({"version": 1, "keys": keys}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _parsed(data: bytes, path: Path) -> Index:
    try:
        found = _index(loads(data, 4))
    except (ValueError, KeySetError, TypeError):
        help_ = "put back the file that the gateway wrote, or move the folder away: a new ring is made, and old tokens end"
        raise _problem("wrong-index", "not an index of keys", str(path), help_) from None
    if not found:
        raise _problem("wrong-index", "the index names no key", str(path), "move the folder away: a new ring is made")
    return found


def _index(document: object) -> Index:
    if not isinstance(document, dict) or document.keys() != {"version", "keys"} or document["version"] != 1:
        raise ValueError
    keys = document["keys"]
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise ValueError
    found = tuple(_entry(key) for key in keys)
    if len({entry.kid for entry in found}) != len(found):
        raise ValueError
    return tuple(sorted(found, key=lambda entry: entry.activates))


def _entry(key: object) -> Entry:
    if not isinstance(key, dict) or key.keys() != _MEMBERS or key["use"] != "sig":
        raise ValueError
    created, activates, retires = key["created"], key["activates"], key["retires"]
    times = [created, activates] if retires is None else [created, activates, retires]
    if not all(type(moment) is int and 0 <= moment <= _LATEST for moment in times):
        raise ValueError
    public = {"kty": "EC", "crv": "P-256", "x": key["x"], "y": key["y"], "kid": key["kid"], "alg": "ES256", "use": "sig"}
    read = next(iter(parse_jwks(orjson.dumps({"keys": [public]})).values()), None)
    if read is None or not isinstance(read.public, ec.EllipticCurvePublicKey) or es256_jwk(read.public)["kid"] != read.kid:
        raise ValueError
    return Entry(es256_jwk(read.public), created, activates, retires)


def _problem(code: str, message: str, location: str, help_: str) -> ProblemError:
    return ProblemError(Problem(code, message, location, help_))
