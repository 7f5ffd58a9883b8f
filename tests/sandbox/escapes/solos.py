"""Attempts that need a run of their own: bombs, floods, what would stay behind, lies about how it ended.

Each prints ESCAPED where it got what it wanted, so much of it as harms nobody; without a cage it must.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sandbox.model import Guarantee

ESCAPED = "ESCAPED"
_DONE = f"\nprint('{ESCAPED}', flush=True)\n"


@dataclass(frozen=True)
class Solo:
    """One attempt in a run of its own.

    ends     reasons that the run may end with; empty for any.
    soft     the guarantee that it goes against, where a run whose guarantee is soft may lose: the run's record says so.
    control  whether it must print ESCAPED without a cage; False where the machine would be harmed.
    wanted   further facts of the run that must be so.
    """

    family: str
    name: str
    sentence: str
    code: str
    ends: frozenset[str] = frozenset()
    soft: Guarantee | None = None
    control: bool = True
    limits: dict[str, Any] = field(default_factory=dict)
    wanted: dict[str, Any] = field(default_factory=dict)


SOLOS: dict[str, Solo] = {}


def _solo(family: str, name: str, sentence: str, code: str, *ends: str, done: bool = True, **options: Any) -> None:
    assert name not in SOLOS
    SOLOS[name] = Solo(family, name, sentence, code + (_DONE if done else ""), frozenset(ends), **options)


# -- many processes --------------------------------------------------------------------------------------------------------------

_KEEP = """
import os, signal, sys, time, threading
near, far = os.pipe()
def stay():
    os.close(far)
    os.read(near, 1)
    os._exit(0)
"""
_solo(
    "many", "fork_bomb", "Sixty processes that stay.",
    _KEEP + "for _ in range(60):\n    if not os.fork(): stay()\n", "pids", "error", soft=Guarantee.PIDS,
)  # fmt: skip
_solo(
    "many", "fork_bomb_of_daemons", "Sixty processes that are nobody's children any more.",
    _KEEP + """
for _ in range(60):
    if not os.fork():
        os.setsid()
        if not os.fork(): stay()
        os._exit(0)
    os.wait()
""", "pids", "error", soft=Guarantee.PIDS,
)  # fmt: skip
_solo(
    "many", "fork_bomb_that_tries_again", "Forks in every process until it is told no, and then again.",
    _KEEP + """
made = os.pipe()
os.set_blocking(made[0], False)
end = time.monotonic() + 3
while time.monotonic() < end:
    try:
        if not os.fork():
            os.write(made[1], b"x")
    except OSError:
        continue
    try:
        if len(os.read(made[0], 100)) and time.monotonic() > end: break
    except OSError: pass
""", "pids", control=False, done=False,
)  # fmt: skip
_solo(
    "many", "zombie_bomb", "Sixty processes that have ended and are never collected.",
    "import os\nfor _ in range(60):\n    if not os.fork(): os._exit(0)\n", "pids", "error", soft=Guarantee.PIDS,
)  # fmt: skip
_solo(
    "many", "thread_bomb", "Sixty threads.",
    _KEEP + "for _ in range(60):\n    threading.Thread(target=os.read, args=(near, 1), daemon=True).start()\n",
    "pids", "error", soft=Guarantee.PIDS,
)  # fmt: skip
_solo(
    "many", "bomb_of_siblings", "Sixty processes by CLONE_PARENT: children of the warden instead of one's own.",
    _KEEP + """
import ctypes
libc, clone = ctypes.CDLL(None, use_errno=True), 220 if os.uname().machine == "aarch64" else 56
pids = []
for _ in range(60):
    pid = libc.syscall(ctypes.c_long(clone), ctypes.c_long(0x8000 | 17), 0, 0, 0, 0)
    if pid < 0: sys.exit(1)
    if not pid: stay()
    pids.append(pid)
for pid in pids: os.kill(pid, 9)
""", "pids", "error", soft=Guarantee.PIDS,
)  # fmt: skip

# -- memory ----------------------------------------------------------------------------------------------------------------------

_FAMILY = """
import mmap, os, sys, time
def together(count, what):
    told, tell = os.pipe()
    stop, never = os.pipe()
    for _ in range(count):
        if not os.fork():
            os.close(never)
            try: kept = what()
            except (MemoryError, OSError): os._exit(1)
            os.write(tell, b"x")
            os.read(stop, 1)
            os._exit(0)
    os.close(tell)
    got = 0
    while got < count:
        piece = os.read(told, 64)
        if not piece: sys.exit(1)
        got += len(piece)
    time.sleep(0.3)
