"""A cage's network: a namespace with its own loopback alone, the proxy that listens there, and hosts outside on real sockets."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.journal import Journal
from audit.model import Entry, Receipt
from audit.reader import Ledger, Record
from gateway.egress.deciding import Ceiling, Desk
from gateway.egress.dial import Exempt
from gateway.egress.proxy import Bounds, Egress, Serving
from gateway.model import Arrival, Principal, Trace, new_id, wall_clock
from gateway.record import Recorder
from policies import engine as engine_module
from policies.bundle import load
from policies.engine import Engine
from sandbox.names import Destination

ORIGIN = "example.org/log"
MODEL = Path(engine_module.__file__).with_name("default") / "model.conf"
HERE = (ip_network("127.0.0.0/8"),)
GRANTS = """\
p, user:dev/ann, acme, host:*, connect, allow, -, -, ANN-1
p, agent:coder, acme, host:*, connect, allow, -, -, COD-1
p, *, acme, host:denied.example.com:*, connect, deny, -, -, SEC-1
"""
DUTIES = "full-audit: {type: audit, arguments: full}\nblank: {type: redact-result, fields: [x]}\n"
ANN = Principal("user:dev/ann", ("agent:coder",), "acme", "wf-1", 2**33, "bearer", "0" * 64)

_INSIDE = """
import array, fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 0x49))  # SIOCSIFFLAGS: up
listener = socket.create_server(("127.0.0.1", 3128), backlog=64)
out = socket.socket(fileno=int(sys.argv[1]))
def give(one):
    out.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()]))])
give(listener)
listener.close()
while out.recv(1):
    with socket.create_connection(("127.0.0.1", 3128)) as one:
        give(one)
