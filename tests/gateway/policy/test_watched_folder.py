"""What a folder says, and when: read whole, only when it stands still, noticed whichever way it is changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.policy.watch import Reading, glance, read_whole, settled, young
from gateway.policy.watcher import Watcher
from policies.bundle import load_texts
from tests.gateway.policy.live import QUICK, live, swap, texts, write
from tests.interaction.world import Peers

GOOD = texts()


def test_a_reading_holds_every_file_and_its_mark_says_when_two_say_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    write(folder, GOOD)
    first = read_whole(folder)
    assert first.texts == GOOD
    assert first.findings == ()
    write(folder, GOOD)
    assert read_whole(folder).mark == first.mark
    (folder / "tests/desk.yaml").write_text("tests: []\n")  # the digest leaves tests out, the mark does not
    assert read_whole(folder).mark != first.mark


def test_a_reading_of_what_cannot_be_read_is_a_finding_and_has_a_mark(tmp_path: Path) -> None:
    gone = read_whole(tmp_path / "nothing")
    assert [finding.code for finding in gone.findings] == ["no-bundle"]
    write(tmp_path / "policies", GOOD)
    (tmp_path / "policies/roles.csv").write_bytes(b"\xff\xfe")
    assert gone.mark != read_whole(tmp_path / "policies").mark != ""


async def test_a_tree_that_is_still_being_copied_is_read_again_until_it_stands_still(tmp_path: Path) -> None:
    """One more file arrives after each reading; deny lines come last."""
    folder = tmp_path / "policies"
    write(folder, {name: text for name, text in GOOD.items() if name != "grants/guardrails.csv"})
    coming = [
        ("grants/guardrails.csv", GOOD["grants/guardrails.csv"][:60]),
        ("grants/guardrails.csv", GOOD["grants/guardrails.csv"]),
    ]
    readings: list[Reading] = []

    def read(path: Path) -> Reading:
        readings.append(read_whole(path))
        if coming:
            name, text = coming.pop(0)
            (folder / name).write_text(text)
        return readings[-1]

    settles = await settled(folder, 0.001, read)
    assert settles.texts == GOOD
    assert len(readings) == 4
    assert len({reading.mark for reading in readings}) == 3  # half of it would have been a bundle of its own


async def test_a_folder_that_never_stands_still_is_a_finding_and_not_waited_for_without_end(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    write(folder, GOOD)

    def read(path: Path) -> Reading:
        with (folder / "roles.csv").open("a") as file:
            file.write("# on and on\n")
        return read_whole(path)

    settles = await settled(folder, 0.0001, read)
    assert [finding.code for finding in settles.findings] == ["unsettled"]
    assert settles.texts == {}


def rename_over(folder: Path) -> None:
    beside = folder / "grants" / ".people.csv.swp"
    beside.write_text(GOOD["grants/people.csv"] + "# one more\n")
    beside.replace(folder / "grants/people.csv")


def in_place_same_size_and_time(folder: Path) -> None:
    path = folder / "grants/people.csv"
    facts, text = path.stat(), path.read_text()
    path.write_text(text.replace("BUY-1", "BUY-9"))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def removed(folder: Path) -> None:
    (folder / "grants/guardrails.csv").unlink()


def whole_folder(folder: Path) -> None:
    write(folder, GOOD | {"roles.csv": GOOD["roles.csv"] + "# one more\n"})


@pytest.mark.parametrize("change", [rename_over, in_place_same_size_and_time, removed, whole_folder])
def test_every_way_of_changing_a_folder_is_noticed_without_opening_a_file(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = tmp_path / "policies"
    write(folder, GOOD)
    before = glance(folder)
    assert glance(folder) == before
    change(folder)
    assert glance(folder) != before


def test_the_link_by_which_kubernetes_swaps_a_mounted_folder_is_noticed_and_followed(tmp_path: Path) -> None:
    """`roles.csv -> ..data/roles.csv`, `..data -> ..2026`: one rename changes every file at once."""
    folder = tmp_path / "policies"
    flat = {name: text for name, text in GOOD.items() if "/" not in name}
    for version in ("..2026_1", "..2026_2"):
        (folder / version).mkdir(parents=True)
        for name, text in flat.items():
            (folder / version / name).write_text(text if version == "..2026_1" else text + "\n")
    (folder / "grants").mkdir()
    (folder / "..data").symlink_to("..2026_1")
    for name in flat:
        (folder / name).symlink_to(f"..data/{name}")
    before, first = glance(folder), read_whole(folder)
    assert first.findings == ()
    (folder / "..data_tmp").symlink_to("..2026_2")
    (folder / "..data_tmp").rename(folder / "..data")
    assert glance(folder) != before
    assert read_whole(folder).texts == {name: text + "\n" for name, text in flat.items()}


def test_a_folder_of_too_many_entries_costs_a_bounded_look(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    write(folder, GOOD)
    for number in range(1500):
        (folder / "grants" / f"{number}.csv").touch()
    assert glance(folder)
    assert "too-large" in {finding.code for finding in read_whole(folder).findings}


def test_what_was_written_just_now_is_young(tmp_path: Path) -> None:
    write(tmp_path / "policies", GOOD)
    assert young(tmp_path / "policies", 60)
    assert not young(tmp_path / "policies", -60)


def test_a_pipe_in_a_files_place_is_a_finding_and_nobody_waits_for_a_writer(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    write(folder, GOOD)
    (folder / "grants/people.csv").unlink()
    os.mkfifo(folder / "grants/people.csv")
    assert ("stray-file", "grants/people.csv") in {(each.code, each.file) for each in read_whole(folder).findings}


def test_a_link_out_of_the_bundle_is_refused_and_one_within_it_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    write(folder, GOOD)
    (tmp_path / "elsewhere.csv").write_text(GOOD["grants/people.csv"])
    (folder / "grants/people.csv").unlink()
    (folder / "grants/people.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert [each.code for each in read_whole(folder).findings] == ["outside-link"]
    (folder / "grants/people.csv").unlink()
    (folder / "..held").mkdir()
    (folder / "..held/people.csv").write_text(GOOD["grants/people.csv"])
    (folder / "grants/people.csv").symlink_to("../..held/people.csv")
    assert read_whole(folder).texts == GOOD


def test_a_serving_gateway_follows_a_link_that_git_sync_turns(tmp_path: Path, peers: Peers) -> None:
    """The folder of the settings is a link; each new tree is written beside and the link turned to it."""
    link = tmp_path / "current"
    swap(link, GOOD)
    more = {"policies": "current"}
    with live(tmp_path, peers, GOOD, more=more, **QUICK) as running:
        for files in (texts(more="p, role:buyer, acme, desk.seal, call, allow, -, -, BUY-9\n"), GOOD):
            swap(link, files)
            running.becomes(load_texts(files).digest)
            granted = "result" in running.gateway.call("desk.seal", running.admin).json()
            assert granted is ("grants/more.csv" in files)


def test_only_what_changed_is_read_again(tmp_path: Path, peers: Peers) -> None:
    """The watch glances; it reads, and counts a look, where a glance differs."""
    with live(tmp_path, peers, GOOD, **QUICK) as running:
        running.becomes(load_texts(GOOD).digest)
        other = texts(more="# another\n")
        write(running.folder, other)
        running.becomes(load_texts(other).digest)
        for _ in range(20):
            running.digest()
        assert sum(each["count"] for each in running.status()["reloads"] if each["result"] == "activated") == 1


async def test_a_watch_that_failed_begins_again_and_ends_when_told(caplog: pytest.LogCaptureFixture) -> None:
    """A defect of ours, planted: the first look fails."""
    looks: asyncio.Queue[int] = asyncio.Queue()
    failed: list[int] = []

    class Failing:
        """What is looked at."""

        places = (None,)

        async def changed(self, _place: None) -> bool:
            looks.put_nowait(len(failed))
            if not failed:
                failed.append(1)
                raise KeyError("planted")
            return False

    watcher = Watcher(Failing(), 0.001, pause=0.001)  # type: ignore[arg-type]
    watcher.start()
    assert [await looks.get() for _ in range(3)] == [0, 1, 1]
    await watcher.aclose()
    await watcher.aclose()
    assert "the watch of policy failed, and begins again" in caplog.text