"""
_SMALL = {"memory_bytes": 48 << 20}
_solo(
    "memory",
    "memory_bomb",
    "Two hundred megabytes in one process.",
    "x = bytearray(b'x' * (200 << 20))",
    "oom",
    "error",
    limits=_SMALL,
)
_solo(
    "memory", "memory_bomb_of_many", "The same in six processes, none of which is too large.",
    _FAMILY + "together(6, lambda: bytearray(b'x' * (32 << 20)))", "oom", "signal", limits=_SMALL,
)  # fmt: skip
_solo(
    "memory", "memory_bomb_that_is_shared", "Anonymous shared memory, which no process's own size shows.",
    _FAMILY + """
def shared():
    kept = mmap.mmap(-1, 32 << 20)
    for at in range(0, 32 << 20, 4096): kept[at] = 1
    return kept
together(6, shared)
""", "oom", "signal", limits=_SMALL,
)  # fmt: skip
_solo(
    "memory", "memory_bomb_under_a_false_name", "In a process whose name is made to look like the kernel's own words about it.",
    _FAMILY + """
import ctypes
ctypes.CDLL(None).prctl(15, b") Z 1 1 1 0\\nRssA", 0, 0, 0)
together(6, lambda: bytearray(b'x' * (32 << 20)))
""", "oom", "signal", limits=_SMALL,
)  # fmt: skip
_solo("memory", "address_space_bomb", "A gigabyte of addresses.", "import mmap\nmmap.mmap(-1, 1 << 30)", "error", "oom")
_solo(
    "memory", "memory_of_the_kernel", "A hundred and fifty megabytes in the buffers of sockets, which no process's size shows.",
    _FAMILY + """
import socket
def buffers():
    kept = []
    for _ in range(110):
        left, right = socket.socketpair()
        left.setblocking(False)
        try:
            while True: left.send(b"x" * 65536)
        except BlockingIOError: pass
        kept.append((left, right))
    return kept
together(8, buffers)
""", soft=Guarantee.MEMORY, limits={**_SMALL, "open_files": 256},
)  # fmt: skip
_solo(
    "memory", "memory_in_pipes", "Pipes widened to a megabyte each and filled.",
    _FAMILY + """
import fcntl
def pipes():
    kept = []
    for _ in range(8):
        near, far = os.pipe()
        try: fcntl.fcntl(far, 1031, 1 << 20)
        except OSError: pass
        os.set_blocking(far, False)
        try:
            while True: os.write(far, b"x" * 65536)
        except BlockingIOError: pass
        kept.append((near, far))
    return kept
together(8, pipes)
""", soft=Guarantee.MEMORY, limits={**_SMALL, "open_files": 64},
)  # fmt: skip

# -- disk ------------------------------------------------------------------------------------------------------------------------

_TINY = {"scratch_bytes": 4 << 20, "file_bytes": 1 << 20}
_solo(
    "disk",
    "large_file",
    "One file of eight megabytes.",
    "open('x', 'wb').write(b'x' * (8 << 20))",
    "error",
    "file_size",
    "disk",
    limits=_TINY,
)
_solo(
    "disk",
    "sparse_file",
    "One file of a terabyte that holds nothing.",
    "open('x', 'wb').truncate(1 << 40)",
    "error",
    "file_size",
    "disk",
    limits=_TINY,
)
_solo(
    "disk", "many_files", "A file of half a megabyte, and again, until there are forty.",
    "import time\nfor n in range(40):\n    open(str(n), 'wb').write(b'x' * 500_000); time.sleep(0.02)",
    "disk", "error", limits=_TINY,
)  # fmt: skip
_solo(
    "disk", "deleted_files", "Files that are deleted and stay open.",
    """
import os, time
kept = []
for n in range(16):
    kept.append(open('x', 'wb')); kept[-1].write(b'x' * 900_000); kept[-1].flush(); os.unlink('x'); time.sleep(0.04)
""",
    "disk", "error", limits=_TINY,
)  # fmt: skip
_solo(
    "disk", "deleted_files_that_are_mapped", "Files that are deleted and closed, and stay mapped.",
    """
