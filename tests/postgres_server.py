"""A PostgreSQL server of the tests' own: unix socket alone, thrown away afterwards.  Use `server` and `database`."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

_PLACES = (Path("/usr/local/bin"), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/bin"))


def _program(name: str) -> str | None:
    found = shutil.which(name)
    return found or next((str(place / name) for place in _PLACES if (place / name).exists()), None)


def _account() -> str | None:
    """PostgreSQL refuses to run as root: then another account runs it."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


class Server:
    """A running server; `folder` holds its socket."""

    def __init__(self, folder: Path, pg_ctl: str, account: dict[str, object]) -> None:
        self.folder = folder
        self._pg_ctl = pg_ctl
        self._account = account

    def _control(self, *arguments: str) -> None:
        command = [self._pg_ctl, "-D", str(self.folder / "data"), "-w", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            **self._account,
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    def start(self) -> None:
        # Nothing here survives the machine anyway: without fsync, making and dropping databases costs next to nothing.
        settings = ("listen_addresses=", f"unix_socket_directories={self.folder}", "max_connections=50", "fsync=off")
        options = " ".join(f"-c {setting}" for setting in settings)
        self._control("-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._control("-m", mode, "stop")

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://bailiwick@/{database}?host={self.folder}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(f"host={self.folder} user=bailiwick dbname={database}", autocommit=True)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server of our own; skips the test, saying so, where PostgreSQL is not installed."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's programs (initdb, pg_ctl) are not installed: nothing of PostgreSQL is tested here")
    account = _account()
    if os.geteuid() == 0 and account is None:
        pytest.skip("PostgreSQL does not run as root, and there is no other account to run it")
    folder = Path(tempfile.mkdtemp(prefix="bw-pg-"))
    run_as: dict[str, object] = {}
    if account is not None:
        entry = pwd.getpwnam(account)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        run_as = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    made = Server(folder, pg_ctl, run_as)
    try:
        command = [initdb, "-D", str(folder / "data"), "-U", "bailiwick", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=folder, **run_as)
        made.start()
        yield made
    finally:
        with contextlib.suppress(RuntimeError):
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def database(running: Server) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh database, dropped afterwards."""
    name = f"t_{secrets.token_hex(8)}"
    with running.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield running.url(name)
    finally:
        with running.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
