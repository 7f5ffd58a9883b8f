"""Every record reaches whoever is to have a copy: real receivers on loopback, which hang up, refuse, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from audit.journal import Journal
from audit.model import Entry
from audit.reader import Ledger
from audit.store_proofs import ProofStore
from gateway.forwarding.file import LinesFile
from gateway.forwarding.forwarding import PLACE, Forwarding, Post
from gateway.forwarding.http import Otlp, Webhook
from gateway.forwarding.receiver import NotTakenError, Receiver
from gateway.forwarding.syslog import Syslog
from gateway.upstream.client import Upstreams
from tests.audit.conftest import NOON, ORIGIN, SEAL_KEY, SIGNING_KEY, denial
from tests.upstream.certificates import self_signed


class World:
    """A ledger that grows, and forwarders of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self.clock = itertools.count(NOON)
        self.names = itertools.count()
        self.store = ProofStore(self.url)
        self.upstreams = Upstreams()
        self.journal: Journal

    async def open(self) -> None:
        self.journal = await Journal.open(
            url=self.url, origin=ORIGIN, signing_key=SIGNING_KEY, seal_key=SEAL_KEY, writer="gw", clock=lambda: next(self.clock)
        )

    async def grow(self, count: int) -> None:
        await asyncio.gather(*(self.journal.append(denial(f"d{next(self.names)}")) for _ in range(count)))

    def post(self, receiver: Receiver, *, batch: int = 4) -> Post:
        return Post(receiver, batch, 0.05, from_first=True)

    def forwarding(self, **posts: Post) -> Forwarding:
        return Forwarding(self.url, self.store, posts, self.journal.append, lambda: next(self.clock))

    async def drain(self, forwarding: Forwarding, name: str = "x") -> None:
        while await forwarding.once(name):
            pass

    def places(self) -> list[int]:
        with Ledger.open(self.url) as log:
            return list(range(log.size))

    def gaps(self) -> list[dict[str, Any]]:
        with Ledger.open(self.url) as log:
            return [record.leaf for record in log.records() if record.kind == "forward.gap"]

    def leaf(self, index: int) -> str:
        with Ledger.open(self.url) as log:
            return next(log.records(index, index + 1)).hash.hex()

    async def close(self) -> None:
        await self.journal.close()
        await self.upstreams.aclose()
        self.store.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.open()
    yield made
    await made.close()


@dataclass
class Heard:
    """An HTTP receiver that answers as it is told; what it acknowledged is `taken`."""

    answer: Callable[[bytes], tuple[int, bytes]] = lambda _: (200, b"{}")
    taken: list[bytes] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    port: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Heard]:
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            try:
                while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                    body = await reader.readexactly(int(length[1]) if length else 0)
                    status, answer = self.answer(body)
                    self.heads.append(head)
                    if status == 200:
                        self.taken.append(body)
                    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(answer), answer))
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
            for writer in writers:
                writer.close()

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for body in self.taken for line in body.decode().splitlines()]


# --- webhook


async def test_a_webhook_gets_every_record_once_in_order_and_a_restart_goes_on(world: World) -> None:
    await world.grow(9)
    async with Heard().serving() as heard:
        hook = Webhook(f"http://127.0.0.1:{heard.port}/in", ((b"x-key", b"k1"),), "jsonl", world.upstreams.send)
        await world.drain(world.forwarding(x=world.post(hook)))
        assert [row["seq"] for row in heard.rows()] == world.places()
        assert [row["leaf"] for row in heard.rows()] == [world.leaf(n) for n in world.places()]
        before = len(heard.rows())
        await world.grow(3)
        await world.drain(world.forwarding(x=world.post(hook)))  # as another process would
        assert [row["seq"] for row in heard.rows()][before:] == world.places()[-3:]
        assert "x-key: k1" in heard.heads[0]
        assert "bailiwick-records: 0-3" in heard.heads[0]


async def test_a_receiver_that_is_down_or_busy_is_asked_again_and_nothing_is_lost_or_skipped(world: World) -> None:
    await world.grow(6)
    states = iter([(503, b""), (429, b""), (500, b"")])
    async with Heard(answer=lambda _: next(states, (200, b""))).serving() as heard:
        hook = Webhook(f"http://127.0.0.1:{heard.port}/", (), "ocsf", world.upstreams.send)
        forwarding = world.forwarding(x=world.post(hook))
        for _ in range(3):
            with pytest.raises(NotTakenError):
                await forwarding.once("x")
        await world.drain(forwarding)
        assert [row["unmapped"]["seq"] for row in heard.rows()] == world.places()
    await world.grow(1)
    with pytest.raises(NotTakenError):  # it is gone
        await world.drain(forwarding)
    assert world.gaps() == []


