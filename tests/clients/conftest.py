"""Every real client is run once, by a driver in its own language, against a server and through a gateway in front of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import npm, pypackages
from tests.conformance.legs import FOLDER as CONFORMANCE
from tests.conformance.world import Granting, tools_of
from tests.mcp.world import plain_server, reference_server

FOLDER = Path(__file__).resolve().parent
DRIVERS = FOLDER / "drivers"
SECONDS = 340
MOST = 1000
ERAS = ("legacy", "modern")
"""Beside the reference server, which speaks both, a server of each era alone: whatever a client speaks, one of them does not."""
OTHERS = [f"{era}__echo" for era in ERAS]

Reports = Mapping[str, Mapping[str, Any]]
"""By kind of endpoint (`direct`, `server`, `aggregate`), what a client saw."""


class Drivers:
    """The drivers under way, each a process; their reports are read when first asked for."""

    def __init__(self, targets: list[dict[str, Any]], home: Path) -> None:
        self._targets, self._home = targets, home
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._skipped: dict[str, str] = {}
        self._told: dict[str, dict[str, Reports]] = {}
        for driver in ("mcp_sdk", "frameworks", "langchain", "clients"):
            try:
                self._running[driver] = self._start(driver)
            except pytest.skip.Exception as reason:
                self._skipped[driver] = str(reason)

    def _start(self, driver: str) -> subprocess.Popen[str]:
        more: dict[str, Any] = {}
        if driver == "clients":
            more["modules"] = str(npm.installed(FOLDER, "the clients of npm"))
            node = npm.node(npm.installed(CONFORMANCE, "Node"))
            command = [node, str(DRIVERS / "clients.mjs")]
        else:
            folders = {"frameworks": "sdk2", "langchain": "sdk1"}
            own = folders.get(driver)
            python = pypackages.environment(FOLDER / own, f"the clients in {own}") if own else Path(sys.executable)
            command = [str(python), str(DRIVERS / f"{driver}.py")]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._home)}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdin is not None
        with process.stdin as task:
            json.dump({"targets": self._targets} | more, task)
        process.stdin = None
        return process

    def reports(self, driver: str, client: str) -> Reports:
        """What a client of this driver saw; a skip where the driver's packages are not to be had."""
        if driver in self._skipped:
            pytest.skip(self._skipped[driver])
        if driver not in self._told:
            process = self._running[driver]
            out, err = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, err[-2000:]
            self._told[driver] = json.loads(out)
        return self._told[driver][client]

    def end(self) -> None:
        """Whoever is still running runs no more."""
        for process in self._running.values():
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    folder = tmp_path_factory.mktemp("gateway")
    with ExitStack() as stack:
        url = stack.enter_context(reference_server())
        others = {era: stack.enter_context(plain_server("--era", era, "--name", era)) for era in ERAS}
        gateway = Granting(
            folder,
            {"ref": {"url": url}} | {era: {"url": where} for era, where in others.items()},
            {"ref": tools_of(url)} | {era: ["echo"] for era in others},
            bounded={"ref.gw_big": ("n", MOST)},
            without=frozenset({"ref.gw_sleep"}),
        ).start()
        stack.callback(gateway.stop)
        headers = {"authorization": f"Bearer {gateway.token()}"}
        targets = [
            {"kind": "direct", "url": url, "prefix": "", "others": [], "headers": {}},
            {"kind": "server", "url": f"{gateway.url}/mcp/ref", "prefix": "", "others": [], "headers": headers},
            {"kind": "aggregate", "url": f"{gateway.url}/mcp", "prefix": "ref__", "others": OTHERS, "headers": headers},
        ]
        running = Drivers(targets, tmp_path_factory.mktemp("home"))
        try:
            yield running
        finally:
            running.end()
