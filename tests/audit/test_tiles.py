"""The log as static tiles: the paths and bytes of c2sp.org/tlog-tiles, and nothing published that is not what was signed."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Vkey
from audit.journal import Journal
from audit.model import TamperedError
from audit.store_read import SqlReader
from audit.tile_folder import Written, write
from audit.tiles import ENTRIES, WIDTH, Tile, parse, root_at, tiles_of
from audit.tree import Frontier, leaf_hash, root_of
from tests.audit.conftest import ORIGIN, VKEY, Open, copy_ledger, denial, tamper


async def grown(journal: Journal, count: int, start: int = 0) -> None:
    for record in range(start, start + count):
        await journal.append(denial(f"r-{record}"))


def written(path: Path, folder: Path, *, entries: bool = True) -> Written:
    rows = SqlReader(f"sqlite:///{path}")
    try:
        return write(rows, folder, entries=entries, key=VKEY)
    finally:
        rows.close()


def published(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def leaves_in(folder: Path, size: int) -> list[bytes]:
    """What a stranger gets out of the entry bundles."""
    found = []
    for tile in tiles_of(size):
        data = (folder / tile.path).read_bytes() if tile.level == ENTRIES else b""
        while data:
            length = int.from_bytes(data[:2], "big")
            found.append(data[2 : 2 + length])
            data = data[2 + length :]
    return found


# ------------------------------------------------------------------------------------------------------------- the paths
def test_the_example_of_the_specification_has_its_path() -> None:
    assert Tile(0, 1_234_067).path == "tile/0/x001/x234/067"
    assert Tile(ENTRIES, 0, 17).path == "tile/entries/000.p/17"


def test_a_tree_of_seventy_thousand_has_the_tiles_that_the_specification_counts() -> None:
    found = [tile for tile in tiles_of(70_000) if tile.level != ENTRIES]
    full = [tile.level for tile in found if tile.width == WIDTH]
    assert (full.count(0), full.count(1)) == (273, 1)
    assert [(tile.level, tile.width) for tile in found if tile.width < WIDTH] == [(0, 112), (1, 17), (2, 1)]


@given(st.integers(-1, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_every_tile_has_one_path_and_every_path_one_tile(level: int, number: int, width: int) -> None:
    tile = Tile(level, number, width)
    assert parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    ["", "tile", "tile/0", "tile/0/0", "tile/0/00", "tile/00/000", "tile/64/000", "tile/-1/000", "tile/0/x000/001", "tile/0/1234",
     "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/300", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000/", "/tile/0/000",
     "tile/0/000\n", "tile/entries/x1/000", "tile/data/000", "tile/0/../000", "tile/0/\u0660\u0660\u0660",
     "tile/0/" + "x999/" * 7 + "999"],
)  # fmt: skip
def test_a_path_in_another_spelling_is_no_tile(path: str) -> None:
    assert parse(path) is None


@given(st.integers(0, 140_000), st.integers(0, 140_000))
def test_what_was_there_and_what_is_new_is_everything(since: int, more: int) -> None:
    size = since + more
    there, new, everything = set(tiles_of(since)), list(tiles_of(size, since)), set(tiles_of(size))
    assert {tile for tile in everything if tile not in there} <= set(new) <= everything
    assert len(set(new)) == len(new)
    assert all(tile.is_in(size) for tile in new)


# ------------------------------------------------------------------------------------------------------------- the folder
async def test_a_stranger_computes_the_signed_root_from_the_files_alone(open_journal: Open, path: Path, tmp_path: Path) -> None:
    journal = await open_journal()
    await grown(journal, 600)
    await journal.close()
    folder = tmp_path / "www"
    said = written(path, folder)
    origin, size, root = (folder / "checkpoint").read_text().split("\n")[:3]
    leaves = leaves_in(folder, int(size))
    assert (said.before, said.size, len(leaves)) == (0, int(size), int(size))
    assert (origin, root_of(leaf_hash(leaf) for leaf in leaves)) == (ORIGIN, base64.b64decode(root))
    level0 = b"".join((folder / tile.path).read_bytes() for tile in tiles_of(int(size)) if tile.level == 0)
    assert level0 == b"".join(leaf_hash(leaf) for leaf in leaves)
    assert (folder / "tile/1/000.p/2").read_bytes() == b"".join(root_of(map(leaf_hash, leaves[at : at + 256])) for at in (0, 256))


async def test_a_folder_that_is_continued_is_the_folder_that_is_written_anew(
    open_journal: Open, path: Path, tmp_path: Path
) -> None:
    journal = await open_journal()
    await grown(journal, 250)
    await journal.close()
    folder, anew = tmp_path / "www", tmp_path / "anew"
    first = written(path, folder)
    assert written(path, folder) == Written(first.size, first.size, 0)
    journal = await open_journal()
    await grown(journal, 300, 250)
    await journal.close()
    second = written(path, folder)
    written(path, anew)
    assert second.before == first.size
    assert published(anew).items() <= published(folder).items()
    assert not (folder / "tile/0/000.p").exists()  # the whole tile is there
    assert not list(folder.rglob("*.new"))


async def test_hashes_alone_are_published_where_records_are_nobody_elses_business(
    open_journal: Open, path: Path, tmp_path: Path
) -> None:
    journal = await open_journal()
    await grown(journal, 10)
    await journal.close()
    written(path, tmp_path / "www", entries=False)
    assert not (tmp_path / "www/tile/entries").exists()
    assert (tmp_path / "www/tile/0/000.p").exists()


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE ledger_leaves SET data = CAST(replace(data, 'r-100', 'r-200') AS BLOB) WHERE id = 'r-100'",
        "UPDATE ledger_leaves SET hash = zeroblob(32) WHERE id = 'r-100'",
        "UPDATE ledger_leaves SET hash = 'text' WHERE id = 'r-100'",
        "DELETE FROM ledger_leaves WHERE id = 'r-100'",
        "UPDATE ledger_nodes SET hash = zeroblob(32) WHERE level = 1 AND idx = 0",
        "DELETE FROM ledger_nodes",
    ],
    ids=["bytes", "hash", "type-of-the-hash", "missing", "node", "nodes-missing"],
)
async def test_nothing_is_published_of_a_log_that_was_changed(
    open_journal: Open, path: Path, tmp_path: Path, script: str
) -> None:
    journal = await open_journal()
    await grown(journal, 300)
    await journal.close()
    tamper(path, script)
    with pytest.raises(TamperedError):
        written(path, tmp_path / "www")
    assert not (tmp_path / "www/checkpoint").exists()


async def test_a_folder_is_not_continued_by_a_log_that_was_set_back_or_rewritten(
    open_journal: Open, path: Path, tmp_path: Path
) -> None:
    journal = await open_journal()
    await grown(journal, 20)
    await journal.close()
    backup = copy_ledger(path, tmp_path / "backup")
    journal = await open_journal()
    await grown(journal, 20, 20)
    await journal.close()
    folder = tmp_path / "www"
    written(path, folder)
    before = published(folder)
    with pytest.raises(TamperedError):
        written(backup, folder)  # a backup that was put in place
    journal = await open_journal(url=f"sqlite:///{backup}")
    await grown(journal, 60, 1000)  # which then went on, with the same key
    await journal.close()
    with pytest.raises(TamperedError):
        written(backup, folder)
    assert published(folder) == before


async def test_a_checkpoint_by_another_key_is_not_published(open_journal: Open, path: Path, tmp_path: Path) -> None:
    journal = await open_journal()
    await journal.close()
    rows = SqlReader(f"sqlite:///{path}")
    try:
        with pytest.raises(TamperedError):
            write(rows, tmp_path / "www", key=str(Vkey.of(ORIGIN, Ed25519PrivateKey.generate())))
    finally:
        rows.close()


@given(st.integers(0, 700))
def test_roots_come_out_alike_from_stored_hashes_and_from_leaves(size: int) -> None:
    frontier, stored = Frontier(), {0: [leaf_hash(b"%d" % at) for at in range(size)], 1: [], 2: []}
    for leaf in stored[0]:
        for level, _, digest in frontier.append(leaf):
            stored[level].append(digest)
    assert root_at(lambda level, start, stop: stored[level][start:stop], size) == frontier.root()