async def test_what_is_refused_for_good_is_left_out_alone_and_on_record(world: World) -> None:
    await world.grow(7)
    async with Heard(answer=lambda body: (413, b"") if b'"seq":5}' in body else (200, b"")).serving() as heard:
        hook = Webhook(f"http://127.0.0.1:{heard.port}/", (), "jsonl", world.upstreams.send)
        forwarding = world.forwarding(x=world.post(hook))
        await world.drain(forwarding)
        (gap,) = world.gaps()
        assert (gap["forwarder"], gap["first"], gap["stop"]) == ("x", 5, 6)
        assert "413" in gap["reason"]
        assert [row["seq"] for row in heard.rows()] == [n for n in world.places() if n != 5]
        assert forwarding.posts["x"].dropped == 1


async def test_a_receiver_that_refuses_everything_ends_and_one_that_knows_us_not_loses_nothing(world: World) -> None:
    await world.grow(3)
    size = len(world.places())
    async with Heard(answer=lambda _: (400, b"")).serving() as heard:
        hook = Webhook(f"http://127.0.0.1:{heard.port}/", (), "jsonl", world.upstreams.send)
        await world.drain(world.forwarding(x=world.post(hook)))  # its own gaps are refused too: there is none about them
    assert sorted(int(gap["first"]) for gap in world.gaps()) == list(range(size))
    for status in (401, 403, 404):
        async with Heard(answer=lambda _, status=status: (status, b"")).serving() as heard:  # type: ignore[misc]
            hook = Webhook(f"http://127.0.0.1:{heard.port}/", (), "jsonl", world.upstreams.send)
            with pytest.raises(NotTakenError, match=str(status)):
                await world.forwarding(y=world.post(hook)).once("y")
    assert len(world.gaps()) == size


# --- OTLP


