"""Where the gateway's own keys lie, and how a reference to a secret is followed.  A key that others could read is not used.

A thief of these files could speak as the gateway: sign delegations, sign the ledger, open its sealed values.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from gateway.identity.commands import printed
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Secret

MAX_BYTES = 64 * 1024
DELEGATION_FILE, LEDGER_FILE, SEAL_FILE = "delegation-key.pem", "ledger-key.pem", "seal-key"


def resolve(secret: Secret, environ: Mapping[str, str] = os.environ, location: str = "") -> str:
    """What the reference stands for, its prefix before it.  ProblemError (which never shows the value) where there is nothing.

    One trailing newline of a file, or of what a command prints, is dropped.  A file that everybody may read or write is refused;
    its group may read it, as mounted secrets have it.
    """
    if secret.env is not None:
        value = environ.get(secret.env, "")
        source = f"environment variable {secret.env}"
    elif secret.command is not None:
        source = f"the command {secret.command[0]}"
        value = _text(printed(secret.command, environ), Path(secret.command[0]))
    else:
        path = Path(secret.file or "")
        value, source = _text(read(path, stat.S_IRWXO | stat.S_IWGRP), path), str(path)
    if not value:
        raise _problem("missing-secret", f"{source} is not set or empty", location or source)
    return secret.prefix + value


def delegation_key(
    data: Path, secret: Secret | None = None, environ: Mapping[str, str] = os.environ
) -> ec.EllipticCurvePrivateKey:
    """The ES256 key of the delegation tokens (PKCS#8 PEM): the configured one, or one made in the data folder at first need."""
    source, pem = _configured(
        data / DELEGATION_FILE, secret, environ, lambda: private_pem(ec.generate_private_key(ec.SECP256R1()))
    )
    return _signing_key(pem, source)


def read_signing_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A P-256 key (PKCS#8 PEM) that only its owner may read."""
    return _signing_key(read(path, stat.S_IRWXG | stat.S_IRWXO), str(path))


def former_key(secret: Secret, environ: Mapping[str, str] = os.environ) -> ec.EllipticCurvePublicKey:
    """The public part of a P-256 key that signs nothing any more: of a public key (PEM), or of the private one."""
    source, pem = _source(secret), resolve(secret, environ).encode("utf-8")
    if b"PRIVATE KEY" in pem:
        return _signing_key(pem, source).public_key()
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _problem("wrong-key", "a former key must be a P-256 key in PEM", source)
    return key


def ledger_key(data: Path, secret: Secret | None = None, environ: Mapping[str, str] = os.environ) -> ed25519.Ed25519PrivateKey:
    """The Ed25519 key of the ledger's checkpoints (PKCS#8 PEM): the configured one, or one made at first need."""
    source, pem = _configured(data / LEDGER_FILE, secret, environ, generated_ed25519)
    key = _private(pem, source)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _problem("wrong-key", "the ledger key must be an Ed25519 key in PKCS#8 PEM", source)
    return key


def seal_key(data: Path, secret: Secret | None = None, environ: Mapping[str, str] = os.environ) -> bytes:
    """The 32 bytes that seal what the ledger only commits to: the configured ones (base64), or some made at first need."""
    source, text = _configured(data / SEAL_FILE, secret, environ, lambda: base64.b64encode(os.urandom(32)) + b"\n")
    return _sealing_key(text, source)


def travel_keys(secrets: Sequence[Secret], environ: Mapping[str, str] = os.environ) -> tuple[bytes, ...]:
    """The keys (32 bytes in base64 each) that seal what travels with clients, the one that seals first."""
    return tuple(_sealing_key(resolve(secret, environ).encode("utf-8"), _source(secret)) for secret in secrets)


def _sealing_key(text: bytes, source: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise _problem("wrong-key", "a seal key must be 32 bytes in base64", source)
    return key


def load_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's content; made by `make` (mode 0600, whole or not at all) where there is none.

    Of several processes that start at once one wins and all read the same.  ProblemError for a file that its group or others
    may read, or that is no regular file.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        create(path, make())
    return read(path, stat.S_IRWXG | stat.S_IRWXO)


def create(path: Path, content: bytes) -> None:
    """A new file for its owner alone, whole or not at all.

    Written aside, then linked: a link never replaces, so the first of two creators stays.
    """
    aside = _written_aside(path, content)
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        return
    finally:
        aside.unlink()
    _settle(path.parent)


def write_over(path: Path, content: bytes) -> None:
    """The same, in the place of what is there."""
    aside = _written_aside(path, content)
    try:
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    _settle(path.parent)


def _written_aside(path: Path, content: bytes) -> Path:
    """A hidden file beside, flushed to the disk."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return aside


def _settle(folder: Path) -> None:
    """The names in a folder, flushed to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _configured(path: Path, secret: Secret | None, environ: Mapping[str, str], make: Callable[[], bytes]) -> tuple[str, bytes]:
    if secret is None:
        return str(path), load_or_create(path, make)
    return _source(secret), resolve(secret, environ).encode("utf-8")


def _source(secret: Secret) -> str:
    return secret.env or str(secret.file or (secret.command or ("",))[0])


def read(path: Path, forbidden: int) -> bytes:
    """The content of a regular file whose mode has no `forbidden` bit; mode and content are of the same open file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in a key's place must not hang the start
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise _problem("wrong-key", "not a regular file", str(path))
            if mode & forbidden:
                found = f"the file's mode {stat.S_IMODE(mode):04o} lets others at the secret"
                raise ProblemError(
                    Problem(
                        "open-key-file", found, str(path), f"chmod 600 {path}, and change the secret if others may have read it"
                    )
                )
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _problem("missing-secret", f"cannot be read: {error.strerror}", str(path)) from None
    if len(content) > MAX_BYTES:
        raise _problem("wrong-key", "the file is too large for a secret", str(path))
    return content


def _text(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise _problem("wrong-key", "the file is not text in UTF-8", str(path)) from None
    return text.removesuffix("\n").removesuffix("\r")


def generated_ed25519() -> bytes:
    """A new Ed25519 key, as `private_pem` has it."""
    return private_pem(ed25519.Ed25519PrivateKey.generate())


def private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """PKCS#8 in PEM, without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signing_key(pem: bytes, source: str) -> ec.EllipticCurvePrivateKey:
    key = _private(pem, source)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _problem("wrong-key", "the delegation key must be a P-256 key in PKCS#8 PEM", source)
    return key


def _private(pem: bytes, source: str) -> object:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _problem("wrong-key", "not an unencrypted private key in PEM", source) from None


def _problem(code: str, message: str, location: str) -> ProblemError:
    return ProblemError(Problem(code, message, location))
