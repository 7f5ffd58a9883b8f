"""A hundred broken bundles on a serving gateway: each refused, with its place, while calls go on under the last good one."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policies.bundle import load_texts
from policies.reading import MAX_CSV_BYTES
from tests.gateway.policy.live import ASKED_ONLY, live, texts, write
from tests.interaction.world import Peers, done, plain

GOOD = texts()
CSVS = ("grants/people.csv", "grants/agents.csv", "grants/guardrails.csv", "grants/admin.csv")
YAMLS = ("tools.yaml", "conditions.yaml", "obligations.yaml")

Break = Callable[[Path, random.Random], None]


def edit(folder: Path, name: str, change: Callable[[str], str]) -> None:
    path = folder / name
    path.write_text(change(path.read_text()))


def in_a_line(change: Callable[[list[str]], list[str]], names: tuple[str, ...] = CSVS) -> Break:
    """Change the cells of one line of one table."""

    def broken(folder: Path, rng: random.Random) -> None:
        path = folder / rng.choice(names)
        lines = path.read_text().splitlines()
        at = rng.choice([n for n, line in enumerate(lines) if not line.startswith("#")])
        lines[at] = ",".join(change(lines[at].split(",")))
        path.write_text("\n".join(lines) + "\n")

    return broken


def cell(column: int, text: str) -> Break:
    return in_a_line(lambda cells: [*cells[:column], text, *cells[column + 1 :]])


def raw(data: bytes) -> Break:
    """Bytes that no editor shows, somewhere in a table."""

    def broken(folder: Path, rng: random.Random) -> None:
        path = folder / rng.choice(CSVS)
        old = path.read_bytes()
        at = rng.randrange(1, len(old))
        path.write_bytes(old[:at] + data + old[at:])

    return broken


def appended(text: str, names: tuple[str, ...] = YAMLS) -> Break:
    return lambda folder, rng: edit(folder, rng.choice(names), lambda old: old + text)


def cut(folder: Path, rng: random.Random) -> None:
    """A copy that broke off inside a line, before its last column."""
    path = folder / rng.choice(CSVS)
    data = path.read_text()
    start, end = data.rstrip("\n").rfind("\n") + 1, data.rindex(",")
    path.write_text(data[: rng.randrange(start + 1, end)])


def half_copied(folder: Path, rng: random.Random) -> None:
    for name in rng.sample(("model.conf", "roles.csv", *YAMLS), rng.randint(1, 4)):
        (folder / name).unlink()


def instead(make: Callable[[Path, Path], object]) -> Break:
    """Something that is no file in a file's place; or beside, where a file of its name could be."""

    def broken(folder: Path, rng: random.Random) -> None:
        path = folder / rng.choice((*CSVS, "grants/more.csv", "roles.csv", "tests/more.yaml"))
        path.unlink(missing_ok=True)
        make(path, folder)

    return broken


def outside(path: Path, folder: Path) -> None:
    target = folder.with_name(f"outside-{path.name}")
    target.write_text("# nothing that this folder's owner wrote\n")
    path.symlink_to(target)


def huge(folder: Path, rng: random.Random) -> None:
    os.truncate(folder / rng.choice(CSVS), MAX_CSV_BYTES + rng.randint(1, 1 << 20))  # sparse: it takes no room


def doubled(folder: Path, rng: random.Random) -> None:
    edit(folder, rng.choice(CSVS), lambda text: text + text.rstrip("\n").rpartition("\n")[2] + "\n")


def deep(folder: Path, rng: random.Random) -> None:
    depth = rng.choice((13, 60, 900, 20_000))
    edit(folder, rng.choice(YAMLS), lambda _: "a: " + "[" * depth + "]" * depth + "\n")


def circle(folder: Path, rng: random.Random) -> None:
    more = "g, role:buyer, role:a, acme\ng, role:a, role:b, acme\ng, role:b, role:buyer, acme\n"
    edit(folder, "roles.csv", lambda text: text + more)


def stray(folder: Path, rng: random.Random) -> None:
    (folder / f"notes-{rng.randint(0, 9)}.txt").write_text("deny everything\n")


