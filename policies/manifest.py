"""Signed bundles: a manifest of every file, and an Ed25519 signature (JWS, detached) over the manifest's exact bytes.

Only EdDSA by a pinned key counts; nothing of a manifest is believed, or even parsed, before its signature is checked.  Files are
what the loader reads (UTF-8, LF), tests included, README.md not.  A thief of the texts can drop the signature, never move it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key

from policies.bundle import digest_of
from policies.finding import Finding, Report
from policies.reading import MAX_FILES, SIGNATURE, known_file

MANIFEST, JWS = SIGNATURE
FORMAT: Final = "bailiwick-manifest-v1"
TYPE: Final = "bailiwick-manifest+jws"
MAX_SERIAL: Final = 2**53 - 1
MAX_JWS: Final = 2048
_KEYS = frozenset({"format", "serial", "created", "digest", "files"})
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_PART = re.compile(r"[A-Za-z0-9_-]+")


class KeyFileError(ValueError):
    """The bytes are no Ed25519 key in PEM.  Says which kind was wanted, and nothing of the bytes."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What a manifest says of one file: SHA-256 (hex) and the number of bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was signed.

    serial   grows with every signature: an older bundle, however well signed, is refused by whoever has seen a newer one.
    created  UTC, `2026-11-22T18:00:00Z`; for people, nothing depends on it.
    digest   of the bundle, as `Bundle.digest`.
    files    every file but the manifest and its signature, by name.
    """

    serial: int
    created: str
    digest: str
    files: Mapping[str, Listed]


def verify(texts: Mapping[str, str], trusted_keys: Iterable[Ed25519PublicKey], least_serial: int = 0) -> list[Finding]:
    """What is wrong with the signature of these files (`Bundle.texts`); none: a trusted key signed exactly them.

    A manifest whose serial is below `least_serial` is a finding: it was signed, and is not the newest.
    """
    report = Report()
    manifest = _signed(texts, trusted_keys, report)
    if manifest is not None:
        _compare(manifest, texts, report)
        if manifest.serial < least_serial:
            report.add(
                "old-serial", (MANIFEST, 0, 0), f"the serial is {manifest.serial}; {least_serial} or more is wanted",
                "this bundle was replaced by a newer one; sign what is wanted again, with a serial that grows",
            )  # fmt: skip
    return list(report.error().findings) if report else []


def serial_of(texts: Mapping[str, str]) -> int | None:
    """The serial that the manifest claims; None where there is no readable one.  Believe it after `verify` alone."""
    manifest = _parse(texts.get(MANIFEST, ""))
    return manifest.serial if isinstance(manifest, Manifest) else None


def sign(texts: Mapping[str, str], key: Ed25519PrivateKey, *, serial: int, created: str) -> dict[str, str]:
    """The two files that sign these: their names and texts.  ValueError for a serial or a time that `verify` would refuse."""
    if not 1 <= serial <= MAX_SERIAL:
        raise ValueError(f"a serial is a number from 1 to {MAX_SERIAL}")
    if not _CREATED.fullmatch(created):
        raise ValueError("the time is written 2026-11-22T18:00:00Z")
    files = {name: _listed(texts[name]) for name in sorted(texts) if name not in SIGNATURE}
    manifest = {
        "format": FORMAT,
        "serial": serial,
        "created": created,
        "digest": digest_of(texts),
        "files": {name: {"sha256": each.sha256, "size": each.size} for name, each in files.items()},
    }
    text = json.dumps(manifest, indent=2) + "\n"
    header = json.dumps({"alg": "EdDSA", "kid": key_id(key.public_key()), "typ": TYPE}, separators=(",", ":"))
    protected = _encode(header.encode())
    signature = key.sign(f"{protected}.{_encode(text.encode())}".encode("ascii"))
    return {MANIFEST: text, JWS: f"{protected}..{_encode(signature)}\n"}


# --- keys


def key_id(key: Ed25519PublicKey) -> str:
    """The `kid`: the key's JWK thumbprint (RFC 7638, RFC 8037)."""
    raw = _encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    return _encode(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{raw}"}}'.encode()).digest())


def public_key(pem: bytes) -> Ed25519PublicKey:
    """A pinned key, SubjectPublicKeyInfo in PEM (`openssl pkey -pubout`).  Raises KeyFileError."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError("an Ed25519 public key in PEM is wanted")
    return key


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """A signer's key, PKCS#8 in PEM without a password (`openssl genpkey -algorithm ed25519`).  Raises KeyFileError."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError("an Ed25519 private key in PEM, without a password, is wanted")
    return key


# --- the signature


def _signed(texts: Mapping[str, str], trusted: Iterable[Ed25519PublicKey], report: Report) -> Manifest | None:
    """The manifest, if a trusted key signed its bytes and they say what a manifest says."""
    for name in SIGNATURE:
        if name not in texts:
            report.add("not-signed", (name, 0, 0), "this file is missing", "sign the bundle: bailiwick policy sign")
    if report:
        return None
    header = _header(texts[JWS])
    if isinstance(header, str):
        report.add("bad-signature", (JWS, 1, 1), header, "sign the bundle again: bailiwick policy sign")
        return None
    protected, kid, signature = header
    key = {key_id(each): each for each in trusted}.get(kid)
    if key is None:
        report.add(
            "unknown-key", (JWS, 1, 1), f"the key {kid} is not trusted", "pin it, or have a trusted signer sign the bundle"
        )
        return None
    try:
        key.verify(signature, f"{protected}.{_encode(texts[MANIFEST].encode())}".encode("ascii"))
    except InvalidSignature:
        message = f"the signature does not fit {MANIFEST}: one of them was changed"
        report.add("bad-signature", (JWS, 1, 1), message, "sign the bundle again: bailiwick policy sign")
        return None
    manifest = _parse(texts[MANIFEST])
    if isinstance(manifest, str):
        report.add("bad-manifest", (MANIFEST, 0, 0), manifest, "sign the bundle again: bailiwick policy sign")
        return None
    return manifest


def _header(text: str) -> tuple[str, str, bytes] | str:
    """(protected header as it stands, kid, signature) of a detached compact JWS, or what is wrong with it."""
    parts = text.removesuffix("\n").split(".") if len(text) <= MAX_JWS else []
    if len(parts) != 3 or parts[1]:
        return "this is no detached JWS (header..signature)"
    protected, signature = _decode(parts[0]), _decode(parts[2])
    if protected is None or signature is None:
        return "this is no detached JWS (header..signature)"
    said = _json(protected)
    if not isinstance(said, dict):
        return "the header is not plain JSON"
    if said.get("alg") != "EdDSA":
        return "the algorithm is not EdDSA, and no other is accepted"
    kid = said.get("kid")
    if said.keys() != {"alg", "kid", "typ"} or said["typ"] != TYPE or not isinstance(kid, str) or not _PART.fullmatch(kid):
        return f"the header must hold alg, kid and typ ({TYPE}), and nothing else"
    if len(signature) != 64 or len(kid) != 43:
        return "the signature or the kid has a wrong length"
    return parts[0], kid, signature


# --- the manifest


def _parse(text: str) -> Manifest | str:
    """The manifest that a text is, or what is wrong with it."""
    said = _json(text.encode())
    if not isinstance(said, dict) or said.keys() != _KEYS or said["format"] != FORMAT:
        return f"this is no manifest of the format {FORMAT}, or a name stands in it twice"
    serial, created, digest, files = said["serial"], said["created"], said["digest"], said["files"]
    if type(serial) is not int or not 1 <= serial <= MAX_SERIAL:
        return f"the serial is no number from 1 to {MAX_SERIAL}"
    if not isinstance(created, str) or not _CREATED.fullmatch(created):
        return "'created' is no time in UTC"
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return "'digest' is no digest of a bundle"
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        return f"'files' must hold at most {MAX_FILES} names"
    listed = {}
    for name, each in files.items():
        if not known_file(name) or name in SIGNATURE:
            return f"{ascii(name)[:200]} is no file of a bundle"
        entry = _entry(each)
        if entry is None:
            return f"what is said of {name} is no hash and size"
        listed[name] = entry
    return Manifest(serial, created, digest, MappingProxyType(listed))


def _entry(said: object) -> Listed | None:
    if not isinstance(said, dict) or said.keys() != {"sha256", "size"}:
        return None
    sha256, size = said["sha256"], said["size"]
    if not isinstance(sha256, str) or not _HASH.fullmatch(sha256) or type(size) is not int or size < 0:
        return None
    return Listed(sha256, size)


def _compare(manifest: Manifest, texts: Mapping[str, str], report: Report) -> None:
    """Each file that differs from what was signed, by name."""
    for name in sorted(manifest.files.keys() | texts.keys() - set(SIGNATURE)):
        listed, text = manifest.files.get(name), texts.get(name)
        place = (name if known_file(name) else ascii(name)[:200], 0, 0)
        if listed is None:
            report.add("extra-file", place, "the file is not in the signed manifest", "remove it, or sign the bundle again")
        elif text is None:
            report.add("missing-file", place, "the signed manifest has this file, the bundle has not", "bring it back")
        elif (found := _listed(text)) != listed:
            how = (
                f"{found.size} bytes, {listed.size} were signed" if found.size != listed.size else "other content than was signed"
            )
            report.add("changed-file", place, f"the file was changed: {how}", "restore it, or sign the bundle again")
    digest = digest_of(texts)
    if digest != manifest.digest:
        message = f"the manifest is of {manifest.digest}; these files are {digest}"
        report.add("wrong-digest", (MANIFEST, 0, 0), message, "sign the bundle again: bailiwick policy sign")


def _listed(text: str) -> Listed:
    data = text.encode()
    return Listed(hashlib.sha256(data).hexdigest(), len(data))


# --- strict JSON and base64url


def _json(data: bytes) -> Any:
    """Plain JSON whose names stand once and whose numbers are whole; None for anything else."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    def refuse(_: str) -> Any:
        raise ValueError("no whole number")

    try:
        return json.loads(data.decode(), parse_float=refuse, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes | None:
    """The bytes of base64url without padding; None for any other way of writing them."""
    if not _PART.fullmatch(text):
        return None
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return data if _encode(data) == text else None
