"""What a run is given and what it leaves: files, arguments, standard input, output as it comes, a way back; in every language."""

# ruff: noqa: ASYNC240  looking at files in between is what these tests are about
from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sandbox.engine import CagedRunner
from sandbox.landlock import LandlockRunner
from sandbox.model import Guarantee, Job, Language, NotOfferedError, Profile, Reason, Strength
from sandbox.names import Destination
from sandbox.profiles import load_profiles
from sandbox.result import Run
from sandbox.runner import Hooks

SHIPPED = load_profiles()["no-network-512mb"]
PROFILE = replace(
    SHIPPED, limits=replace(SHIPPED.limits, wall_seconds=20, memory_bytes=256 << 20, artifacts=8, artifact_bytes=1 << 20)
)
NODE = pytest.mark.skipif(shutil.which("node", path="/usr/bin:/usr/local/bin") is None, reason="there is no node here")


def job(code: str, **given: Any) -> Job:
    return Job("1", code, given.pop("profile", PROFILE), **given)


@pytest.fixture(params=["landlock", "bwrap"])
def runner(request: pytest.FixtureRequest, boxes: Any) -> CagedRunner:
    found = boxes("own", request.param).runner
    assert isinstance(found, CagedRunner)
    return found


async def left_by(runner: CagedRunner, code: str, **given: Any) -> Run:
    run = await runner.run(job(code, **given))
    assert run.reason is Reason.OK, run
    return run


# -- in and out ----------------------------------------------------------------------------------------------------------------


async def test_files_arguments_and_standard_input_are_there(runner: CagedRunner) -> None:
    program = "import sys\nprint(open('in/a.txt').read(), sys.argv[1:], sys.stdin.read())"
    run = await left_by(runner, program, files={"in/a.txt": b"A"}, arguments=("-x", "é", ""), stdin="über\n".encode())
    assert run.stdout.decode() == "A ['-x', 'é', ''] über\n\n"


async def test_large_input_is_not_lost_and_not_waited_for(runner: CagedRunner) -> None:
    data = os.urandom(3 << 20)
    run = await left_by(runner, "import sys; print(len(sys.stdin.buffer.read()))", stdin=data)
    assert run.stdout == b"%d\n" % len(data)
    assert (await left_by(runner, "print('not read')", stdin=data)).stdout == b"not read\n"


async def test_what_code_leaves_is_taken_out_and_what_it_was_given_is_not(runner: CagedRunner) -> None:
    program = """
import os
os.makedirs('out/deep'); open('out/deep/b.bin', 'wb').write(bytes(range(256))); open('é.txt', 'w').write('x')
open('changed', 'w').write('B'); open('same', 'w').write('S')
"""
    run = await left_by(runner, program, files={"changed": b"A", "same": b"S", "in/untouched": b"U"})
    assert {file.name: file.data for file in run.files} == {
        "out/deep/b.bin": bytes(range(256)), "é.txt": b"x", "changed": b"B",
    }  # fmt: skip
    assert run.files_skipped == ()


async def test_what_code_was_given_and_took_away_is_named(runner: CagedRunner) -> None:
    program = """
import os
os.remove('deleted'); os.rename('moved', 'elsewhere'); os.remove('linked'); os.symlink('same', 'linked')
os.remove('folder'); os.mkdir('folder'); open('folder/x', 'w').write('x')
"""
    given = dict.fromkeys(("deleted", "moved", "linked", "folder", "same", "deep/same"), b"x")
    run = await left_by(runner, program, files=given)
    assert run.files_gone == ("deleted", "folder", "linked", "moved")
    assert {file.name for file in run.files} == {"elsewhere", "folder/x"}


async def test_a_program_that_rewrites_itself_leaves_it(runner: CagedRunner) -> None:
    assert [file.name for file in (await left_by(runner, "open('main.py', 'w').write('pass')")).files] == ["main.py"]


async def test_only_regular_files_of_one_name_are_taken(runner: CagedRunner) -> None:
    program = """
import os
os.symlink('/etc/passwd', 'link'); os.symlink('/', 'folder')
open('once', 'w').write('x'); os.link('once', 'twice')
open(b'\\xff', 'w').write('x'); open('new\\nline', 'w').write('x'); open('good', 'w').write('x')
os.makedirs('/'.join('d' * 20)); open('/'.join('d' * 20) + '/f', 'w').write('x')
os.close(os.open('hidden', os.O_CREAT, 0))
"""
    looked_into = isinstance(runner, LandlockRunner)  # its room is kept by looking: a folder that is closed to that ends the run
    run = await left_by(runner, program + ("" if looked_into else "os.mkdir('locked', 0)\n"))
    assert [(file.name, file.data) for file in run.files] == [("good", b"x")]
    why = dict(run.files_skipped)
    assert (why["link"], why["folder"]) == ("a link", "a link")
    assert (why["once"], why["twice"]) == ("has several names", "has several names")
    assert (why["\\xff"], why["hidden"]) == ("its name is not text", "cannot be opened")
    assert why.pop("locked", "cannot be opened") == "cannot be opened"
    assert len(why) == 8


