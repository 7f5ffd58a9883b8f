"""What runs leave is bounded in count, bytes and time, and is nobody's but its owner's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.model import Principal, Refused
from gateway.reasons import Code
from gateway.sandbox.folders import MOST_FILES, Folders
from gateway.sandbox.kept import FILES_OF_ONE, Kept, mime_of
from sandbox.model import FILES, FILES_BYTES
from sandbox.result import Artifact

ANN = Principal("user:corp/ann", ("agent:clerk",), "acme", "wf-1", ends=1000, method="bearer", credential="x")


class Now:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def left(*sizes: int) -> list[Artifact]:
    return [Artifact.of(f"{number}.bin", b"\0" * size) for number, size in enumerate(sizes)]


def names(kept: Kept, principal: Principal = ANN) -> list[str]:
    return [file.uri.removeprefix("sandbox://runs/") for file in kept.of(principal)]


@pytest.mark.parametrize(
    "other",
    [{"subject": "user:corp/bob"}, {"tenant": "other"}, {"actors": ()}, {"actors": ("agent:clerk", "agent:courier")}],
    ids=str,
)
def test_a_file_is_read_by_the_same_person_through_the_same_agents_alone(other: Mapping[str, Any]) -> None:
    kept = Kept(900, 100, 1000)
    (file,) = kept.keep(ANN, "run", left(1))
    assert kept.get(ANN, file.uri) is file
    assert kept.get(replace(ANN, workflow="wf-2"), file.uri) is file
    assert kept.get(replace(ANN, **other), file.uri) is None
    assert names(kept, replace(ANN, **other)) == []


def test_a_file_is_gone_when_its_time_is_over() -> None:
    now = Now()
    kept = Kept(900, 100, 1000, now=now)
    (file,) = kept.keep(ANN, "run", left(1))
    now.at = 899.9
    assert kept.get(ANN, file.uri) is not None
    now.at = 900
    assert kept.get(ANN, file.uri) is None


def test_the_oldest_run_of_an_owner_makes_room_for_the_newest() -> None:
    kept = Kept(900, 100, 1000)
    for run in ("a", "b", "c"):
        kept.keep(ANN, run, left(40))
    assert names(kept) == ["c/files/0.bin", "b/files/0.bin"]


def test_what_is_too_large_for_one_owner_is_not_kept_and_the_rest_is() -> None:
    kept = Kept(900, 100, 1000)
    assert [file.name for file in kept.keep(ANN, "run", left(101, 60, 60, 30))] == ["1.bin", "3.bin"]


def test_all_owners_together_are_bounded_and_the_oldest_run_goes() -> None:
    kept, people = Kept(900, 100, 150), [replace(ANN, subject=f"user:corp/{name}") for name in "abc"]
    for person in people:
        kept.keep(person, "run", left(60))
    assert [len(kept.of(person)) for person in people] == [0, 1, 1]


def test_the_count_of_files_is_bounded() -> None:
    kept = Kept(900, 1 << 20, 1 << 24)
    kept.keep(ANN, "a", left(*[1] * (FILES_OF_ONE + 5)))
    assert len(kept.of(ANN)) == FILES_OF_ONE
    kept.keep(ANN, "b", left(1))
    assert names(kept) == ["b/files/0.bin"]


def test_nothing_of_a_run_makes_a_page_in_the_clients_window() -> None:
    assert mime_of("a.html", b"<script>") == mime_of("a.svg", b"<svg>") == "text/plain"
    assert mime_of("a.png", b"<script>") == "text/plain"
    assert mime_of("a.txt", b"\x89PNG\r\n\x1a\n") == "image/png"


@pytest.mark.parametrize("name", ["a b.txt", "ä.txt", "deep/er/x'(1),*.txt", "-.txt", "a?b", "a#b"])
def test_a_name_has_one_uri_by_which_it_is_read(name: str) -> None:
    kept = Kept(900, 100, 1000)
    (file,) = kept.keep(ANN, "run", [Artifact.of(name, b"x")])
    found = kept.get(ANN, file.uri)
    assert found is not None
    assert found.name == name


# --- folders that last for a workflow


class Clock:
    def __init__(self) -> None:
        self.seconds = 0

    def __call__(self) -> int:
        return self.seconds * 1_000_000


def folders(path: Path, clock: Clock | None = None, *, most: int = 8, of_one: int = 4, key: bytes = b"k" * 32) -> Folders:
    return Folders(path / "sessions", key, clock or Clock(), most=most, most_of_one=of_one)


async def leave(kept: Folders, who: Principal, files: Mapping[str, bytes], profile: str = "p") -> tuple[str, ...]:
    async with kept.held(who, profile) as session:
        return session.leave(files)


async def found(kept: Folders, who: Principal, profile: str = "p") -> dict[str, bytes]:
    async with kept.held(who, profile) as session:
        return dict(session.files)


async def test_files_are_found_again_by_the_same_workflow_person_and_profile_alone(tmp_path: Path) -> None:
    kept = folders(tmp_path)
    await leave(kept, ANN, {"a": b"1", "deep/b": b"\0\xff"})
    assert await found(kept, ANN) == {"a": b"1", "deep/b": b"\0\xff"}
    assert await found(kept, replace(ANN, actors=())) == {"a": b"1", "deep/b": b"\0\xff"}  # another part of the same workflow
    for other in ({"subject": "user:corp/bob"}, {"tenant": "other"}, {"workflow": "wf-2"}):
        assert await found(kept, replace(ANN, **other)) == {}
    assert await found(kept, ANN, "q") == {}


async def test_what_is_kept_is_sealed_and_private(tmp_path: Path) -> None:
    await leave(folders(tmp_path), ANN, {"name-of-it": b"secret"})
    (path,) = (tmp_path / "sessions").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "sessions").stat().st_mode & 0o777 == 0o700
    stored = path.read_bytes()
    assert b"secret" not in stored
    assert b"name-of-it" not in stored
    assert "ann" not in path.name


async def test_a_folder_that_somebody_exchanged_or_changed_is_refused(tmp_path: Path) -> None:
    kept, bob = folders(tmp_path), replace(ANN, subject="user:corp/bob")
    await leave(kept, ANN, {"a": b"ann's"})
    (anns,) = (tmp_path / "sessions").iterdir()
    await leave(kept, bob, {"a": b"bob's"})
    (bobs,) = [path for path in (tmp_path / "sessions").iterdir() if path != anns]
    bobs.write_bytes(anns.read_bytes())
    with pytest.raises(Refused) as refused:
        await found(kept, bob)
    assert refused.value.code is Code.DUTY_FAILED
    anns.write_bytes(anns.read_bytes()[:-1] + b"x")
    with pytest.raises(Refused):
        await found(kept, ANN)


async def test_a_folder_under_another_key_is_another_folder(tmp_path: Path) -> None:
    await leave(folders(tmp_path), ANN, {"a": b"1"})
    assert await found(folders(tmp_path, key=b"x" * 32), ANN) == {}


async def test_a_folder_ends_with_its_workflow(tmp_path: Path) -> None:
    clock = Clock()
    kept = folders(tmp_path, clock)
    await leave(kept, ANN, {"a": b"1"})
    clock.seconds = 999
    assert await found(kept, ANN) == {"a": b"1"}
    clock.seconds = 1000
    assert await found(kept, ANN) == {}
    assert list((tmp_path / "sessions").iterdir()) == []


async def test_what_does_not_fit_is_named_and_not_kept(tmp_path: Path) -> None:
    kept = folders(tmp_path)
    assert await leave(kept, ANN, {"a": bytes(FILES_BYTES), "b": b"1"}) == ("a",)
    many = {str(number): b"" for number in range(MOST_FILES + 1)}
    assert await leave(kept, ANN, many) == (str(MOST_FILES),)
    assert len(await found(kept, ANN)) == MOST_FILES < FILES
    async with kept.held(ANN, "small", 300 << 10) as session:
        assert session.leave({"a": bytes(40 << 10), "b": bytes(40 << 10)}) == ("b",)  # a part of it is the next caller's


async def test_a_persons_oldest_folder_makes_room_and_nobody_elses(tmp_path: Path) -> None:
    kept, bob = folders(tmp_path, of_one=2), replace(ANN, subject="user:corp/bob")
    await leave(kept, bob, {"a": b"bob's"})
    for number, workflow in enumerate(("wf-1", "wf-2", "wf-3")):
        before = set((tmp_path / "sessions").iterdir())
        await leave(kept, replace(ANN, workflow=workflow), {"a": workflow.encode()})
        (made,) = set((tmp_path / "sessions").iterdir()) - before
        os.utime(made, (number, number))
    assert await found(kept, ANN) == {}
    assert await found(kept, replace(ANN, workflow="wf-3")) == {"a": b"wf-3"}
    assert await found(kept, bob) == {"a": b"bob's"}


async def test_more_folders_than_there_may_be_are_refused(tmp_path: Path) -> None:
    kept = folders(tmp_path, most=2)
    for name in "ab":
        await leave(kept, replace(ANN, subject=f"user:corp/{name}"), {"a": b"1"})
    with pytest.raises(Refused) as refused:
        await leave(kept, ANN, {"a": b"1"})
    assert refused.value.code is Code.OVERLOADED


async def test_one_run_at_a_time_has_the_folder(tmp_path: Path) -> None:
    kept = folders(tmp_path)
    async with kept.held(ANN, "p"):
        with pytest.raises(Refused) as refused:
            async with kept.held(ANN, "p", wait=False):
                pass
        async with kept.held(ANN, "q", wait=False):
            pass
    assert refused.value.code is Code.OVERLOADED
    async with kept.held(ANN, "p", wait=False):
        pass


async def test_erasing_a_person_leaves_none_of_their_files_and_folders_and_all_of_the_others(tmp_path: Path) -> None:
    kept, bob = folders(tmp_path), replace(ANN, subject="user:corp/bob")
    await leave(kept, ANN, {"a": b"1"})
    await leave(kept, replace(ANN, workflow="wf-2", tenant="other"), {"a": b"2"}, "q")
    await leave(kept, bob, {"b": b"3"})
    assert await kept.erase("user:corp/ann") == 2
    assert await kept.erase("user:corp/ann") == 0
    assert await found(kept, ANN) == {}
    assert await found(kept, bob) == {"b": b"3"}
    files = Kept(900, 100, 1000)
    files.keep(ANN, "run", left(1, 2))
    (others,) = files.keep(bob, "run", left(3))
    assert (files.erase("user:corp/ann"), names(files)) == (2, [])
    assert files.of(bob) == [others]


async def test_a_run_that_goes_on_while_its_person_is_erased_leaves_nothing(tmp_path: Path) -> None:
    kept = folders(tmp_path)
    await leave(kept, ANN, {"a": b"1"})
    async with kept.held(ANN, "p") as session:
        assert await kept.erase("user:corp/ann") == 1
        session.leave({"a": b"2"})
    assert list((tmp_path / "sessions").iterdir()) == []
    await leave(kept, ANN, {"a": b"3"})  # somebody who comes back
    assert await found(kept, ANN) == {"a": b"3"}
