"""Code that runs elsewhere: the same promises over a socket, for whoever is let in, and nothing left when the line breaks."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from sandbox.landlock import LandlockRunner
from sandbox.model import Guarantee, IsolationUnprovenError, Job, NotOfferedError, Profile, Reason, SandboxBusyError, Strength
from sandbox.names import Destination
from sandbox.profiles import load_profiles
from sandbox.remote import RemoteRunner, TlsAddress, UnixAddress, client_tls, own_address
from sandbox.result import Artifact, Run
from sandbox.runner import Finding, Hooks, Report
from sandbox.serving import OwnKernel, Serving, by_name, by_uid, on_tls, on_unix, server_tls
from sandbox.wire import VERSION, Done, Execute, Fetch, Opened, Output, Tools, Welcome, execute, frame, from_gateway, from_runner
from tests.sandbox.signed import Signed

SHIPPED = load_profiles()["no-network-512mb"]
PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to/sandbox-deploy.md").read_text()
NONE = Hooks()
LISTED = replace(
    SHIPPED, network=(Destination.parse("api.example.com:443"),),
    requires={name: strength for name, strength in SHIPPED.requires.items() if name is not Guarantee.NET_NONE},
)  # fmt: skip
PROVEN = {name: Finding(Strength.HARD) for name in Guarantee if name is not Guarantee.OWN_KERNEL}


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder for scratch folders, which runs of other users can reach."""
    with tempfile.TemporaryDirectory(prefix="runner-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "scratch"


class Scripted:
    """A runner that does what a test says; `report` and `run` are its answers."""

    name = "scripted"

    def __init__(self) -> None:
        self.report = Report("scripted", MappingProxyType(dict(PROVEN)), MappingProxyType({}), 1.0)
        self.jobs: list[Job] = []
        self.ended = asyncio.Event()
        self.started = asyncio.Event()
        self.script: Callable[[Job, Hooks], Any] = self.fine

    async def probe(self) -> Report:
        return self.report

    async def run(self, job: Job, hooks: Hooks = NONE) -> Run:
        self.jobs.append(job)
        self.started.set()
        try:
            return await self.script(job, hooks)
        finally:
            self.ended.set()

    async def fine(self, job: Job, hooks: Hooks) -> Run:
        return ran(job)

    def forget(self) -> None: ...

    async def serve(self, program: Any, hooks: Hooks = NONE) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None: ...


def ran(job: Job, **changes: Any) -> Run:
    proven = dict.fromkeys(PROVEN, Strength.HARD)
    run = replace(Run.without_output(job, Reason.OK, ""), exit_code=0, stdout=b"42\n", guarantees=MappingProxyType(proven))
    return replace(run, **changes)


def job(code: str = "print(42)", profile: Profile = SHIPPED, **more: Any) -> Job:
    return Job("run-1", code, profile, **more)


@asynccontextmanager
async def elsewhere(path: Path, runner: Any, **options: Any) -> AsyncIterator[RemoteRunner]:
    """The runner behind a socket, and what a gateway has of it."""
    serving = Serving(runner, options.pop("admit", by_uid({os.geteuid()})), options.pop("own_kernel", None))
    server = await on_unix(path, {os.geteuid()})(serving)
    remote = RemoteRunner(own_address(path), **options)
    try:
        yield remote
    finally:
        await remote.aclose()
        server.close()
        await serving.aclose()


async def test_real_code_runs_in_a_cage_elsewhere_and_comes_back_with_what_was_proven(tmp_path: Path, base: Path) -> None:
    async with elsewhere(tmp_path / "s", LandlockRunner(base=base)) as remote:
        report = await remote.probe()
        run = await remote.run(job("import os; print(6 * 7, os.path.exists('/etc/passwd') and open('/etc/passwd').read())"))
        fine = await remote.run(job())
    assert report.backend == "runner:landlock"
    assert not report.missing(SHIPPED)
    assert (fine.reason, fine.stdout) == (Reason.OK, b"42\n")
    assert run.reason is Reason.ERROR  # the cage elsewhere is a cage
    assert fine.guarantees[Guarantee.NET_NONE] is Strength.HARD


async def test_the_limits_of_the_profile_hold_elsewhere(tmp_path: Path, base: Path) -> None:
    short = replace(SHIPPED, limits=replace(SHIPPED.limits, wall_seconds=0.5))
    async with elsewhere(tmp_path / "s", LandlockRunner(base=base)) as remote:
        assert (await remote.run(job("while True: pass", short))).reason is Reason.TIMEOUT


async def test_a_gateway_that_hangs_up_ends_its_run_and_nothing_of_it_is_left(tmp_path: Path, base: Path) -> None:
    async with elsewhere(tmp_path / "s", LandlockRunner(base=base)) as remote:
        await remote.probe()
        running = asyncio.create_task(remote.run(job("import time; time.sleep(25)")))
        await asyncio.to_thread(_code_is_there, base)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not _code_in(base)  # gone when the cancellation is through


def _code_in(base: Path) -> bool:
    return any(base.rglob("main.py"))


def _code_is_there(base: Path) -> None:
    while not _code_in(base):
        time.sleep(0.02)  # for something that another process does


async def test_a_gateway_that_dies_ends_its_run(tmp_path: Path) -> None:
    runner = Scripted()
    runner.script = lambda _job, _hooks: asyncio.Event().wait()
    async with elsewhere(tmp_path / "s", runner):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await reader.readexactly(4)
        writer.write(frame(execute(job(), output=False, tools=False)))
        await runner.started.wait()
        writer.transport.abort()
        await runner.ended.wait()
        writer.close()


async def test_output_and_calls_back_travel_while_the_run_goes_on(tmp_path: Path) -> None:
    async def talks(job: Job, hooks: Hooks) -> Run:
        assert hooks.output is not None
        assert hooks.tools is not None
        loop = asyncio.get_running_loop()
        with hooks.tools as channel:
            channel.setblocking(False)
            hooks.output("stdout", b"one")
            await loop.sock_sendall(channel, b"question")
            answer = await loop.sock_recv(channel, 100)
            hooks.output("stderr", answer)
        return ran(job)

    runner = Scripted()
    runner.script = talks
    ours, theirs = socket.socketpair()
    said: list[tuple[str, bytes]] = []
    async with elsewhere(tmp_path / "s", runner) as remote:
        with ours:
            ours.setblocking(False)
            profile = replace(SHIPPED, tools=True)
            running = asyncio.create_task(remote.run(job(profile=profile), Hooks(lambda *each: said.append(each), theirs)))
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(ours, 100) == b"question"
            await loop.sock_sendall(ours, b"answer")
            assert (await running).reason is Reason.OK
            assert await loop.sock_recv(ours, 100) == b""
    assert said == [("stdout", b"one"), ("stderr", b"answer")]


async def test_the_code_does_not_leave_before_the_report_covers_the_profile(tmp_path: Path) -> None:
    runner = Scripted()
    runner.report = replace(runner.report, findings=MappingProxyType({**PROVEN, Guarantee.NET_NONE: Finding(Strength.SOFT)}))
    async with elsewhere(tmp_path / "s", runner) as remote:
        with pytest.raises(IsolationUnprovenError, match="net_none"):
            await remote.run(job())
    assert runner.jobs == []


async def test_a_run_that_did_not_attest_what_was_reported_is_not_believed(tmp_path: Path) -> None:
    runner = Scripted()

    async def weak(job: Job, hooks: Hooks) -> Run:
        return ran(job, guarantees=MappingProxyType({Guarantee.FS_READ: Strength.HARD}))

    runner.script = weak
    async with elsewhere(tmp_path / "s", runner) as remote:
        with pytest.raises(IsolationUnprovenError, match="fs_write"):
            await remote.run(job())


async def test_of_a_cage_that_failed_before_it_attested_no_output_is_taken(tmp_path: Path) -> None:
    async def fails(job: Job, hooks: Hooks) -> Run:
        return ran(job, reason=Reason.SANDBOX_ERROR, guarantees=MappingProxyType({}), detail="the cage did not come up")

    runner = Scripted()
    runner.script = fails
    async with elsewhere(tmp_path / "s", runner) as remote:
        run = await remote.run(job())
    assert (run.reason, run.stdout, run.detail) == (Reason.SANDBOX_ERROR, b"", "the cage did not come up")


@pytest.mark.parametrize(
    "error",
    [
        IsolationUnprovenError({Guarantee.IDENTITY: (Strength.HARD, Strength.SOFT)}, "do this"),
        SandboxBusyError("too many runs wait"),
        NotOfferedError("javascript"),
    ],
)
async def test_a_refusal_elsewhere_is_the_same_refusal_here(tmp_path: Path, error: Exception) -> None:
    async def refuses(job: Job, hooks: Hooks) -> Run:
        raise error

    runner = Scripted()
    runner.script = refuses
    async with elsewhere(tmp_path / "s", runner) as remote:
        with pytest.raises(type(error)) as raised:
            await remote.run(job())
    assert str(raised.value) == str(error)
    assert vars(raised.value) == vars(error)


LIES: Mapping[str, dict[str, Any]] = {
    "another job": {"id": "run-2"},
    "other code": {"code_sha256": "0" * 64},
    "more output than allowed": {"stdout": b"x" * (SHIPPED.limits.output_bytes + 1)},
    "more files than allowed": {"files": tuple(Artifact.of(f"a{n}", b"x") for n in range(SHIPPED.limits.artifacts + 1))},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_an_answer_that_cannot_be_of_this_job_is_not_believed(tmp_path: Path, lie: dict[str, Any]) -> None:
    async def lies(job: Job, hooks: Hooks) -> Run:
        return ran(job, **lie)

    runner = Scripted()
    runner.script = lies
    async with elsewhere(tmp_path / "s", runner) as remote:
        run = await remote.run(job())
    assert (run.reason, run.stdout) == (Reason.SANDBOX_ERROR, b"")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../b", "a\0b", "a\\b"])
async def test_a_file_under_a_name_that_leads_elsewhere_is_not_taken(tmp_path: Path, name: str) -> None:
    profile = replace(SHIPPED, limits=replace(SHIPPED.limits, artifacts=1, artifact_bytes=10))

    async def writes(job: Job, hooks: Hooks) -> Run:
        return ran(job, files=(Artifact(name, b"x", "not its digest"),))

    runner = Scripted()
    runner.script = writes
    async with elsewhere(tmp_path / "s", runner) as remote:
        assert (await remote.run(job(profile=profile))).reason is Reason.SANDBOX_ERROR


async def test_the_digest_of_a_file_is_made_here(tmp_path: Path) -> None:
    profile = replace(SHIPPED, limits=replace(SHIPPED.limits, artifacts=1, artifact_bytes=10))

    async def writes(job: Job, hooks: Hooks) -> Run:
        return ran(job, files=(Artifact("a", b"x", "0" * 64),))

    runner = Scripted()
    runner.script = writes
    async with elsewhere(tmp_path / "s", runner) as remote:
        assert (await remote.run(job(profile=profile))).files == (Artifact.of("a", b"x"),)


NOISE = {
    "garbage": b"\xff" * 64,
    "a frame too large": b"\xff\xff\xff\xff",
    "half a frame": b"\x00\x00\x00\x05ab",
    "no message": frame(Tools(b"x")),
    "a connection that waits for nobody": frame(Fetch(b"\0" * 16)),
    "a message of another version": (6).to_bytes(4) + b"\x81\xa4type",
    "silence": b"",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
async def test_a_caller_that_speaks_otherwise_gets_nothing_run(tmp_path: Path, noise: bytes) -> None:
    runner = Scripted()
    async with elsewhere(tmp_path / "s", runner):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(noise)
        writer.write_eof()
        await reader.read()  # the welcome, and the end
        writer.close()
    assert runner.jobs == []


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
async def test_a_runner_that_speaks_otherwise_is_an_error_of_the_sandbox(tmp_path: Path, noise: bytes) -> None:
    async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(frame(Welcome(VERSION, Scripted().report)))
            await from_gateway(reader, 1 << 20)
            writer.write(noise)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(liar, tmp_path / "s")
    remote = RemoteRunner(own_address(tmp_path / "s"))
    run = await remote.run(job())
    server.close()
    assert run.reason is Reason.SANDBOX_ERROR


async def test_output_that_nobody_asked_for_or_beyond_the_limit_ends_the_run(tmp_path: Path) -> None:
    async def loud(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(Welcome(VERSION, Scripted().report)))
        asked = await from_gateway(reader, 1 << 20)
        assert isinstance(asked, Execute)
        for _ in range(3):
            writer.write(frame(Output("stdout", b"x" * SHIPPED.limits.output_bytes)))
        writer.write(frame(Done(ran(asked.job))))
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(loud, tmp_path / "s")
    remote = RemoteRunner(own_address(tmp_path / "s"))
    seen: list[int] = []
    runs = [await remote.run(job(), hooks) for hooks in (Hooks(), Hooks(lambda _, data: seen.append(len(data))))]
    server.close()
    assert [run.reason for run in runs] == [Reason.SANDBOX_ERROR] * 2
    assert sum(seen) == SHIPPED.limits.output_bytes


async def test_a_runner_of_another_version_is_handed_nothing(tmp_path: Path) -> None:
    got: list[object] = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(Welcome(VERSION + 1, Scripted().report)))
        got.append(await reader.read())
        writer.close()

    server = await asyncio.start_unix_server(other, tmp_path / "s")
    remote = RemoteRunner(own_address(tmp_path / "s"))
    assert "version" in (await remote.probe()).problem
    with pytest.raises(IsolationUnprovenError):
        await remote.run(job())
    server.close()
    assert got == [b"", b""]


async def test_a_job_that_the_runner_reads_less_into_is_not_run(tmp_path: Path) -> None:
    """An older runner that does not know a limit would drop it: the digest over the whole job says so."""
    runner = Scripted()
    async with elsewhere(tmp_path / "s", runner):
        asked = execute(job(), output=False, tools=False)
        for wrong in ({"inputs": "0" * 64}, {"profile": "0" * 64}):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            writer.write(frame(msgspec.structs.replace(asked, **wrong)))
            await reader.read()
            writer.close()
    assert runner.jobs == []


async def test_what_cannot_be_had_elsewhere_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    runner = Scripted()

    async def local_only(listener: socket.socket) -> None:
        listener.close()

    async with elsewhere(tmp_path / "s", runner) as remote:
        for hooks in (Hooks(), Hooks(network=local_only)):
            with pytest.raises(NotOfferedError, match="network"):
                await remote.run(job(profile=LISTED), hooks)
        with pytest.raises(NotOfferedError):
            await remote.serve(None)  # type: ignore[arg-type]  # nothing of it is looked at
    assert runner.jobs == []


async def test_a_runner_that_is_not_there_proves_nothing(tmp_path: Path) -> None:
    remote = RemoteRunner(own_address(tmp_path / "nowhere"))
    report = await remote.probe()
    assert f"{tmp_path / 'nowhere'} cannot be reached: No such file" in report.problem
    assert report.missing(SHIPPED)
    with pytest.raises(IsolationUnprovenError) as raised:
        await remote.run(job())
    assert "cannot be reached" in raised.value.help


async def test_as_many_runs_as_may_and_no_more(tmp_path: Path) -> None:
    runner = Scripted()
    runner.script = lambda _job, _hooks: asyncio.Event().wait()
    async with elsewhere(tmp_path / "s", runner, concurrency=1) as remote:
        first = asyncio.create_task(remote.run(job()))
        await runner.started.wait()
        with pytest.raises(SandboxBusyError):
            await remote.run(job())
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first


# --- connections of code


class Echoing:
    """Stands where the gateway's proxy does: answers each connection with what it said, to its end."""

    def __init__(self) -> None:
        self.served = 0
        self.ended = asyncio.Event()

    async def __call__(self, listener: socket.socket) -> None:
        raise AssertionError

    async def relayed(self, arriving: asyncio.Queue[socket.socket]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    tasks.create_task(self._one(await arriving.get()))
        finally:
            self.ended.set()

    async def _one(self, inside: socket.socket) -> None:
        self.served += 1
        loop = asyncio.get_running_loop()
        with inside:
            inside.setblocking(False)
            while data := await loop.sock_recv(inside, 65536):
                await loop.sock_sendall(inside, data)


async def connects(hooks: Hooks, count: int, said: bytes, *, ends: bool = True) -> list[bytes]:
    """What a cage would do: a listener for the hook, connections to it, and what came back on each."""
    assert hooks.network is not None
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        address = listener.getsockname()
        serving = asyncio.create_task(hooks.network(listener.dup()))

        async def one() -> bytes:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(said)
            try:
                if not ends:
                    return await reader.readexactly(len(said))
                writer.write_eof()
                return await reader.read()
            except ConnectionError:
                return b"reset"
            finally:
                writer.close()

        try:
            return await asyncio.gather(*(one() for _ in range(count)))
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def test_connections_of_code_elsewhere_reach_the_gateways_proxy_each_by_itself_and_whole(tmp_path: Path) -> None:
    came: list[bytes] = []

    async def script(job: Job, hooks: Hooks) -> Run:
        came.extend(await connects(hooks, 20, b"x" * 300_000))
        return ran(job)

    runner, proxy = Scripted(), Echoing()
    runner.script = script
    async with elsewhere(tmp_path / "s", runner) as remote:
        assert (await remote.run(job(profile=LISTED), Hooks(network=proxy))).reason is Reason.OK
    assert came == [b"x" * 300_000] * 20
    assert proxy.served == 20
    assert proxy.ended.is_set()  # nobody waits for more of a run that has ended


async def test_connections_of_code_travel_over_tls_as_well(tmp_path: Path) -> None:
    came: list[bytes] = []

    async def script(job: Job, hooks: Hooks) -> Run:
        came.extend(await connects(hooks, 5, b"x" * 100_000, ends=False))
        return ran(job)

    ours, runner = Signed(tmp_path / "ours"), Scripted()
    runner.script = script
    async with at_a_port(runner, server_tls(*ours.leaf("runner"), ours.authority), {"gateway"}) as port:
        address = TlsAddress("127.0.0.1", port, "runner", client_tls(*ours.leaf("gateway"), ours.authority))
        assert (await RemoteRunner(address).run(job(profile=LISTED), Hooks(network=Echoing()))).reason is Reason.OK
    assert came == [b"x" * 100_000] * 5


async def test_a_key_fetches_its_connection_once_and_nobody_can_guess_it(tmp_path: Path) -> None:
    got: list[bytes] = []

    async def script(job: Job, hooks: Hooks) -> Run:
        got.extend(await connects(hooks, 1, b"secret"))
        return ran(job)

    runner = Scripted()
    runner.script = script
    async with elsewhere(tmp_path / "s", runner):

        async def line(message: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            assert isinstance(await from_runner(reader, 1 << 20), Welcome)
            writer.write(frame(message))
            return reader, writer

        reader, writer = await line(execute(job(profile=LISTED), output=False, tools=False, network=True))
        opened = await from_runner(reader, 1 << 20)
        assert isinstance(opened, Opened)
        guess, guessing = await line(Fetch(bytes(16)))
        assert await guess.read() == b""
        first, fetching = await line(Fetch(opened.key))
        assert await first.readexactly(6) == b"secret"
        second, again = await line(Fetch(opened.key))
        assert await second.read() == b""
        fetching.write(b"answer")
        fetching.write_eof()
        assert isinstance(await from_runner(reader, 1 << 20), Done)
        for each in (writer, guessing, fetching, again):
            each.close()
    assert got == [b"answer"]


# --- who is let in


async def test_a_process_of_another_user_is_not_let_in(tmp_path: Path) -> None:
    async with elsewhere(tmp_path / "s", Scripted(), admit=by_uid({os.geteuid() + 1})) as remote:
        assert "hung up" in (await remote.probe()).problem


async def test_a_process_of_another_user_behind_the_socket_is_told_nothing(tmp_path: Path) -> None:
    runner = Scripted()
    async with elsewhere(tmp_path / "s", runner):
        remote = RemoteRunner(UnixAddress(tmp_path / "s", os.geteuid() + 1))
        assert "not of uid" in (await remote.probe()).problem
        with pytest.raises(IsolationUnprovenError):
            await remote.run(job())
    assert runner.jobs == []


async def test_a_file_that_is_no_socket_and_a_socket_in_use_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="no socket"):
        await on_unix(tmp_path / "file", {0})(Serving(Scripted(), by_uid(set())))
    async with elsewhere(tmp_path / "s", Scripted()):
        with pytest.raises(FileExistsError, match="another process"):
            await on_unix(tmp_path / "s", {0})(Serving(Scripted(), by_uid(set())))
    server = await on_unix(tmp_path / "s", {os.geteuid()})(Serving(Scripted(), by_uid(set())))  # left behind: taken away
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    server.close()


@asynccontextmanager
async def at_a_port(runner: Any, server_context: ssl.SSLContext, names: set[str]) -> AsyncIterator[int]:
    serving = Serving(runner, by_name(names))
    server = await on_tls("127.0.0.1", 0, server_context)(serving)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await serving.aclose()


async def test_over_tls_both_sides_show_a_certificate_and_only_a_named_gateway_is_let_in(tmp_path: Path) -> None:
    ours, other = Signed(tmp_path / "ours"), Signed(tmp_path / "other")
    context = server_tls(*ours.leaf("runner"), ours.authority)
    runner = Scripted()
    async with at_a_port(runner, context, {"gateway"}) as port:

        async def problem(name: str, signed: Signed, authority: Path, expected: str = "runner") -> str:
            remote = RemoteRunner(TlsAddress("127.0.0.1", port, expected, client_tls(*signed.leaf(name), authority)))
            return (await remote.probe()).problem

        assert await problem("gateway", ours, ours.authority) == ""
        assert await problem("agent", ours, ours.authority) != ""  # signed, and not named
        assert await problem("gateway", other, ours.authority) != ""  # named, and signed by somebody else
        assert await problem("gateway", ours, other.authority) != ""  # the runner's is not believed
        assert await problem("gateway", ours, ours.authority, "another") != ""  # and not for another name
        remote = RemoteRunner(TlsAddress("127.0.0.1", port, "runner", client_tls(*ours.leaf("gateway"), ours.authority)))
        assert (await remote.run(job())).stdout == b"42\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)  # no TLS at all
        writer.write(b"\x00\x00\x00\x01x")
        assert await reader.read() == b""
        writer.close()
    assert len(runner.jobs) == 1


async def test_the_certificates_that_the_page_makes_are_ones_that_both_sides_take(tmp_path: Path) -> None:
    commands = PAGE[PAGE.index("openssl req -x509") : PAGE.index("kubectl create")]
    made = await asyncio.create_subprocess_exec("sh", "-ec", commands, cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert await made.wait() == 0
    authority = tmp_path / "ca.crt"
    ours, theirs = ((tmp_path / f"{name}.crt", tmp_path / f"{name}.key") for name in ("bailiwick-gateway", "sandbox-runner"))
    async with at_a_port(Scripted(), server_tls(*theirs, authority), {"bailiwick-gateway"}) as port:
        remote = RemoteRunner(TlsAddress("127.0.0.1", port, "sandbox-runner", client_tls(*ours, authority)))
        assert (await remote.run(job())).stdout == b"42\n"


# --- a kernel of its own


async def test_own_kernel_is_said_only_where_it_was_found_and_an_operator_says_so(tmp_path: Path) -> None:
    strict = replace(SHIPPED, requires=MappingProxyType({**SHIPPED.requires, Guarantee.OWN_KERNEL: Strength.HARD}))
    async with elsewhere(tmp_path / "a", Scripted()) as remote:
        with pytest.raises(IsolationUnprovenError, match="own_kernel"):
            await remote.run(job(profile=strict))
    async with elsewhere(tmp_path / "b", Scripted(), own_kernel=OwnKernel("gVisor says so")) as remote:
        run = await remote.run(job(profile=strict))
    assert run.guarantees[Guarantee.OWN_KERNEL] is Strength.HARD


# --- the command


def command(*arguments: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "gateway.cli", "sandbox", "runner", *arguments]
    clean = {"PATH": os.environ["PATH"]}
    return subprocess.Popen(program, env=clean, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_the_command_serves_until_it_is_told_to_end_and_says_only_what_is_proven(tmp_path: Path) -> None:
    path = tmp_path / "runner.sock"
    process = command("--listen", f"unix:{path}", "--backend", "landlock")
    assert process.stderr is not None
    first = await asyncio.to_thread(process.stderr.readline)
    assert first.startswith("landlock serves: "), first
    remote = RemoteRunner(own_address(path))
    assert (await remote.run(job("print('secret of the caller')"))).stdout == b"secret of the caller\n"
    process.terminate()
    out, err = await asyncio.to_thread(process.communicate, timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


async def test_doctor_shows_what_the_runner_of_the_settings_proves(tmp_path: Path) -> None:
    (tmp_path / "bailiwick.yaml").write_text("sandbox: {enabled: true, runner: {socket: run.sock}}\n")  # beside the file
    doctor = [sys.executable, "-m", "gateway.cli", "sandbox", "doctor", "--config", str(tmp_path / "bailiwick.yaml")]
    async with elsewhere(tmp_path / "run.sock", Scripted()):
        told = await asyncio.to_thread(subprocess.run, doctor, capture_output=True, text=True, check=False)
    assert told.stdout.splitlines()[0].split() == ["guarantee", "wanted", "runner:scripted"], told.stderr
    assert "covered by runner:scripted" in told.stdout
    gone = await asyncio.to_thread(subprocess.run, doctor, capture_output=True, text=True, check=False)
    assert gone.returncode == 1
    assert "cannot be reached" in gone.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "tls:127.0.0.1:7443"], "--allow-name"),
        (["--listen", "tcp:127.0.0.1:7443"], "tls:host:port"),
        (["--listen", "unix:relative"], "unix:/path"),
        (["--listen", "unix:/x", "--allow-name", "gateway"], "--allow-uid"),
        (["--listen", "unix:/nonexistent/x", "--backend", "none"], "no backend"),
        (["--listen", "unix:/nonexistent/x", "--own-kernel"], "gVisor"),
    ],
)
async def test_what_would_let_in_more_than_was_meant_is_a_mistake(arguments: list[str], said: str) -> None:
    process = command(*arguments)
    _, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 2
    assert said in err