async def test_a_run_may_not_close_a_folder_to_those_who_keep_its_room_by_looking(boxes: Any) -> None:
    run = await boxes("own", "landlock").runner.run(job("import os, time\nos.mkdir('locked', 0)\ntime.sleep(15)"))
    assert run.reason is Reason.DISK


async def test_files_beyond_the_limits_are_named_and_not_taken(runner: CagedRunner) -> None:
    limits = replace(PROFILE.limits, artifacts=2, artifact_bytes=100)
    program = "for n, s in enumerate((60, 60, 40, 0, 0)): open(f'{n}', 'wb').write(b'x' * s)"
    run = await left_by(runner, program, profile=replace(PROFILE, limits=limits))
    assert [(file.name, file.size) for file in run.files] == [("0", 60), ("2", 40)]
    assert dict(run.files_skipped) == {"1": "too large", "3": "one file too many", "4": "one file too many"}


async def test_a_file_full_of_holes_takes_no_more_room_than_its_limit(runner: CagedRunner) -> None:
    run = await left_by(runner, "open('sparse', 'wb').truncate(40 << 20)")
    assert (run.files, run.files_skipped) == ((), (("sparse", "too large"),))


async def test_without_a_limit_for_them_no_files_are_taken(runner: CagedRunner) -> None:
    limits = replace(PROFILE.limits, artifacts=0)
    assert (await left_by(runner, "open('x', 'w')", profile=replace(PROFILE, limits=limits))).files == ()


async def test_code_that_fails_leaves_its_files_too(runner: CagedRunner) -> None:
    run = await runner.run(job("open('x', 'w').write('1'); raise SystemExit(3)"))
    assert (run.reason, run.exit_code, [file.name for file in run.files]) == (Reason.ERROR, 3, ["x"])


async def test_a_plain_users_runs_leave_files_as_well(plain_box: Any) -> None:
    run = await plain_box.run("open('x', 'w').write('1')", artifacts=2, artifact_bytes=100)
    assert [file["name"] for file in run["files"]] == ["x"]


# -- while it runs -------------------------------------------------------------------------------------------------------------


async def test_output_comes_while_the_run_goes_on(runner: CagedRunner) -> None:
    pieces: list[tuple[str, bytes]] = []
    first = asyncio.Event()

    def output(stream: str, data: bytes) -> None:
        pieces.append((stream, data))
        first.set()

    ours, theirs = socket.socketpair()
    program = "import socket, sys\nprint('one', flush=True)\nsocket.socket(fileno=3).recv(1)\nprint('two', file=sys.stderr)"
    going = asyncio.create_task(
        runner.run(job(program, profile=replace(PROFILE, tools=True)), Hooks(output=output, tools=theirs))
    )
    await first.wait()
    assert not going.done()
    ours.send(b"x")  # only now does it go on
    run = await going
    ours.close()
    assert pieces == [("stdout", b"one\n"), ("stderr", b"two\n")]
    assert (run.stdout, run.stderr) == (b"one\n", b"two\n")


async def test_no_more_output_comes_than_the_limit(runner: CagedRunner) -> None:
    pieces: list[bytes] = []
    limits = replace(PROFILE.limits, output_bytes=100_000)
    flood = job("while True: print('x' * 999)", profile=replace(PROFILE, limits=limits))
    run = await runner.run(flood, Hooks(output=lambda _, data: pieces.append(data)))
    assert (run.reason, run.stdout_truncated) == (Reason.OUTPUT, True)
    assert b"".join(pieces) == run.stdout
    assert len(run.stdout) == 100_000


# -- the way back --------------------------------------------------------------------------------------------------------------

CALLER = """
import json, os, socket, struct
back = socket.socket(fileno=int(os.environ['BAILIWICK_TOOLS']))
def call(value):
    data = json.dumps(value).encode()
    back.sendall(struct.pack('>I', len(data)) + data)
    size = struct.unpack('>I', back.recv(4, socket.MSG_WAITALL))[0]
    return json.loads(back.recv(size, socket.MSG_WAITALL))
"""