import mmap, os, time
kept = []
for n in range(16):
    with open('x', 'w+b') as file:
        file.truncate(900_000)
        kept.append(mmap.mmap(file.fileno(), 900_000))
    for at in range(0, 900_000, 4096): kept[-1][at] = 1
    os.unlink('x'); time.sleep(0.04)
""",
    "disk", "error", "oom", "signal", soft=Guarantee.DISK, limits=_TINY,
)  # fmt: skip
_solo(
    "disk", "deleted_files_in_flight", "Files that are deleted and lie in the queue of a socket, where no process has them open.",
    """
import array, os, socket, time
left, right = socket.socketpair()
for n in range(16):
    fd = os.open('x', os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, b'x' * 900_000)
    left.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
    os.close(fd); os.unlink('x'); time.sleep(0.04)
""",
    "disk", "error", soft=Guarantee.DISK, limits=_TINY,
)  # fmt: skip
_solo(
    "disk", "many_inodes", "Thirty thousand empty files.",
    "for n in range(30_000):\n    open(str(n), 'w').close()", "disk", "error", "timeout", limits={"wall_seconds": 8}, soft=Guarantee.DISK,
)  # fmt: skip
_solo(
    "disk", "deep_folders", "Folders in folders, deeper than a path is long.",
    "import os\nfor _ in range(2000):\n    os.mkdir('d' * 60); os.chdir('d' * 60)", "ok", "disk",
    control=False, done=False,
)  # fmt: skip

# -- time ------------------------------------------------------------------------------------------------------------------------

_BURN = "import os, signal, sys, time\ndef burn(seconds):\n    end = time.process_time() + seconds\n    while time.process_time() < end: pass\n"
_solo(
    "time",
    "burn_the_processor",
    "A second and a half of work where one is allowed.",
    _BURN + "burn(1.5)",
    "cpu",
    limits={"cpu_seconds": 1},
)
_solo(
    "time", "burn_deaf_to_signals", "The same, deaf to SIGXCPU.",
    _BURN + "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nburn(2.2)", "cpu", limits={"cpu_seconds": 1},
)  # fmt: skip
_solo(
    "time", "burn_in_many", "The same by four processes at once.",
    _BURN + "pids = []\nfor _ in range(4):\n    pid = os.fork()\n    if not pid: burn(0.5); os._exit(0)\n    pids.append(pid)\n"
    "for pid in pids: os.waitpid(pid, 0)", "cpu", limits={"cpu_seconds": 1},
)  # fmt: skip
_solo(
    "time", "burn_in_a_row", "The same by fifty short lives, whose parent waits for them.",
    _BURN + "for _ in range(50):\n    pid = os.fork()\n    if not pid: burn(0.03); os._exit(0)\n    os.waitpid(pid, 0)", "cpu",
    limits={"cpu_seconds": 1},
)  # fmt: skip
_solo(
    "time", "burn_unseen", "The same by fifty short lives that nobody waits for, so that nobody adds up what they used.",
    _BURN + "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfor _ in range(50):\n    pid = os.fork()\n    if not pid: burn(0.03); os._exit(0)\n"
    "    try: os.waitpid(pid, 0)\n    except ChildProcessError: pass",
    "cpu", "timeout", soft=Guarantee.CPU, limits={"cpu_seconds": 1, "wall_seconds": 3},
)  # fmt: skip
_solo(
    "time",
    "sleep",
    "A second and a half where half a second is allowed.",
    "import time\ntime.sleep(1.5)",
    "timeout",
    limits={"wall_seconds": 0.5},
)
_solo(
    "time", "sleep_deaf", "The same, deaf to every signal.",
    "import signal, time\nfor n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\ntime.sleep(1.5)", "timeout",
    limits={"wall_seconds": 0.5},
)  # fmt: skip
_solo(
    "time", "stop_oneself", "Stopped by SIGSTOP, so that nothing of it runs; a child wakes it later.",
    "import os, signal, time\nme = os.getpid()\nif not os.fork():\n    time.sleep(1.5); os.kill(me, signal.SIGCONT); os._exit(0)\n"
    "os.kill(me, signal.SIGSTOP)", "timeout", limits={"wall_seconds": 0.5},
)  # fmt: skip
_solo(
    "time", "leave_a_thread_behind", "The first thread ends and another goes on: a process that is dead and alive.",
    "import ctypes, threading, time\ndef later():\n    time.sleep(1.5)\n    import os\n    os.write(1, b'ESCAPED')\n    os._exit(0)\n"
    "threading.Thread(target=later).start()\nctypes.CDLL(None).syscall(ctypes.c_long(93 if __import__('os').uname().machine == 'aarch64' "
    "else 60), 0)\n", "timeout", done=False, limits={"wall_seconds": 0.5},
)  # fmt: skip

# -- output ----------------------------------------------------------------------------------------------------------------------

_OUT = {"output_bytes": 20_000}
_solo(
    "output", "flood_of_output", "Two megabytes on stdout.", "import os\nfor _ in range(500): os.write(1, b'x' * 4096)\n", "output",
    limits=_OUT,
)  # fmt: skip
_solo(
    "output", "flood_of_errors", "Two megabytes on stderr.", "import os\nfor _ in range(500): os.write(2, b'x' * 4096)\n", "output",
    limits=_OUT,
)  # fmt: skip
_solo(
    "output", "flood_of_both", "Two megabytes on each in turn, from four processes.",
    "import os\nfor _ in range(3):\n    if not os.fork(): break\nfor n in range(500): os.write(1 + n % 2, b'x' * 4096)\n", "output",
    limits=_OUT,
)  # fmt: skip
_solo(
    "output", "flood_after_the_end", "A child that goes on printing when the first process has ended.",
    "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\ntime.sleep(0.7)\n", "ok",
)  # fmt: skip
_solo(
    "output", "hold_the_output_open", "A child that keeps stdout open, so that whoever reads to its end waits for ever.",
    "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\ntime.sleep(1.5)\n", "ok", limits={"wall_seconds": 20},
)  # fmt: skip
_solo(
    "output", "read_from_the_output", "A reader on one's own stdout, which takes away what the warden is to read.",
    "import os\nfd = os.open('/proc/self/fd/1', os.O_RDONLY | os.O_NONBLOCK)\nprint('kept', flush=True)\n", "ok", "error",
    control=False, done=False,
)  # fmt: skip

# -- staying behind --------------------------------------------------------------------------------------------------------------

_BEHIND = """
import os, signal, sys, time
def behind():
    for number in set(range(1, 65)) - {9, 19, 32, 33}:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(1.2)
    os.write(1, b"ESCAPED")
    os._exit(0)
