"""What the attempts go for, laid by the gateway itself: files, sockets, processes and shared memory within its uid's reach.

Everything is open to everybody on purpose: it is the cage that must hold, not the files' modes.  A witness looks from outside.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_FILES = (
    "secret", "overwritten", "emptied", "truncated", "renamable", "takable", "exchanged", "removable", "mode", "times", "leased",
    "attributed", "data/ledger.db", "home/.ssh/id_ed25519", "home/.ssh/authorized_keys", "home/.aws/credentials",
)  # fmt: skip
_LIBRARIES = ("libutil.so.1", "libdl.so.2", "libanl.so.1", "libz.so.1", "libm.so.6")
_SHARED_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/etc", "/root", "/usr/bin", os.path.dirname(os.__file__))
_BYSTANDER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
kept = ctypes.create_string_buffer(b"bystander", 64)
print(os.open(sys.argv[1], os.O_RDWR), ctypes.addressof(kept), flush=True)
sys.stdin.read()
"""
_libc = ctypes.CDLL(None, use_errno=True)


class Scene:
    """One gateway's surroundings.  `parameters` is what the attempts are told; close it."""

    def __init__(self, environment: str, base: Path) -> None:
        self._stack = ExitStack()
        self.canary, self.mark = os.environ["GATEWAY_SECRET"], f"mark{secrets.token_hex(6)}"
        self.root = Path(tempfile.mkdtemp(prefix="bailiwick-escape-", dir="/tmp"))
        self._stack.callback(shutil.rmtree, self.root)
        self.root.chmod(0o755)
        self.contacts = 0
        self.listeners: list[socket.socket] = []
        self.common: dict[str, Any] = {
            "environment": environment, "canary": self.canary, "mark": self.mark, "gateway": os.getpid(), "base": str(base),
            "abstract": f"bailiwick-{self.mark}", "descriptors": [0, 1, 2],
        }  # fmt: skip
        self._own_secret()
        self._bystander()
        self._memory()
        abstract = "\0" + self.common["abstract"]
        self.common["tcp"] = self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)).getsockname()[1]
        self.common["udp"] = self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)).getsockname()[1]
        self._listen(socket.AF_UNIX, socket.SOCK_STREAM, abstract)
        self._listen(socket.AF_UNIX, socket.SOCK_DGRAM, abstract + "-datagram")

    def close(self) -> None:
        """Take everything away."""
        self._stack.close()

    def lay(self, stage: str) -> dict[str, Any]:
        """A fresh set of files and named sockets; what the attempts are told of it."""
        folder = self.root / stage
        for path in (folder, folder / "data", folder / "home", folder / "home/.ssh", folder / "home/.aws", folder / "empty"):
            path.mkdir()
            path.chmod(0o777)
        for name in _FILES:
            (folder / name).write_text(f"{self.canary}\n", encoding="ascii")
            (folder / name).chmod(0o666)
        os.setxattr(folder / "attributed", "user.kept", b"x")
        (folder / "link").symlink_to("secret")
        os.mkfifo(folder / "open-fifo")
        (folder / "open-fifo").chmod(0o666)
        (folder / "program").write_text("#!/bin/sh\nexit 0\n", encoding="ascii")
        (folder / "program").chmod(0o755)
        (folder / "planted_module.py").write_text(f"SECRET = {self.canary!r}\n", encoding="ascii")
        (folder / "module.mjs").write_text("export default 1;\n", encoding="ascii")
        (folder / "program.mjs").write_text(
            "import net from 'node:net'; net.createServer().listen(0, '127.0.0.1');\n", encoding="ascii"
        )
        found = [path for name in _LIBRARIES for path in Path("/lib").glob(f"*-linux-gnu/{name}")]
        shutil.copy(found[0], folder / "library.so")
        for kind, name in ((socket.SOCK_STREAM, "stream"), (socket.SOCK_SEQPACKET, "packet"), (socket.SOCK_DGRAM, "datagram")):
            self._listen(socket.AF_UNIX, kind, str(folder / name))
            (folder / name).chmod(0o777)
        return {**self.common, "folder": str(folder), "caged": stage != "control"}

    def witness(self, stage: str) -> dict[str, Any]:
        """Everything that an attempt could have changed, as it is now."""
        return {
            "files": {str(path): _about(path) for path in sorted((self.root / stage).rglob("*"))},
            "folder": _about(self.root / stage)[:3],
            "bystander": _process(self.common["bystander"]),
            "gateway": _process(os.getpid()),
            "contacts": self._contacts(),
            "left in shared places": sorted(
                name for place in _SHARED_PLACES if os.access(place, os.R_OK) for name in os.listdir(place) if self.mark in name
            ),
        }

    # -- what there is -----------------------------------------------------------------------------------------------------------

    def _own_secret(self) -> None:
        path = self.root / "gateway-secret"
        path.write_text(self.canary, encoding="ascii")
        fd = os.open(path, os.O_RDONLY)
        os.set_inheritable(fd, True)  # as a careless library leaves it
        self._stack.callback(os.close, fd)
        self.common["gateway_fd"] = fd

    def _bystander(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BYSTANDER, str(self.root / "gateway-secret")],
            env={"SECRET": self.canary}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._stack.callback(_end, process)
        assert process.stdout is not None
        fd, address = process.stdout.readline().split()
        self.common |= {"bystander": process.pid, "bystander_fd": int(fd), "bystander_address": int(address)}

    def _memory(self) -> None:
        path = Path(f"/dev/shm/bailiwick-{self.mark[4:]}")
        path.write_text(self.canary, encoding="ascii")
        path.chmod(0o666)
        self._stack.callback(path.unlink)
        segment = _libc.shmget(0, 4096, 0o1666)
        _libc.shmat.restype = ctypes.c_void_p
        address = _libc.shmat(segment, None, 0)
        ctypes.memmove(address, self.canary.encode(), len(self.canary))
        self._stack.callback(_libc.shmctl, segment, 0, None)
        queue = _libc.msgget(0, 0o1666)
        message = ctypes.create_string_buffer(b"\1" + bytes(7) + self.canary.encode())
        for _ in range(2):
            _libc.msgsnd(queue, message, len(self.canary), 0)
        self._stack.callback(_libc.msgctl, queue, 0, None)
        self.common |= {"shm_file": str(path), "shm_id": segment, "msg_id": queue}

    def _listen(self, family: int, kind: int, address: Any) -> socket.socket:
        listener = self._stack.enter_context(socket.socket(family, kind))
        listener.bind(address)
        if kind != socket.SOCK_DGRAM:
            listener.listen(64)
        listener.setblocking(False)
        self.listeners.append(listener)
        return listener

    def _contacts(self) -> int:
        for listener in self.listeners:
            while True:
                try:
                    if listener.type == socket.SOCK_DGRAM:
                        listener.recv(100)
                    else:
                        listener.accept()[0].close()
                except BlockingIOError:
                    break
                self.contacts += 1
        return self.contacts


def _about(path: Path) -> list[Any]:
    about = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
    times = [about.st_mtime_ns, about.st_ctime_ns] if not path.is_dir() else []
    return [
        about.st_mode,
        about.st_uid,
        about.st_size,
        about.st_nlink,
        content,
        *times,
        os.listxattr(path, follow_symlinks=False),
    ]


def _process(pid: int) -> list[Any]:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return [
        lines["State"].strip()[0] in "RSD", lines["TracerPid"].strip(), lines["SigPnd"].strip(),
        os.getpriority(os.PRIO_PROCESS, pid),
        sorted(os.sched_getaffinity(pid)), os.sched_getscheduler(pid), resource.prlimit(pid, resource.RLIMIT_NOFILE),
        Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"), os.getpgid(pid),
    ]  # fmt: skip


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