async def echo(ours: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        while True:
            size = struct.unpack(">I", await reader.readexactly(4))[0]
            answer = json.dumps({"answer": json.loads(await reader.readexactly(size))}).encode()
            writer.write(struct.pack(">I", len(answer)) + answer)
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def test_code_calls_back_over_descriptor_three(runner: CagedRunner) -> None:
    ours, theirs = socket.socketpair()
    answering = asyncio.create_task(echo(ours))
    large = job(CALLER + "print(call(1), len(call('x' * 3_000_000)['answer']))", profile=replace(PROFILE, tools=True))
    run = await runner.run(large, Hooks(tools=theirs))
    await answering  # the runner has closed its end
    assert run.stdout == b"{'answer': 1} 3000000\n", run
    assert theirs.fileno() == -1


async def test_calls_that_nobody_reads_hold_the_code_back_until_its_time_is_up(runner: CagedRunner) -> None:
    ours, theirs = socket.socketpair()
    limits = replace(PROFILE.limits, wall_seconds=1)
    flood = job("import os\nwhile True: os.write(3, b'x' * 65536)", profile=replace(PROFILE, tools=True, limits=limits))
    run = await runner.run(flood, Hooks(tools=theirs))
    ours.close()
    assert (run.reason, run.stdout) == (Reason.TIMEOUT, b""), run


async def test_a_descriptor_that_code_sends_along_reaches_nobody(runner: CagedRunner) -> None:
    ours, theirs = socket.socketpair()
    program = "import socket\nheld = open('main.py')\nback = socket.socket(fileno=3)\n"
    program += "print(socket.send_fds(back, [b'x'], [held.fileno(), 0, 1]))"
    run = await runner.run(job(program, profile=replace(PROFILE, tools=True)), Hooks(tools=theirs))
    data, descriptors, _, _ = socket.recv_fds(ours, 16, 8)
    ours.close()
    assert (run.stdout, data, descriptors) == (b"1\n", b"x", []), run


async def test_where_the_gateway_goes_the_code_hears_of_it(runner: CagedRunner) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    program = job("import socket; print(socket.socket(fileno=3).recv(1))", profile=replace(PROFILE, tools=True))
    assert (await runner.run(program, Hooks(tools=theirs))).stdout == b"b''\n"


async def test_without_a_way_back_there_is_no_descriptor(runner: CagedRunner) -> None:
    program = """
import os
def is_open(fd):
    try: return bool(os.fstat(fd))
    except OSError: return False
print([fd for fd in range(256) if is_open(fd)], 'BAILIWICK_TOOLS' in os.environ)
"""
    assert (await left_by(runner, program)).stdout == b"[0, 1, 2] False\n"


async def test_nothing_of_a_job_is_passed_over(runner: CagedRunner) -> None:
    ours, theirs = socket.socketpair()
    for profile, hooks in (
        (PROFILE, Hooks(tools=theirs)),
        (replace(PROFILE, packages="never-built"), Hooks()),
    ):
        with pytest.raises(NotOfferedError):
            await runner.run(job("open('ran', 'w')", profile=profile), hooks)
    assert theirs.fileno() == -1
    ours.close()


# -- languages -----------------------------------------------------------------------------------------------------------------


async def test_the_report_says_what_runs_each_language(runner: CagedRunner) -> None:
    languages = (await runner.probe()).languages
    assert {Language.PYTHON, Language.SHELL} <= set(languages)
    assert all(Path(offer.path).is_file() and len(offer.sha256) == 64 for offer in languages.values())
    told = (await runner.probe()).to_dict()["languages"]
    assert isinstance(told, dict)
    assert told["python"]["version"].startswith("3.")


async def test_a_shell_script_has_the_systems_tools(runner: CagedRunner) -> None:
    script = 'set -eu\nprintf "%s " "$@" "$(cat)"\nsort in.txt | tr a-z A-Z > out.txt\nwc -l < out.txt; pwd | grep -c /'
    run = await left_by(
        runner, script, language=Language.SHELL, arguments=("a b", "c"), stdin=b"given", files={"in.txt": b"b\na\n"}
    )
    assert run.stdout == b"a b c given 2\n1\n"
    assert [(file.name, file.data) for file in run.files] == [("out.txt", b"A\nB\n")]


@pytest.mark.parametrize(
    "script",
    ["cat /etc/passwd", "ls /", "ls /etc", "ls /home", "echo x > /var/tmp/escaped", "cat /proc/1/environ", "mkdir /usr/bin/x",
     ": > /usr/share/x", "exec 5<>/dev/tcp/127.0.0.1/80", "ls /usr/local/bin", "mount -t tmpfs none .", "kill -9 $PPID"],
)  # fmt: skip
async def test_a_shell_script_does_not_leave_its_scope(runner: CagedRunner, script: str) -> None:
    run = await runner.run(job(script, language=Language.SHELL))
    assert run.reason is Reason.ERROR, run
    assert run.stdout == b""


async def test_a_setuid_program_gives_a_script_nothing(runner: CagedRunner) -> None:
    run = await runner.run(job("id -u; su -c 'id -u' root </dev/null", language=Language.SHELL))
    assert run.stdout.strip().isdigit()
    assert run.reason is Reason.ERROR


@NODE
async def test_javascript_runs_in_node(runner: CagedRunner) -> None:
    program = """
import fs from 'node:fs'; import { createHash } from 'node:crypto'; import { spawnSync } from 'node:child_process'
const given = fs.readFileSync(0, 'utf8')
fs.writeFileSync('out.json', JSON.stringify({ given, argv: process.argv.slice(2) }))
console.log(createHash('sha256').update(given).digest('hex').slice(0, 8), await Promise.resolve(6 * 7))
console.log(Intl.NumberFormat('de').format(1.5))
console.log(spawnSync(process.execPath, ['-p', '1+1']).stdout.toString().trim())
"""
    run = await left_by(runner, program, language=Language.JAVASCRIPT, arguments=("x",), stdin=b"in")
    assert run.stdout.decode().split("\n") == [f"{sha256(b'in').hexdigest()[:8]} 42", "1,5", "2", ""]
    assert json.loads(run.files[0].data) == {"given": "in", "argv": ["x"]}


@NODE
@pytest.mark.parametrize(
    "expression",
    ["fs.readFileSync('/etc/passwd')", "fs.readdirSync('/')", "fs.writeFileSync('/var/tmp/escaped', '')",
     "fs.readFileSync('/proc/1/environ')", "spawn('/bin/sh')", "process.kill(process.ppid, 0)"],
)  # fmt: skip
async def test_javascript_does_not_leave_its_scope(runner: CagedRunner, expression: str) -> None:
    program = (
        "import fs from 'node:fs'; import { spawnSync } from 'node:child_process'\n"
        "const spawn = path => { const { error } = spawnSync(path, ['-c', ':']); if (error) throw error }\n"
        f"try {{ {expression}; console.log('open') }} catch (error) {{ console.log(error.code) }}"
    )
    run = await left_by(runner, program, language=Language.JAVASCRIPT)
    assert run.stdout in (b"EACCES\n", b"EPERM\n", b"ENOENT\n"), run


@NODE
async def test_javascript_has_no_socket(runner: CagedRunner) -> None:
    program = "import net from 'node:net'\nnet.connect(80, '127.0.0.1').on('error', error => console.log(error.code))"
    run = await left_by(runner, program, language=Language.JAVASCRIPT)
    assert run.stdout == b"EPERM\n"


@NODE
async def test_javascripts_memory_is_bounded(runner: CagedRunner) -> None:
    hoard = "const held = []; while (true) held.push(Buffer.alloc(1 << 20, 1))"
    assert (await runner.run(job(hoard, language=Language.JAVASCRIPT))).reason is Reason.OOM
    heap = "const held = []; while (true) held.push({ a: [held.length] })"
    limits = replace(PROFILE.limits, memory_bytes=96 << 20, cpu_seconds=30)
    run = await runner.run(job(heap, language=Language.JAVASCRIPT, profile=replace(PROFILE, limits=limits)))
    assert run.reason is Reason.OOM, run


# -- digests -------------------------------------------------------------------------------------------------------------------


async def test_the_same_inputs_give_the_same_outputs_where_code_is_deterministic(runner: CagedRunner) -> None:
    program = "import os, time\nprint(hash('x'), {'b', 'a', 'c'}, time.tzname, os.environ['SOURCE_DATE_EPOCH'])\nopen('f', 'w')"
    first, second = await left_by(runner, program), await left_by(runner, program)
    assert first.inputs_digest == second.inputs_digest
    assert first.outputs_digest == second.outputs_digest
    other = await left_by(runner, program + "\nprint(1)")
    assert {other.inputs_digest, other.outputs_digest} & {first.inputs_digest, first.outputs_digest} == set()


async def test_a_run_says_what_its_isolation_rests_on(runner: CagedRunner) -> None:
    run, report = await left_by(runner, "pass"), await runner.probe()
    assert (run.backend, run.probe_id, run.profile_digest) == (runner.name, report.id, PROFILE.digest)
    assert run.layers["interpreter"].startswith(report.languages[Language.PYTHON].path)


async def test_a_list_of_destinations_is_refused_where_it_cannot_be_kept(shared_runner: LandlockRunner) -> None:
    profile = Profile("net", PROFILE.limits, network=(Destination("example.com", 443),))
    report = await shared_runner.probe()
    assert report.missing(profile) == {Guarantee.NET_ALLOWLIST: (Strength.HARD, Strength.ABSENT)}