"""
_solo(
    "behind",
    "daemon",
    "Two forks and a session of its own.",
    _BEHIND + "if not os.fork():\n    os.setsid()\n    if not os.fork(): behind()\n    os._exit(0)\nos.wait()",
    "ok",
    done=False,
)
_solo(
    "behind", "daemon_with_a_parent_of_its_own", "A process that collects orphans itself, so that they do not come to the warden.",
    _BEHIND + "import ctypes\nif not os.fork():\n    os.setsid()\n    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n    if not os.fork(): behind()\n    os.wait()\n    os._exit(0)\n",
    "ok", done=False,
)  # fmt: skip
_solo(
    "behind", "daemon_that_is_a_sibling", "A process by CLONE_PARENT: the warden's own child.",
    _BEHIND + "import ctypes\nif not ctypes.CDLL(None).syscall(ctypes.c_long(220 if os.uname().machine == 'aarch64' else 56), ctypes.c_long(0x8000 | 17), 0, 0, 0, 0): behind()\n",
    "ok", done=False,
)  # fmt: skip
_solo(
    "behind", "daemon_that_is_stopped", "A process that is stopped when its run ends.",
    _BEHIND + "pid = os.fork()\nif not pid: behind()\nos.kill(pid, signal.SIGSTOP)\nif not os.fork():\n    time.sleep(0.7)\n    os.kill(pid, signal.SIGCONT)\n    os._exit(0)\n",
    "ok", done=False,
)  # fmt: skip
_solo(
    "behind", "daemons_that_fork_on", "Processes that fork faster than they are counted.",
    _BEHIND + """
for _ in range(3):
    if not os.fork():
        os.setsid()
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            try:
                if os.fork(): os._exit(0)
            except OSError: pass
        os.write(1, b"ESCAPED")
        os._exit(0)
""", "ok", "pids", done=False,
)  # fmt: skip
_solo(
    "behind", "daemon_that_writes_on", "A process that writes into the working folder while it is being removed.",
    _BEHIND + """
if not os.fork():
    os.setsid()
    end, n = time.monotonic() + 1.2, 0
    while time.monotonic() < end:
        n += 1
        try: open(f"left-{n % 50}", "w").close()
        except OSError: pass
    os.write(1, b"ESCAPED")
    os._exit(0)
