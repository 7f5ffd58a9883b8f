"""Servers that each person has for themselves: what one is told is there again for its person, and for nobody else."""

# ruff: noqa: PTH208, SIM117  looking at files in between is what these tests are about
from __future__ import annotations

import os
import secrets
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.model import Refused
from gateway.sandbox.user_folders import UserFolders
from gateway.upstream.registry import Keeping, McpTarget
from sandbox import lasting
from sandbox.engine import CagedRunner
from sandbox.interpreter import own_uids
from tests.mcp.world import connected
from tests.stdio.world import Scene, caged, speaker

OWN = Keeping(own_bytes=1 << 20)
MEMORY = {"MEMORY_FILE_PATH": "{folder}/memory.json"}


@pytest.fixture
def folders(reachable: Path) -> UserFolders:
    reachable.chmod(0o711)
    return UserFolders(reachable / "folders", secrets.token_bytes(32))


def text_of(result: Any) -> str:
    return str(result.content[0].text)


@pytest.mark.node
async def test_the_memory_server_from_npm_remembers_for_its_person_over_sessions_and_gateways_and_never_for_another(
    tmp_path: Path, runner: CagedRunner, folders: UserFolders, memory_server: Path
) -> None:
    target = McpTarget("ref", "stdio", command=("node", str(memory_server)), environment=MEMORY, keeping=OWN)
    entity = {"name": "Teddy", "entityType": "bear", "observations": ["likes honey"]}
    async with caged(tmp_path, target, runner, folders=folders) as scene:
        async with connected(scene.world, "legacy") as client:
            await client.call_tool("create_entities", {"entities": [entity]})
        async with connected(scene.world, "legacy") as again, connected(scene.world, "legacy", person="ben") as other:
            assert "likes honey" in text_of(await again.call_tool("read_graph", {}))
            await other.call_tool("create_entities", {"entities": [entity | {"observations": ["is a dog"]}]})
            assert "likes honey" not in text_of(await other.call_tool("read_graph", {}))
        assert scene.server.running() == 2  # a process each, whatever the sessions
    async with caged(tmp_path, target, runner, folders=folders) as scene:  # another gateway with the same key
        async with connected(scene.world, "auto") as client, connected(scene.world, "auto", person="ben") as other:
            mine, theirs = [text_of(await each.call_tool("read_graph", {})) for each in (client, other)]
        assert ("likes honey" in mine, "is a dog" in mine) == (True, False)
        assert ("likes honey" in theirs, "is a dog" in theirs) == (False, True)


@pytest.mark.node
async def test_the_file_server_from_npm_writes_into_its_persons_folder_and_finds_nobody_elses(
    tmp_path: Path, runner: CagedRunner, folders: UserFolders, filesystem_server: Path
) -> None:
    target = McpTarget("ref", "stdio", command=("node", str(filesystem_server), "{folder}"), keeping=OWN)
    async with caged(tmp_path, target, runner, folders=folders) as scene:
        async with connected(scene.world, "legacy") as client, connected(scene.world, "legacy", person="ben") as other:
            allowed = text_of(await client.call_tool("list_allowed_directories", {})).strip().splitlines()[-1]
            theirs = text_of(await other.call_tool("list_allowed_directories", {})).strip().splitlines()[-1]
            await client.call_tool("write_file", {"path": f"{allowed}/note.txt", "content": "forty-two"})
            assert "forty-two" in text_of(await client.call_tool("read_text_file", {"path": f"{allowed}/note.txt"}))
            assert "note.txt" not in text_of(await other.call_tool("list_directory", {"path": theirs}))
            for path in (f"{allowed}/note.txt", f"{theirs}/../../{Path(allowed).parent.name}/files/note.txt"):
                if allowed != theirs or ".." in path:
                    assert "forty-two" not in text_of(await other.call_tool("read_text_file", {"path": path}))


async def session_of(scene: Scene, person: str) -> str:
    scene.session = ""
    return await scene.opened(person)


