"""Whatever comes over the line to or from a runner elsewhere is a message of this version, or an error that says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sandbox.model import Guarantee, Job, Reason, Strength
from sandbox.profiles import load_profiles
from sandbox.result import Run
from sandbox.runner import Finding, Report
from sandbox.wire import (
    JOB,
    VERSION,
    Done,
    Execute,
    Fetch,
    Kill,
    Opened,
    Output,
    Refusal,
    Tools,
    Welcome,
    WireError,
    execute,
    frame,
    from_gateway,
    from_runner,
)  # fmt: skip

SHIPPED = load_profiles()["no-network-512mb"]
ASKED = execute(Job("1", "print(1)", SHIPPED, files={"a/b": b"\0\xff"}, arguments=("x",), stdin=b"y"), output=True, tools=False)
REPORT = Report("b", MappingProxyType({Guarantee.FS_READ: Finding(Strength.HARD, ("tried",))}), MappingProxyType({"a": "b"}), 1.5)
RAN = Run.without_output(ASKED.job, Reason.OK, "")
TO_RUNNER = (ASKED, Fetch(b"k" * 16), Tools(b"x"), Kill())
TO_GATEWAY = (
    Welcome(VERSION, REPORT), Output("stdout", b"x"), Opened(b"k" * 16), Tools(b""), Refusal("busy", "later"),
    Done(RAN),
)  # fmt: skip


def read(how: Callable[[asyncio.StreamReader, int], Awaitable[Any]], data: bytes) -> Any:
    """The message, None for a line that has ended, or the error."""

    async def from_line() -> Any:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        try:
            return await how(reader, JOB)
        except WireError as error:
            return error

    return asyncio.run(from_line())


def test_every_message_arrives_as_it_was_sent_and_on_its_own_side_alone() -> None:
    for message in TO_RUNNER:
        assert read(from_gateway, frame(message)) == message
    for message in TO_GATEWAY:
        assert read(from_runner, frame(message)) == message
    assert isinstance(read(from_gateway, frame(Done(RAN))), WireError)
    assert isinstance(read(from_runner, frame(ASKED)), WireError)


def test_a_message_with_a_member_more_or_a_member_less_is_none() -> None:
    for message in (*TO_RUNNER, *TO_GATEWAY):
        how = from_gateway if message in TO_RUNNER else from_runner
        plain = msgspec.msgpack.decode(frame(message)[4:])
        more = msgspec.msgpack.encode(plain | {"surplus": 1})
        assert isinstance(read(how, len(more).to_bytes(4) + more), WireError)


def test_a_job_that_its_model_refuses_is_refused_on_the_line() -> None:
    plain = msgspec.msgpack.decode(frame(ASKED)[4:])
    for wrong in ({"code": "\0"}, {"files": {"../x": b""}}, {"files": {"main.py": b""}}, {"arguments": ["x" * 100_000]}):
        data = msgspec.msgpack.encode(plain | {"job": plain["job"] | wrong})
        assert isinstance(read(from_gateway, len(data).to_bytes(4) + data), WireError), wrong


def test_damaged_messages_are_messages_or_errors_and_a_damaged_job_is_told_by_its_digest() -> None:
    rng = random.Random(3)
    whole = frame(ASKED)
    unnoticed = []
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        found = read(from_gateway, bytes(data))
        assert found is None or isinstance(found, Execute | Fetch | Tools | Kill | WireError)
        if isinstance(found, Execute) and found.job != ASKED.job and found.inputs == found.job.inputs_digest():
            unnoticed.append(found.job)  # the serving side compares these digests, and that of the profile
    assert all(job.id != ASKED.job.id or job.profile != ASKED.job.profile for job in unnoticed)


@given(st.binary(max_size=400))
def test_no_bytes_make_a_reader_fail_otherwise_than_by_saying_so(data: bytes) -> None:
    for how in (from_gateway, from_runner):
        read(how, data)
        read(how, len(data).to_bytes(4) + data)