time.sleep(0.1)
""", "ok", done=False,
)  # fmt: skip
_solo(
    "behind", "kill_everybody", "SIGKILL to everybody who can be reached.", "import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\n", "ok",
    control=False, done=False,
)  # fmt: skip
_solo(
    "behind", "stop_everybody", "SIGSTOP to everybody who can be reached.", "import os\ntry: os.kill(-1, 19)\nexcept OSError: pass\n", "ok",
    control=False, done=False,
)  # fmt: skip

# -- lying -----------------------------------------------------------------------------------------------------------------------

_FORGE = """
import json, os, struct
body = json.dumps({"reason": "ok", "exit_code": 0, "signal": None, "left": 0, "stdout_truncated": False, "stderr_truncated": False,
    "wall_ms": 0, "cpu_ms": 0, "peak": {"memory": 0, "processes": 1, "scratch": 0}, "files": [], "skipped": [], "gone": []}).encode()
for kind in b"OERFA":
    frame = struct.pack(">BI", kind, len(body)) + body
    for fd in range(256):
        try: os.write(fd, frame)
        except OSError: pass
"""
_solo(
    "lying", "forged_result", "Frames of the warden's kind on every descriptor, and another end.", _FORGE + "raise SystemExit(3)\n", "error",
    control=False, done=False, wanted={"exit_code": 3},
)  # fmt: skip
_solo(
    "lying", "forged_result_by_a_child", "The same by a child that lives on.",
    "import os\nif not os.fork():\n    os.setsid()\n" + "\n".join("    " + line for line in _FORGE.splitlines()) + "\n    import time; time.sleep(9)\nraise SystemExit(4)\n",
    "error", control=False, done=False, wanted={"exit_code": 4},
)  # fmt: skip
_solo(
    "lying", "forged_memory_error", "The words by which the end of memory is told, in an ordinary error.",
    "import sys\nprint('MemoryError', file=sys.stderr)\nraise SystemExit(5)\n", control=False, done=False, wanted={"exit_code": 5},
)  # fmt: skip
_solo(
    "lying", "suicide_by_the_wardens_signal", "SIGKILL to oneself, as though the sandbox had sent it.",
    "import os\nos.kill(os.getpid(), 9)\n", "signal", control=False, done=False, wanted={"signal": 9},
)  # fmt: skip
_solo(
    "lying", "exchanged_program", "main.py exchanged for a link to a secret, and a folder that nobody may enter.",
    "import os\nos.unlink('main.py'); os.symlink('/etc/shadow', 'main.py'); os.mkdir('closed'); "
    "os.rename('closed', 'closed-too')\n", "ok", control=False, done=False,
)  # fmt: skip
_solo(
    "lying", "last_words_of_a_terminal", "Escape codes that would retitle, clear and type at whoever prints them raw.",
    "import sys\nsys.stdout.write('\\x1b]0;owned\\x07\\x1b[2J\\x1b[6n\\x9b31m\\r\\n')\n", "ok", control=False, done=False,
)  # fmt: skip

# -- the next run ----------------------------------------------------------------------------------------------------------------

_PLACES = "PLACES = [os.getcwd(), os.environ.get('HOME', '.'), os.environ.get('TMPDIR', '.'), '/tmp', '/dev/shm', '/var/tmp', '/work']\n"
_solo(
    "next", "pollute_the_next_run", "Files that a next run would import, in every place that can be written.",
    "import os, sys\n" + _PLACES + """
for place in PLACES:
    for name in ("sitecustomize.py", "usercustomize.py", "json.py", "polluted", ".pythonrc", "python3", "pyvenv.cfg"):
        try: open(os.path.join(place, name), "w").write("print('POLLUTED')")
        except OSError: pass
os.environ["POLLUTED"] = "1"
""", "ok", control=False, done=False,
)  # fmt: skip
_solo(
    "next", "find_what_the_last_run_left", "Whatever a run before has left for this one.",
    "import os, sys\n" + _PLACES + """
import json
left = [place for place in PLACES for name in ("polluted", "json.py", "sitecustomize.py") if os.path.exists(os.path.join(place, name))]
if left or "POLLUTED" in os.environ or hasattr(json, "POLLUTED"): print("ESCAPED", left)
""", "ok", control=False, done=False,
)  # fmt: skip