FAILING = "  - {name: x, who: mia, tool: desk.read, args: {text: a}, expect: allow}\n"
KINDS: dict[str, tuple[Break, bool]] = {  # what breaks it, and whether the mistake has a line
    "a misspelt effect": (cell(5, " alow"), True),
    "a misspelt action": (cell(4, " cal"), True),
    "an unknown role": (cell(1, " role:byer"), True),
    "an unknown tool": (cell(3, " desk.raed"), True),
    "an unknown condition": (cell(6, " sunny"), True),
    "an unknown tenant": (cell(2, " acne"), True),
    "a column too few": (in_a_line(lambda cells: cells[:-1]), True),
    "a column too many": (in_a_line(lambda cells: [*cells, " more"]), True),
    "a cell left empty": (cell(3, ""), True),
    "another kind of line": (in_a_line(lambda cells: ["P", *cells[1:]]), True),
    "an id twice": (doubled, True),
    "a line without end": (cell(1, " " + "x" * 2000), True),
    "Latin-1": (raw(b"\xe4"), True),
    "half of a surrogate": (raw(b"\xed\xa0\x80"), True),
    "a NUL": (raw(b"\0"), True),
    "a letter that cannot be seen": (raw("\u200b".encode()), True),
    "a byte order mark": (lambda folder, rng: edit(folder, rng.choice(CSVS), lambda text: "\ufeff" + text), True),
    "broken off": (cut, True),
    "half copied": (half_copied, False),
    "a key twice": (appended('"k": 1\n"k": 2\n', ("obligations.yaml",)), True),
    "YAML that runs code": (appended('x: !!python/object/apply:os.system ["true"]\n', ("obligations.yaml",)), True),
    "an alias": (appended("x: &a {type: audit}\ny: *a\n", ("obligations.yaml",)), True),
    "no YAML": (appended("]: [\n"), True),
    "too deep": (deep, False),
    "roles in a circle": (circle, True),
    "a link to itself": (instead(lambda path, _: path.symlink_to(path.name)), False),
    "a link that leads out": (instead(outside), False),
    "a pipe": (instead(lambda path, _: os.mkfifo(path)), False),
    "a folder": (instead(lambda path, _: path.mkdir()), False),
    "too large": (huge, False),
    "a stray file": (stray, False),
    "another model": (lambda folder, _: edit(folder, "model.conf", lambda text: text.replace("!some", "some")), True),
    "a test that fails": (appended(FAILING, ("tests/desk.yaml",)), True),
}  # fmt: skip


@pytest.mark.timeout(300)
def test_a_hundred_broken_bundles_are_refused_with_their_place_while_calls_go_on(tmp_path: Path, peers: Peers) -> None:
    rng = random.Random(20261122)
    good = load_texts(GOOD).digest
    over = threading.Event()
    calls: list[tuple[str, object]] = []
    kinds = [*KINDS] * 3 + rng.sample([*KINDS], 100 - 3 * len(KINDS))

    with live(tmp_path, peers, GOOD, **ASKED_ONLY) as running:
        gateway, token = running.gateway, running.admin

        def traffic() -> None:
            while not over.is_set():
                calls.append(("desk.read", gateway.call("desk.read", token).json().get("result")))
                calls.append(("desk.seal", gateway.call("desk.seal", token).json().get("result")))

        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(traffic)
            try:
                for number, kind in enumerate(kinds):
                    breaks, placed = KINDS[kind]
                    write(running.folder, GOOD)
                    breaks(running.folder, rng)
                    answer = running.reload()
                    assert answer.status_code == 422, f"{number} {kind}: {answer.text}"
                    said = answer.json()["active"]
                    assert said["result"] == "rejected"
                    assert said["digest"] == good
                    found = said["rejected"]["findings"]
                    assert found, kind
                    if placed:
                        assert any(len(each["location"].split(":")) == 3 for each in found), f"{number} {kind}: {found}"
                    assert all(each["message"] for each in found)
            finally:
                over.set()
            going.result()
        ready = gateway.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, ready.json() | {"faults": {}, "degraded": {"policy": "stale"}})
        write(running.folder, GOOD)
        assert running.reload().json()["active"] == {"result": "unchanged", "digest": good}
        assert "degraded" not in gateway.http.get("/readyz").json()
        records = gateway.records()

    assert len(kinds) == 100
    assert min(Counter(kinds).values()) >= 3
    assert Counter(record.kind for record in records)["policy.reject"] == 100
    assert len(calls) > 20
    assert {str(plain(result)) for tool, result in calls if tool == "desk.read"} == {str(done("done"))}
    assert {result for tool, result in calls if tool == "desk.seal"} == {None}
    decided = {record.leaf["decision"]["policy"] for record in records if "decision" in record.leaf}
    assert decided == {good}
