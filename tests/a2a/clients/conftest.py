"""Both official clients do one script at every agent over every binding, directly and through a gateway, once for all tests."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import npm
from tests.a2a.clients.script import SCRIPT, ZERO
from tests.a2a.clients.sdk import run
from tests.a2a.clients.transcript import normalised, without_receipts
from tests.a2a.pairs import KINDS, REACHED, SIDES, Pairs, pairs
from tests.conformance.legs import FOLDER as NODE

FOLDER = Path(__file__).resolve().parent
BINDINGS = {"python": ("JSONRPC", "HTTP+JSON", "GRPC"), "npm": ("JSONRPC", "HTTP+JSON")}
"""Those that each client speaks."""
SECONDS = 240
TOLD = ("to be told of", "news from the start")
"""The steps whose tasks a webhook hears of."""

Run = tuple[str, str, str]
"""Kind of agent, binding, side."""


@dataclass
class Transcripts:
    """What the clients said, when it is first asked for; a skip for the one of npm where it cannot be had."""

    pairs: Pairs
    done: dict[str, dict[Run, list[Any]]] = field(default_factory=dict)

    def raw(self, client: str, kind: str, binding: str, side: str) -> list[Any]:
        """A transcript as it was written."""
        if client not in self.done:
            self.done[client] = self._python() if client == "python" else self._npm()
        return self.done[client][kind, binding, side]

    def of(self, client: str, kind: str, binding: str, side: str) -> list[Any]:
        """A transcript, with what its webhook was told, that can be compared with another."""
        said = self.raw(client, kind, binding, side)
        hook = self._hook(client, kind, binding, side)
        told = {name: _about(hook, self.pairs, said, name) for name in TOLD}
        way = self.pairs.sides[kind][side]
        places = {f"{way.url}{'/a2a/rest' if side == 'direct' else 'rest'}": "REST", way.url: "RPC", way.grpc: "GRPC"}
        texts = {self.pairs.hook.url(hook): "HOOK", self._key(client, kind, binding): "KEY"}
        return list(normalised(without_receipts([*said, told]), places | texts))

    def _lanes(self, client: str) -> list[list[dict[str, Any]]]:
        """The runs; those at one agent come one after another, so that its list of tasks is the same on both sides."""
        lanes = [[self._task(client, kind, binding, side) for binding in BINDINGS[client]] for kind in KINDS for side in SIDES]
        more = REACHED if client == "python" else ()
        return lanes + [[self._task(client, kind, "JSONRPC", "through")] for kind in more]

    def _task(self, client: str, kind: str, binding: str, side: str) -> dict[str, Any]:
        way = self.pairs.side(kind, side)
        known = {"KEY": self._key(client, kind, binding), "HOOK": self.pairs.hook.url(self._hook(client, kind, binding, side))}
        name = f"{kind}|{binding}|{side}"
        return {"name": name, "url": way.url, "headers": dict(way.headers), "binding": binding, "known": known}

    def _key(self, client: str, kind: str, binding: str) -> str:
        return f"run-{client}-{kind}-{binding[0]}"

    def _hook(self, client: str, kind: str, binding: str, side: str) -> str:
        return f"{client}-{kind}-{binding[0]}-{side}"

    def _python(self) -> dict[Run, list[Any]]:
        async def lane(tasks: list[dict[str, Any]]) -> dict[Run, list[Any]]:
            return {_run(task): await run(SCRIPT, task["url"], task["headers"], task["binding"], task["known"]) for task in tasks}

        async def every() -> list[dict[Run, list[Any]]]:
            return await asyncio.gather(*(lane(tasks) for tasks in self._lanes("python")))

        return {name: said for lane_ in asyncio.run(every()) for name, said in lane_.items()}

    def _npm(self) -> dict[Run, list[Any]]:
        modules = npm.installed(FOLDER, "the A2A client of npm")
        task = {"modules": str(modules), "script": SCRIPT, "zero": ZERO, "lanes": self._lanes("npm")}
        command = [npm.node(npm.installed(NODE, "Node")), str(FOLDER / "driver.mjs")]
        ended = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, timeout=SECONDS, check=False)
        assert ended.returncode == 0, ended.stderr[-2000:]
        return {_run({"name": name}): said for name, said in json.loads(ended.stdout).items()}


def _run(task: dict[str, Any]) -> Run:
    kind, binding, side = task["name"].split("|")
    return kind, binding, side


def _about(hook: str, found: Pairs, said: list[Any], name: str) -> list[Any]:
    """What a webhook was told of the task of a step, up to its end."""
    (task,) = (entry.get("said", {}).get("id", "") for entry in said if entry["step"] == name)
    if "said" not in next(entry for entry in said if entry["step"] == "create"):
        return []  # this agent tells nobody
    return found.hook.until(hook, task)


@pytest.fixture(scope="session")
def transcripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transcripts]:
    with pairs(tmp_path_factory.mktemp("gateway")) as both:
        yield Transcripts(both)