"""


class Cage:
    """A process in a network namespace of its own, in which `listener` listens."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user", "--user"])]
        command += [sys.executable, "-I", "-S", "-c", _INSIDE, str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        self._channel = ours
        self.listener = self._take()

    def connect(self) -> socket.socket:
        """A connection to the proxy, made inside."""
        self._channel.send(b"c")
        return self._take()

    async def run(self, *command: str, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """A program inside: (exit code, what it printed, what it complained of)."""
        spaces = f"/proc/{self.process.pid}/ns"
        enter = ["nsenter", f"--net={spaces}/net"]
        if os.geteuid() != 0:
            enter += [f"--user={spaces}/user", "--preserve-credentials"]
        process = await asyncio.create_subprocess_exec(
            *enter, *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": "/nowhere", **(environment or {})},
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    def close(self) -> None:
        self._channel.close()
        self.listener.close()
        self.process.wait(10)

    def _take(self) -> socket.socket:
        data, found, _, _ = socket.recv_fds(self._channel, 16, 1)
        assert data, "the cage's network did not come up"
        return socket.socket(fileno=found[0])


@contextmanager
def cage() -> Any:
    made = Cage()
    try:
        yield made
    finally:
        made.close()


class Client:
    """One connection to the proxy, from inside the cage, in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        """The proxy's answer up to its empty line."""
        with suppress(asyncio.IncompleteReadError):
            return await self.reader.readuntil(b"\r\n\r\n")
        return b""

    async def rest(self) -> bytes:
        """Everything up to the end; b"" where the connection is reset."""
        with suppress(ConnectionError):
            return await self.reader.read()
        return b""

    async def asked(self, data: bytes) -> bytes:
        """All that is answered to these bytes."""
        with suppress(ConnectionError):
            await self.say(data)
        return await self.rest()

    async def connect(self, target: str) -> bytes:
        await self.say(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        return await self.head()


@dataclass
class World:
    """The proxy of one run and everything around it.

    names     what the resolver answers: the answers are taken in turn, the last one for good.
    lookups   names that were looked up; reached, connections that came to a host of `listening`, by its name.
    """

    cage: Cage
    journal: Journal
    url: str
    seal: bytes
    names: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    lookups: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)
    exempt: dict[str, Exempt] = field(default_factory=dict)
    destinations: list[Destination] = field(default_factory=list)
    principal: Principal = ANN
    bounds: Bounds = field(default_factory=Bounds)
    alive: Callable[[Principal], None] = lambda _: None
    grants: Path = Path()
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    run: str = field(default_factory=lambda: new_id(wall_clock()))
    clients: list[Client] = field(default_factory=list)
    _written: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def _append(self, entry: Entry) -> Receipt:
        receipt = await self.journal.append(entry)
        self._written.put_nowait(entry.kind)
        return receipt

    async def written(self, kind: str) -> None:
        """Until the next record of this kind is durable."""
        while await self._written.get() != kind:
            pass

    async def resolve(self, name: str) -> Sequence[str]:
        self.lookups.append(name)
        answers = self.names.get(name)
        if not answers:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def serving(self, **bounds: Any) -> Serving:
        """The proxy for one run."""
        engine = Engine(load(self.grants))
        recorder = Recorder(self._append, self.journal.submit, wall_clock)
        desk = Desk(recorder, lambda _: engine.decide, self.alive, self.resolve, wall_clock, self.exempt)
        arrival = Arrival(self.run, "mcp", "sandbox", (), b"{}", wall_clock(), Trace("1" * 32, "2" * 16))
        ceiling = Ceiling(self.run, arrival, self.principal, "some-hosts", self.destinations)
        return Egress(desk, replace(self.bounds, **bounds)).network(ceiling)

    def start(self, **bounds: Any) -> asyncio.Task[None]:
        """The proxy, at work in the cage's network."""
        task = asyncio.create_task(self.serving(**bounds)(self.cage.listener.dup()))
        self.tasks.append(task)
        return task

    async def stop(self) -> None:
        """End the run."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    async def client(self) -> Client:
        side = await asyncio.to_thread(self.cage.connect)
        side.setblocking(False)
        client = Client(*await asyncio.open_connection(sock=side))
        self.clients.append(client)
        return client

    def host(self, name: str, port: int, *, tls: bool = True, listed: str = "") -> str:
        """A name that leads to this machine's own 127.0.0.1 and may; `name:port`."""
        self.names[name] = [["127.0.0.1"]]
        text = f"{name}:{port}"
        self.exempt[text] = Exempt(tls, HERE)
        self.destinations.append(Destination.parse(listed or text))
        return text

    @asynccontextmanager
    async def listening(
        self, name: str, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None,
        *, tls: ssl.SSLContext | None = None, plain: bool = False,
    ) -> AsyncIterator[str]:  # fmt: skip
        """A host outside under this name; the destination's text."""
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.reached.append(name)
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await (serve or page)(reader, writer)
            except (ConnectionError, ssl.SSLError):
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
        try:
            yield self.host(name, server.sockets[0].getsockname()[1], tls=not plain)
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def records(self) -> list[Record]:
        with Ledger.open(self.url) as ledger:
            return [each for each in ledger.records() if each.leaf.get("proto") == "sandbox" or each.kind == "egress.end"]

    def kinds(self) -> list[str]:
        return [record.kind for record in self.records()]


async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One HTTP answer, and the end."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    await writer.drain()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What comes goes back, until it ends."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


@asynccontextmanager
async def world(folder: Path, grants: str = GRANTS) -> AsyncIterator[World]:
    policy = folder / "policy"
    (policy / "grants").mkdir(parents=True)
    (policy / "model.conf").write_text(MODEL.read_text())
    (policy / "roles.csv").write_text("g, idp:buyers, role:buyer, acme\n")
    (policy / "tools.yaml").write_text("tenants: [acme]\ntools:\n  erp.read: {args: {id: string}}\n")
    (policy / "conditions.yaml").write_text("")
    (policy / "obligations.yaml").write_text(DUTIES)
    (policy / "grants" / "people.csv").write_text(grants)
    seal = secrets.token_bytes(32)
    url = f"sqlite:///{folder / 'ledger.db'}"
    journal = await Journal.open(
        url=url, origin=ORIGIN, signing_key=Ed25519PrivateKey.generate(), seal_key=seal, writer="gw",
        clock=wall_clock,
    )  # fmt: skip
    with cage() as made:
        here = World(made, journal, url, seal, grants=policy)
        try:
            yield here
        finally:
            await here.stop()
            for client in here.clients:
                client.writer.close()
                with suppress(ConnectionError):
                    await client.writer.wait_closed()
            await journal.close()
