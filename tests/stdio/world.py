"""A gateway whose stdio server runs in a cage of one backend, and a server that does whatever its client asks of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audit.model import Entry, Receipt
from gateway.mcp.stdio import StdioServer
from gateway.model import wall_clock
from gateway.sandbox.runs import Network
from gateway.sandbox.server_records import Ledger
from gateway.sandbox.servers import Servers
from gateway.sandbox.user_folders import UserFolders
from gateway.settings import Limits
from gateway.upstream.registry import McpTarget
from sandbox.interpreter import choose, own_uids
from sandbox.model import Profile
from sandbox.profiles import load_profiles
from sandbox.runner import Runner
from tests.mcp.world import World, answer_of, gateway

PROFILES = load_profiles()
PYTHON = choose(65534 if own_uids() else None).path
SPEAKER = """
import json, os, sys
print("a word on standard error", file=sys.stderr, flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "it", "version": "1"}}
    else:
        said = {}
        try:
            exec(message["params"]["arguments"]["code"], {"said": said})
        except BaseException as error:
            said["raised"] = repr(error)
        result = {"content": [{"type": "text", "text": json.dumps(said)}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
"""Obeys: the attacker is the server itself."""


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that a child's own user id can reach, unlike those of tests."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@dataclass
class Scene:
    world: World
    server: StdioServer
    servers: Servers
    session: str = ""

    async def opened(self, person: str = "anna") -> str:
        self.session = await self.world.handshake(person)
        return self.session

    async def does(self, code: str, *, person: str = "anna", **variables: Any) -> dict[str, Any]:
        """What the server says that came of this code of its own."""
        if not self.session:
            await self.opened(person)
        given = "".join(f"{name} = {value!r}\n" for name, value in variables.items())
        call = await self.world.legacy(person, "tools/call", session=self.session, name="any", arguments={"code": given + code})
        found: dict[str, Any] = json.loads(answer_of(call)["result"]["content"][0]["text"])
        return found

    def entries(self, kind: str) -> list[Entry]:
        return [entry for entry in self.world.ledger.entries if entry.kind == kind]


@asynccontextmanager
async def caged(
    folder: Path,
    target: McpTarget,
    runner: Runner,
    *,
    profile: Profile | None = None,
    network: Network | None = None,
    folders: UserFolders | None = None,
    **options: Any,
) -> AsyncIterator[Scene]:
    """`options` as `StdioServer`'s."""
    profiles = {**PROFILES, **({} if profile is None else {profile.name: profile})}
    worlds: list[World] = []

    async def append(entry: Entry) -> Receipt:
        return await worlds[0].ledger.append(entry)

    servers = Servers(profiles, [runner], Ledger(append, wall_clock), network, folders)
    terms = replace(servers.terms(target, Limits()), **options)
    server = StdioServer(target.id, servers.starter(target), terms)
    servers._made.append(server)
    try:
        async with gateway(folder, {target.id: target}, others={target.id: server}) as world:
            worlds.append(world)
            yield Scene(world, server, servers)
            await server.aclose()
    finally:
        await server.aclose()


def speaker(place: Path, name: str = "ref", **changes: Any) -> McpTarget:
    """The server that obeys; its script stands in the folder, which it does not read but for that."""
    script = place / "speaker.py"
    script.write_text(SPEAKER)
    script.chmod(0o644)
    target = McpTarget(name, "stdio", command=(PYTHON, str(script)), environment={"GIVEN": "yes"})
    return replace(target, **changes)


def alive(mark: str) -> int:
    """Processes of this machine that have the mark on their command line or in their environment."""
    found = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            said = Path(entry.path, "cmdline").read_bytes() + Path(entry.path, "environ").read_bytes()
        except OSError:
            continue
        found += mark.encode() in said
    return found
