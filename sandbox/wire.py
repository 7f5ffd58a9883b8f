"""What a gateway and a runner elsewhere say to each other: one connection a run, frames of four bytes length and MessagePack.

Read strictly and bounded on both sides; what one side does not understand ends the connection, and with it the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

import msgspec

from sandbox.model import Guarantee, IsolationUnprovenError, Job, NotOfferedError, SandboxBusyError, Strength
from sandbox.result import Run
from sandbox.runner import Report, Stream

VERSION: Final = 2
SMALL: Final = 1 << 20
"""Bytes of a frame that carries no files and no output."""
JOB: Final = 20 << 20
"""Bytes of a job: its code, files, arguments and standard input, as `sandbox.model` bounds them."""
PIECE: Final = 1 << 16
T = TypeVar("T")


class Welcome(msgspec.Struct, frozen=True, tag="welcome", forbid_unknown_fields=True):
    """The runner speaks first: what it proved."""

    version: int
    report: Report


class Execute(msgspec.Struct, frozen=True, tag="execute", forbid_unknown_fields=True):
    """Run this.

    inputs  digest of the job as the gateway makes it: a runner of another version, which reads less into it, makes another.
    output  whether output is wanted as it comes; tools whether calls back are, network whether its connections are served.
    """

    job: Job
    inputs: str
    profile: str
    output: bool
    tools: bool
    network: bool


class Tools(msgspec.Struct, frozen=True, tag="tools", forbid_unknown_fields=True):
    """Bytes of the channel by which code calls tools back, either way; none: that side sends no more."""

    data: bytes


class Fetch(msgspec.Struct, frozen=True, tag="fetch", forbid_unknown_fields=True):
    """Instead of a run: this line is for the connection of that key.  What follows are its bytes, both ways."""

    key: bytes


class Opened(msgspec.Struct, frozen=True, tag="opened", forbid_unknown_fields=True):
    """The code has connected to where it finds the gateway's proxy; the connection waits to be fetched."""

    key: bytes


class Kill(msgspec.Struct, frozen=True, tag="kill", forbid_unknown_fields=True):
    """End the run.  So does hanging up; this one is answered when it is gone."""


class Output(msgspec.Struct, frozen=True, tag="output", forbid_unknown_fields=True):
    """Output as it comes."""

    stream: Stream
    data: bytes


class Done(msgspec.Struct, frozen=True, tag="done", forbid_unknown_fields=True):
    """How it ended."""

    run: Run


class Refusal(msgspec.Struct, frozen=True, tag="refusal", forbid_unknown_fields=True):
    """Why it was not run."""

    kind: Literal["unproven", "busy", "not-offered"]
    message: str
    missing: dict[str, tuple[int, int]] = {}
    help: str = ""


class WireError(Exception):
    """The other side has gone, or does not speak as it should."""


FromGateway = Execute | Fetch | Tools | Kill
FromRunner = Welcome | Output | Opened | Tools | Done | Refusal

_gateway = msgspec.msgpack.Decoder(FromGateway)
_runner = msgspec.msgpack.Decoder(FromRunner)


def _plain(value: Any) -> Any:
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise NotImplementedError(type(value).__name__)


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)


def frame(message: FromGateway | FromRunner) -> bytes:
    """A message as it is sent."""
    data = _encoder.encode(message)
    return len(data).to_bytes(4) + data


async def from_gateway(reader: asyncio.StreamReader, most: int) -> FromGateway | None:
    """The next message; None where the gateway has hung up.  WireError for what is none, or larger than `most`."""
    return await _next(reader, _gateway, most)


async def from_runner(reader: asyncio.StreamReader, most: int) -> FromRunner | None:
    """The next message; None where the runner has hung up.  WireError for what is none, or larger than `most`."""
    return await _next(reader, _runner, most)


async def _next(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[T], most: int) -> T | None:
    try:
        length = int.from_bytes(await reader.readexactly(4))
        if length > most:
            raise WireError(f"a frame of {length} bytes came where {most} are the most")
        return decoder.decode(await reader.readexactly(length))
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise WireError("the connection ended within a frame") from None
        return None
    except OSError as error:
        raise WireError(f"the connection is gone: {type(error).__name__}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: what a model's own checks say
        raise WireError(f"not a message of this version: {error}") from None


def execute(job: Job, *, output: bool, tools: bool, network: bool = False) -> Execute:
    """The question for a run, with the digests that whoever reads it whole will make."""
    read = msgspec.msgpack.decode(_encoder.encode(job), type=Job)  # 30 seconds are 30.0 on the other side
    return Execute(read, read.inputs_digest(), read.profile.digest, output, tools, network)


def refusal(error: Exception) -> Refusal:
    """A refusal of `Runner.run` as it is sent."""
    if isinstance(error, IsolationUnprovenError):
        missing = {str(name): (int(wanted), int(got)) for name, (wanted, got) in error.missing.items()}
        return Refusal("unproven", str(error), missing, error.help)
    return Refusal("busy" if isinstance(error, SandboxBusyError) else "not-offered", str(error))


def raised(refusal: Refusal) -> Exception:
    """What `Runner.run` raises for it here; WireError for a refusal that names what is not known here."""
    if refusal.kind == "busy":
        return SandboxBusyError(refusal.message)
    if refusal.kind == "not-offered":
        return NotOfferedError(refusal.message)
    return IsolationUnprovenError(_missing(refusal.missing), refusal.help)


def _missing(said: Mapping[str, tuple[int, int]]) -> Mapping[Guarantee, tuple[Strength, Strength]]:
    try:
        found = {Guarantee(name): (Strength(wanted), Strength(got)) for name, (wanted, got) in said.items()}
    except ValueError as error:
        raise WireError(f"a refusal names what is not known here: {error}") from None
    if not found:
        raise WireError("a refusal names no guarantee")
    return found