async def test_otlp_is_what_its_own_schema_reads_and_a_partial_success_is_on_record(world: World) -> None:
    await world.grow(5)
    answers = iter([(200, b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"x"}}')])
    async with Heard(answer=lambda _: next(answers, (200, b""))).serving() as heard:
        otlp = Otlp(f"http://127.0.0.1:{heard.port}/v1/logs", (), world.upstreams.send)
        await world.drain(world.forwarding(x=world.post(otlp)))
        found = []
        for body in heard.taken:
            request = json_format.Parse(body.decode(), ExportLogsServiceRequest())  # unknown members would be an error
            found += [log for resource in request.resource_logs for scope in resource.scope_logs for log in scope.log_records]
        said = [{each.key: each.value for each in log.attributes} for log in found]
        assert [each["bailiwick.seq"].int_value for each in said] == world.places()
        assert all(log.time_unix_nano and log.event_name and log.body.string_value for log in found)
        (gap,) = world.gaps()
        assert (gap["first"], gap["stop"], gap["records"]) == (0, 4, 2)


# --- syslog


@dataclass
class Collector:
    """A syslog receiver over TLS, as RFC 5425 has it, a thread a connection; it may hang up in the middle of one."""

    folder: Path
    messages: list[bytes] = field(default_factory=list)
    hang_up_after: int = 0
    port: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Collector]:
        certificate, key = self_signed(self.folder, "localhost")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        collector = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), context.wrap_socket(self.request, server_side=True) as stream:
                    collector.read(stream)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            address_family = socket.AF_INET

        with Server(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield self
            finally:
                await asyncio.to_thread(server.shutdown)
                thread.join()

    def read(self, stream: ssl.SSLSocket) -> None:
        held = b""
        while data := stream.recv(512):
            held += data
            while (space := held.find(b" ")) >= 0 and len(held) > space + int(held[:space]):
                end = space + 1 + int(held[:space])
                self.messages.append(held[space + 1 : end])
                held = held[end:]
                if self.hang_up_after and len(self.messages) >= self.hang_up_after:
                    self.hang_up_after = 0
                    stream.shutdown(socket.SHUT_RDWR)
                    stream.close()
                    return
        stream.unwrap().close()  # RFC 5425 §4.4: the end of the session is answered

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "cert.pem"))

    async def has(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len({place(message) for message in self.messages}) < count:  # noqa: ASYNC110  what arrives, arrives elsewhere
                await asyncio.sleep(0.01)


HEAD = re.compile(
    rb"<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) \S+ bailiwick - ([!-~]{1,32}) "
    rb'\[bailiwick@32473 log="([^"\]]*)" seq="(\d+)" leaf="([0-9a-f]{64})"\] \xef\xbb\xbf(.*)',
    re.DOTALL,
)


def place(message: bytes) -> int:
    match = HEAD.fullmatch(message)
    assert match is not None, message
    return int(match[5])


async def test_syslog_goes_over_tls_by_counted_octets_and_every_message_says_where_it_stands(world: World) -> None:
    await world.grow(6)
    async with Collector(world.folder).serving() as collector:
        receiver = Syslog("localhost", collector.port, collector.trusting(), "cef", "gw.example")
        await world.drain(world.forwarding(x=world.post(receiver)))
        await collector.has(len(world.places()))
        await receiver.close()
    assert [place(message) for message in collector.messages] == world.places()
    for message in collector.messages:
        match = HEAD.fullmatch(message)
        assert match is not None
        assert match[6].decode() == world.leaf(int(match[5]))
        assert match[7].startswith(b"CEF:0|Bailiwick|")
        assert int(match[1]) // 8 == 13


async def test_after_a_broken_connection_what_was_not_read_comes_again_and_none_is_missing(world: World) -> None:
    await world.grow(20)
    async with Collector(world.folder, hang_up_after=7).serving() as collector:
        receiver = Syslog("localhost", collector.port, collector.trusting(), "ocsf", "gw")
        forwarding = world.forwarding(x=world.post(receiver))
        task = asyncio.create_task(forwarding.run())
        try:
            await collector.has(len(world.places()))
        finally:
            task.cancel()
            await asyncio.wait([task])
    assert sorted({place(message) for message in collector.messages}) == world.places()


async def test_a_syslog_receiver_that_cannot_prove_its_name_gets_nothing(world: World) -> None:
    await world.grow(1)
    async with Collector(world.folder).serving() as collector:
        for context in (ssl.create_default_context(), collector.trusting()):
            host = "localhost" if context.get_ca_certs() != collector.trusting().get_ca_certs() else "127.0.0.1"
            receiver = Syslog(host, collector.port, context, "cef", "gw")
            with pytest.raises(NotTakenError):
                await world.forwarding(x=world.post(receiver)).once("x")
    assert collector.messages == []


# --- file


async def test_a_file_grows_by_a_line_a_record_and_may_be_moved_away_or_cut(world: World, tmp_path: Path) -> None:
    await world.grow(5)
    path = tmp_path / "records.jsonl"
    forwarding = world.forwarding(x=world.post(LinesFile(path, "jsonl")))
    await world.drain(forwarding)
    first = [json.loads(line)["seq"] for line in path.read_text().splitlines()]
    assert first == world.places()
    assert path.stat().st_mode & 0o077 == 0
    path.rename(tmp_path / "rotated")
    await world.grow(2)
    await world.drain(forwarding)
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == world.places()[-2:]
    path.write_bytes(path.read_bytes()[:-20])  # cut off in the middle of a line
    world.store.anchor(f"{PLACE}x", world.places()[-1], 0)
    await world.drain(world.forwarding(x=world.post(LinesFile(path, "jsonl"))))
    lines = path.read_text().splitlines()
    assert json.loads(lines[-1])["seq"] == world.places()[-1]
    assert len(lines) == 3  # the piece, and the whole line again
    with pytest.raises(NotTakenError):
        await LinesFile(tmp_path / "no" / "where", "jsonl").take(ORIGIN, [])


# --- what holds for all of them


async def test_a_place_that_the_log_does_not_have_any_more_is_a_gap_on_record(world: World, tmp_path: Path) -> None:
    await world.grow(2)
    size = len(world.places())
    world.store.anchor(f"{PLACE}x", size + 10, 0)  # a backup was put in place
    await world.drain(world.forwarding(x=world.post(LinesFile(tmp_path / "out", "jsonl"))))
    (gap,) = world.gaps()
    assert (gap["first"], gap["stop"], gap["reason"]) == (size, size + 10, "the log was set back")


async def test_a_hanging_receiver_keeps_neither_the_ledger_nor_another_receiver_waiting(world: World, tmp_path: Path) -> None:
    class Hanging:
        async def take(self, log: str, records: object) -> None:
            await asyncio.Event().wait()

        async def close(self) -> None:
            """Nothing is held."""

    path = tmp_path / "out"
    forwarding = world.forwarding(stuck=world.post(Hanging()), fine=world.post(LinesFile(path, "jsonl")))
    task = asyncio.create_task(forwarding.run())
    await world.grow(30)
    async with asyncio.timeout(20):
        while not path.exists() or len(path.read_text().splitlines()) < len(world.places()):  # noqa: ASYNC110  as above
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert (forwarding.posts["fine"].fault, forwarding.posts["stuck"].at) == ("", 0)


async def test_one_that_begins_now_gets_only_what_comes(world: World, tmp_path: Path) -> None:
    await world.grow(3)
    before = len(world.places())
    post = Post(LinesFile(tmp_path / "out", "jsonl"), 10, 0.05, from_first=False)
    forwarding = world.forwarding(x=post)
    assert await forwarding.once("x") is False
    await world.grow(2)
    await world.drain(forwarding)
    seen = [json.loads(line)["seq"] for line in (tmp_path / "out").read_text().splitlines()]
    assert seen == world.places()[before:]


async def test_of_two_processes_one_forwards(world: World, tmp_path: Path) -> None:
    await world.grow(3)
    other = ProofStore(world.url)
    try:
        assert other.lease("forwarders")
        forwarding = world.forwarding(x=world.post(LinesFile(tmp_path / "out", "jsonl")))
        assert await forwarding.once("x") is False
        assert not (tmp_path / "out").exists()
    finally:
        other.close()
    await world.drain(forwarding)
    assert (tmp_path / "out").exists()


async def test_gaps_are_kinds_that_the_verifier_knows(world: World) -> None:
    from audit.verify_url import verify_url

    await world.journal.append(Entry("forward.gap", "g1", NOON, None, {"forwarder": "x", "first": 0, "stop": 1, "reason": "x"}))
    assert verify_url(world.url, world.journal.vkey).findings == []