async def test_a_folder_is_named_by_nobody_closed_to_everybody_and_its_servers_home(
    tmp_path: Path, reachable: Path, runner: CagedRunner, folders: UserFolders
) -> None:
    target = speaker(reachable, keeping=OWN)
    async with caged(tmp_path, target, runner, folders=folders) as scene:
        said = await scene.does("import os; said['home'] = os.environ['HOME']; said['cwd'] = os.getcwd(); open('x', 'w')")
        assert said["home"] == said["cwd"]
        assert runner.name != "bwrap" or said["home"] == "/data"
        (start,) = scene.entries("sandbox.start")
        assert start.fields["folder"] is True
    (person,) = (reachable / "folders").iterdir()
    (outer,) = person.iterdir()
    for name in (person.name, outer.name):
        assert len(name) == 40
        assert "anna" not in name
        assert "ref" not in name
    assert stat.S_IMODE(outer.stat().st_mode) == 0o700
    assert os.listdir(outer / "files") == ["x"]
    other = UserFolders(reachable / "folders", secrets.token_bytes(32))  # another key names another place
    assert other.of("acme", "user:dev/anna", "ref", 1 << 20).path.parent != person
    same = {folders.of(*of, 1 << 20).path for of in (("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("", "ab", "c"))}
    assert len(same) == 4


ATTACKS = """
import os
for person in os.listdir(base) if os.access(base, os.R_OK) else []:
    said['listed'] = person
def attempt(name, action):
    try:
        said[name] = repr(action())
    except OSError:
        said[name] = None
top = os.open(os.environ['HOME'], os.O_RDONLY)
attempt('read', lambda: open(path + '/secret').read())
attempt('list', lambda: os.listdir(path))
attempt('write', lambda: open(path + '/planted', 'w'))
attempt('link', lambda: (os.symlink(path, 'link'), os.listdir('link')))
attempt('hard link', lambda: os.link(path + '/secret', 'hard'))
attempt('descriptor', lambda: open('/proc/self/fd/%d/../../../%s/secret' % (top, tail)).read())
attempt('working folder', lambda: open('/proc/self/cwd/../../../%s/secret' % tail).read())
attempt('root', lambda: open('/proc/self/root' + path + '/secret').read())
attempt('base', lambda: os.listdir(base))
"""


async def test_a_persons_server_reaches_no_other_persons_folder_while_that_is_in_use(
    tmp_path: Path, reachable: Path, runner: CagedRunner, folders: UserFolders
) -> None:
    async with caged(tmp_path, speaker(reachable, keeping=OWN), runner, folders=folders) as scene:
        assert await scene.does("open('secret', 'w').write('of anna'); said['ok'] = 1") == {"ok": 1}
        place = reachable / "folders"
        (path,) = place.glob("*/*/files")
        await session_of(scene, "ben")
        given = {"path": str(path), "base": str(place), "tail": str(path.relative_to(place))}
        found = await scene.does(ATTACKS, person="ben", **given)
        assert set(found) == {"read", "list", "write", "link", "hard link", "descriptor", "working folder", "root", "base"}
        assert not any(found.values()), found
    assert os.listdir(path) == ["secret"]


async def test_one_that_fills_its_folder_is_ended_and_only_its_person_waits(
    tmp_path: Path, reachable: Path, runner: CagedRunner, folders: UserFolders
) -> None:
    async with caged(tmp_path, speaker(reachable, keeping=OWN), runner, folders=folders) as scene:
        await scene.opened()
        code = {"code": "open('x', 'wb').write(b'x' * (3 << 20))\nimport time\ntime.sleep(60)"}
        await scene.world.legacy("anna", "tools/call", session=scene.session, name="any", arguments=code)
        assert (await scene.world.ledger.until("sandbox.end")).fields["reason"] == "disk"
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        again = (await scene.world.legacy("anna", "initialize", **hello)).json()
        assert again["error"]["data"]["code"] == "upstream-connect"  # above twice its bound
        await session_of(scene, "ben")
        assert await scene.does("said['fine'] = 1", person="ben") == {"fine": 1}


async def test_erasing_a_person_ends_their_servers_and_leaves_nothing_of_them_and_all_of_the_others(
    tmp_path: Path, reachable: Path, runner: CagedRunner, folders: UserFolders
) -> None:
    precious = reachable / "precious"
    precious.mkdir()
    (precious / "file").write_text("stays")
    async with caged(tmp_path, speaker(reachable, keeping=OWN), runner, folders=folders) as scene:
        plant = "import os; open('note', 'w').write('x'); os.symlink(path, 'planted'); os.symlink('/proc/self/fd/0', 'fd')"
        for person in ("anna", "ben"):
            await session_of(scene, person)
            await scene.does(plant, person=person, path=str(precious))
        session = scene.session
        subject = scene.world.asked[-1].subject
        assert await scene.servers.erase(subject) == 1
        assert await scene.servers.erase(subject) == 0
        assert scene.server.running() == 1
        assert (await scene.world.legacy("ben", "tools/call", session=session, name="any")).status_code == 404
        assert len(list((reachable / "folders").iterdir())) == 1
        await session_of(scene, "ben")  # who comes back finds nothing
        assert await scene.does("import os; said['left'] = os.listdir()", person="ben") == {"left": []}
        await session_of(scene, "anna")
        assert "note" in (await scene.does("import os; said['left'] = os.listdir()"))["left"]
    assert (precious / "file").read_text() == "stays"


async def test_another_gateways_process_has_the_folder_until_it_is_gone(
    tmp_path: Path, reachable: Path, runner: CagedRunner, folders: UserFolders
) -> None:
    async with caged(tmp_path, speaker(reachable, keeping=OWN), runner, folders=folders) as scene:
        await scene.opened()
        (outer,) = (reachable / "folders").glob("*/*")
        subject = scene.world.asked[-1].subject
        await scene.server.leave(subject)
        held = lasting.claim(lasting.Lasting(outer, 1 << 20))  # as the other one's process
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        answer = await scene.world.legacy("anna", "initialize", **hello)
        assert (answer.status_code, answer.json()["error"]["data"]["code"]) == (503, "overloaded")
        with pytest.raises(Refused, match="overloaded"):
            await scene.servers.erase(subject)
        lasting.release(held)
        await scene.opened()


async def test_where_the_guarantee_is_not_proven_nobody_has_one(
    tmp_path: Path, reachable: Path, runner: CagedRunner, folders: UserFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await runner._knowledge()
    weaker = {name: finding for name, finding in known.report.findings.items() if name != "folder"}
    monkeypatch.setattr(runner, "_known", replace(known, report=replace(known.report, findings=weaker)))
    async with caged(tmp_path, speaker(reachable, keeping=OWN), runner, folders=folders) as scene:
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        answer = (await scene.world.legacy("anna", "initialize", **hello)).json()
        assert answer["error"]["data"]["code"] == "isolation-unproven"
        (end,) = scene.entries("sandbox.end")
        assert end.fields["missing"] == {"folder": "wanted hard, got absent"}
        assert list((reachable / "folders").glob("*/*")) == []


def test_a_place_that_programs_cannot_pass_through_is_told_at_the_start(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    said = UserFolders(closed / "folders", b"x" * 32).unfit()
    assert ("is closed to the user ids that programs have" in said) is own_uids()
