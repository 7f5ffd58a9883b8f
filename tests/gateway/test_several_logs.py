"""One log for each tenant: what holds for one log holds for each alone, and what befalls one befalls no other."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from audit.checkpoint import Vkey
from audit.cosignature import WitnessKey
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError
from audit.reader import Ledger, Shredded
from audit.receipt import verify as verify_receipt
from audit.several import ROOT as BESIDE
from audit.several import exists, url_of
from audit.verify_url import verify_url
from gateway import signals
from gateway.cli import main
from gateway.erasure.erasing import Erasing, Log, NotErasedError
from gateway.identity.keyfiles import ledger_key, seal_key
from gateway.settings import Settings
from gateway.settings_ledger import Outside
from gateway.stores import LOG, ROOT, existing, index_of, ledger_url_of, logs_of, of_log, signed_head_of
from tests.gateway import tenant_writer as writer
from tests.gateway.tenant_writer import SEAL, TENANTS, end, ledgers, settings_of, start
from tests.postgres_server import database, server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    if request.param == "sqlite":
        yield settings_of(tmp_path / "data")
        return
    with database(request.getfixturevalue("postgres")) as url:
        yield settings_of(tmp_path / "data", url)


def url_for(settings: Settings, name: str) -> str:
    return ledger_url_of(of_log(settings, name))


def vkey_for(settings: Settings, name: str) -> Vkey:
    return Vkey.of(of_log(settings, name).ledger.origin, ledger_key(settings.data))


def ids(settings: Settings, name: str) -> list[str]:
    with Ledger.open(url_for(settings, name), SEAL) as log:
        return [record.id for record in log.records()]


def findings(settings: Settings, name: str) -> list[Any]:
    return verify_url(url_for(settings, name), str(vkey_for(settings, name))).findings


async def test_each_tenants_records_are_in_its_log_and_what_is_nobodys_in_the_gateways(settings: Settings) -> None:
    async with ledgers(settings) as made:
        way = made.journal
        receipts = {tenant: await way.append(start(f"c-{tenant}", tenant)) for tenant in TENANTS}
        for tenant in TENANTS:
            assert (await way.submit(end(f"c-{tenant}", tenant))).log == f"example.org/ledger/t/{tenant}"
        assert (await way.append(Entry("policy.reload", "p1", 5))).log == "example.org/ledger"
        assert (await way.append(Entry("vault.forget", "v1", 5, tenant="long-gone"))).log == "example.org/ledger"
        for tenant, receipt in receipts.items():
            assert verify_receipt(way.vouch(receipt), vkey_for(settings, tenant))[0] == f"c-{tenant}"
        assert made.sound
        assert made.served.keys() == {LOG, ROOT, *TENANTS}
    for tenant, other in (TENANTS, TENANTS[::-1]):
        assert {f"c-{tenant}", f"c-{tenant}-end"} <= set(ids(settings, tenant))
        assert not {f"c-{other}", "p1", "v1"} & set(ids(settings, tenant))
    assert {"p1", "v1"} <= set(ids(settings, LOG))
    assert not exists(url_for(settings, "house")), "no record, no log"
    for name in (LOG, *TENANTS):
        assert findings(settings, name) == []


async def test_the_root_log_takes_the_head_of_each(settings: Settings) -> None:
    async with ledgers(settings) as made:
        for tenant in TENANTS:
            await made.journal.append(start(f"c-{tenant}", tenant))
        assert await asyncio.to_thread(root_knows, settings) == {of_log(settings, name).ledger.origin for name in (LOG, *TENANTS)}
    assert findings(settings, ROOT) == []


def killed(settings: Settings) -> list[tuple[str, str, str, str]]:
    """Two gateways, one after the other, that are killed at their work: tenant, index, id and hash of what they acknowledged."""
    chance, said = random.Random(11), []
    for round_ in range(2):
        command = [sys.executable, writer.__file__, str(settings.data), settings.ledger.url or "", f"r{round_}"]
        lines, wanted = 0, chance.randrange(60, 300)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.endswith("\n"):
                    tenant, index, record, digest = line.split()
                    said.append((tenant, index, record, digest))
                    lines += 1
                if lines == wanted:
                    process.kill()
        assert lines >= wanted
    return said


async def test_calls_of_two_tenants_that_a_killed_gateway_left_are_closed_each_in_its_log_and_nothing_acknowledged_is_lost(
    settings: Settings,
) -> None:
    said = await asyncio.to_thread(killed, settings)
    async with ledgers(settings):
        pass  # opened at the start, and not by their next call, since that may never come
    for tenant in TENANTS:
        with Ledger.open(url_for(settings, tenant), SEAL) as log:
            records = {record.id: record for record in log.records()}
        for _, index, record, digest in (each for each in said if each[0] == tenant):
            assert (str(records[record].index), records[record].hash.hex()) == (index, digest)
        starts = {each.id for each in records.values() if each.kind == "call.start"}
        ended = [str(each.leaf["call"]) for each in records.values() if each.kind in {"call.end", "call.orphaned"}]
        assert sorted(ended) == sorted(starts)
        report = verify_url(url_for(settings, tenant), str(vkey_for(settings, tenant)))
        assert (report.findings, report.open_calls) == ([], 0)


async def test_one_tenants_log_that_is_broken_stops_that_tenant_alone_and_is_written_again_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ledger_several._AGAIN_SECONDS", 0.0)
    settings = settings_of(tmp_path / "data")
    async with ledgers(settings) as made:
        for tenant in TENANTS:
            await made.journal.append(start(f"c-{tenant}", tenant))
    broken = Path(url_for(settings, "acme").removeprefix("sqlite:///"))
    shutil.copy(broken, tmp_path / "kept")
    with sqlite3.connect(broken) as thief:
        thief.execute("DROP TRIGGER ledger_leaves_no_update")
        thief.execute("UPDATE ledger_leaves SET data = CAST(data || ' ' AS BLOB) WHERE idx = 1")
        thief.execute("UPDATE ledger_head SET size = 1")
    thief.close()
    async with ledgers(settings) as made:
        with pytest.raises(LedgerUnavailableError):
            await made.journal.append(start("c2", "acme"))
        with pytest.raises(LedgerUnavailableError):
            await made.journal.submit(start("c3", "acme"))
        await made.journal.append(start("c2", "globex"))
        assert (bool(made.journal.healthy), made.sound) == (True, False)
        assert made.remembered()[1]["ledger"].startswith("of 1 tenants' logs")
        shutil.copy(tmp_path / "kept", broken)
        for suffix in ("-wal", "-shm"):
            broken.with_name(broken.name + suffix).unlink(missing_ok=True)
        await made.journal.append(start("c4", "acme"))
        assert made.sound


async def test_a_caller_that_leaves_while_its_tenants_log_is_opened_leaves_it_whole(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data")
    async with ledgers(settings) as made:
        leaving = asyncio.create_task(made.journal.append(start("c1", "acme")))
        await asyncio.sleep(0)
        leaving.cancel()
        late = made.journal.submit(start("c2", "acme"))
        assert (await late).log == "example.org/ledger/t/acme"
        await made.journal.append(end("c2", "acme"))
    assert findings(settings, "acme") == []


async def test_a_data_folder_of_one_log_goes_on_with_a_log_for_each_tenant_and_back(tmp_path: Path) -> None:
    before = settings_of(tmp_path / "data", logs="one")
    after = settings_of(tmp_path / "data")
    async with ledgers(before) as made:
        assert isinstance(made.journal, Journal)
        await made.journal.append(start("old", "acme"))
    async with ledgers(after) as made:
        await made.journal.append(start("new", "acme"))
        await made.journal.append(end("new", "acme"))
    async with ledgers(before) as made:
        await made.journal.append(start("again", "acme"))
    assert {"old", "again"} <= set(ids(before, LOG))
    assert "new" in ids(after, "acme")
    assert "new" not in ids(before, LOG)
    for name in (LOG, "acme"):
        assert findings(after, name) == []


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "@root", "x" * 64, "a\0b", "ledger ", "nobody"])
def test_attack_no_log_is_found_or_made_for_a_word_that_the_settings_do_not_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(LookupError):
        of_log(settings_of(tmp_path), name)
    if name not in {"@root", "nobody"}:
        with pytest.raises(ValueError, match="named by a tenant"):
            url_of("sqlite:////x/ledger.db", name)


def test_no_two_logs_share_a_place(tmp_path: Path) -> None:
    names = ("a-b", "a", "b", "x" * 63, "x" * 62 + "y", "root", "ledger", BESIDE)
    for url in ("sqlite:////x/ledger.db", "postgresql+psycopg://h/db?host=/x"):
        places = {url_of(url, name) for name in names} | {url, url_of(url.replace("ledger", "other"), "a")}
        assert len(places) == len(names) + (2 if "sqlite" in url else 1)
    settings = settings_of(tmp_path, "postgresql+psycopg://h/db", anchors={"kept": {"folder": str(tmp_path / "kept")}})
    views = [of_log(settings, name) for name in logs_of(settings)]
    for place in (ledger_url_of, signed_head_of, index_of, lambda view: view.ledger.origin):
        assert len({place(view) for view in views}) == len(views)
    folders = [view.ledger.anchors["kept"].folder for view in views if "kept" in view.ledger.anchors]
    assert len(set(folders)) == len(folders) == len(views)


@pytest.mark.parametrize("name", ["ledger", "root"])
def test_no_tenant_is_called_as_the_gateways_own_logs_are(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be called"):
        Settings.model_validate({"tenant": name, "ledger": {"logs": "tenant"}})
    assert Settings.model_validate({"tenant": name}).tenant == name


async def test_a_person_is_erased_in_every_log_that_knows_them_and_held_in_any(settings: Settings) -> None:
    async with ledgers(settings) as made:
        for tenant in TENANTS:
            await made.journal.append(start(f"c-{tenant}", tenant, "ann"))
        await made.journal.append(start("c-bob", "acme", "bob"))

        async def nothing(_: str) -> int:
            return 0

        def logs() -> list[Log]:
            return [Log(tenant, url, made.shredder(tenant)) for tenant, url in existing(settings)]

        erasing = Erasing(made.journal.append, logs, SEAL, {"other": nothing}, writer.clock)
        request = await erasing.ask("user:corp/ann", "asked to", "user:corp/dpo")
        hold = await erasing.hold("user:corp/ann", "a case", "user:corp/law")
        with pytest.raises(NotErasedError, match="legal hold"):
            await erasing.agree(request, "user:corp/ann", "user:corp/other")
        await erasing.clear(hold, "closed", "user:corp/law")
        with pytest.raises(NotErasedError, match="somebody else than who asked"):
            await erasing.agree(request, "user:corp/ann", "user:corp/dpo")
        with pytest.raises(NotErasedError, match="about somebody else"):
            await erasing.agree(request, "user:corp/bob", "user:corp/other")
        done = await erasing.agree(request, "user:corp/ann", "user:corp/other")
        assert done.values == 2
        for tenant in TENANTS:
            with Ledger.open(url_for(settings, tenant), SEAL) as log:
                assert log.pseudonym("user:corp/ann") is None
                record = log.get(f"c-{tenant}")
                assert record is not None
                assert isinstance(log.open_value(record, "request"), Shredded)
                assert [each.kind for each in log.records()].count("key.shred") == 1
        with Ledger.open(url_for(settings, "acme"), SEAL) as log:
            assert log.pseudonym("user:corp/bob") is not None
        with Ledger.open(url_for(settings, LOG), SEAL) as log:
            assert "erasure.ask" not in {each.kind for each in log.records()}
    for tenant in TENANTS:
        assert findings(settings, tenant) == []


async def test_attack_a_tenants_log_that_is_taken_away_is_missed_because_the_root_knows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tmp_path / "data")
    config = tmp_path / "bailiwick.yaml"
    said = settings.model_dump(mode="json", include={"tenant", "issuers", "data"}, exclude_defaults=True)
    config.write_text(json.dumps(said | {"ledger": {"origin": "example.org/ledger", "logs": "tenant"}}))
    seal_key(settings.data)
    async with ledgers(settings) as made:
        for tenant in TENANTS:
            await made.journal.append(start(f"c-{tenant}", tenant))
        await asyncio.to_thread(root_knows, settings)

    def verified() -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main(["audit", "verify", "--json", "--config", str(config)])
        return int(str(ended.value.code or 0)), json.loads(capsys.readouterr().out)

    code, report = await asyncio.to_thread(verified)
    assert (code, report["gone"], report["ok"]) == (0, [], True)
    shutil.move(url_for(settings, "acme").removeprefix("sqlite:///"), tmp_path / "taken")
    code, report = await asyncio.to_thread(verified)
    assert (code, report["gone"], report["ok"]) == (1, ["example.org/ledger/t/acme"], False)
    with pytest.raises(SystemExit):
        await asyncio.to_thread(main, ["audit", "logs", "--json", "--config", str(config)])
    sizes = {each["log"]: each["records"] for each in json.loads(capsys.readouterr().out)["logs"]}
    assert (sizes["acme"], sizes["house"], sizes["globex"] is not None) == (None, None, True)


def root_knows(settings: Settings, beat: threading.Event = threading.Event()) -> set[str]:  # noqa: B008  never set
    """The logs of which the root has checkpoints, once those are three."""
    while True:
        if exists(url_for(settings, ROOT)):
            with Ledger.open(url_for(settings, ROOT)) as root:
                seen = {str(record.leaf["of"]) for record in root.records() if record.kind == "log.checkpoint"}
            if len(seen) == 3:
                return seen
        beat.wait(0.05)


def witnesses_of(*names: str) -> list[dict[str, str]]:
    return [{"url": "http://127.0.0.1:1", "key": str(WitnessKey.of(name, Ed25519PrivateKey.generate()))} for name in names]


def test_the_root_log_beside_tenants_has_the_outside_of_the_ledger_in_places_of_its_own(tmp_path: Path) -> None:
    anchors = {"box": {"folder": tmp_path / "box"}, "tags": {"git": {"remote": "/srv/log.git"}}}
    forwarders = {"copy": {"file": tmp_path / "copy.jsonl"}}
    said = {"logs": "tenant", "witnesses": witnesses_of("w/1", "w/2"), "quorum": 1, "anchors": anchors, "forwarders": forwarders}
    made = Settings.model_validate({"data": tmp_path, "tenant": "house", "ledger": said})
    root = of_log(made, ROOT).ledger
    assert (root.witnesses, root.wanted) == (made.ledger.witnesses, 1)
    assert root.anchors["box"].folder == tmp_path / "box" / "root"
    assert root.anchors["tags"].git is not None
    assert root.anchors["tags"].git.branch == "checkpoints-root"
    assert root.forwarders["copy"].file == tmp_path / "copy.root.jsonl"
    own = made.model_copy(
        update={"ledger": made.ledger.model_copy(update={"root": Outside(witnesses=made.ledger.witnesses[:1])})}
    )
    assert (len(of_log(own, ROOT).ledger.witnesses), of_log(own, ROOT).ledger.anchors) == (1, {})


def test_a_root_log_that_an_anchor_names_is_remembered_by_those_alone_who_are_named_for_it(tmp_path: Path) -> None:
    anchors = {"over": {"root": {"url": f"sqlite:///{tmp_path}/root.db", "origin": "example.org/root"}}}
    said: dict[str, Any] = {"witnesses": witnesses_of("w/1"), "anchors": anchors}
    made = Settings.model_validate({"data": tmp_path, "ledger": said})
    assert of_log(made, ROOT).ledger.witnesses == ()
    named = Settings.model_validate({"data": tmp_path, "ledger": said | {"root": {"witnesses": witnesses_of("w/9")}}})
    assert [each.key.partition("+")[0] for each in of_log(named, ROOT).ledger.witnesses] == ["w/9"]
    assert of_log(named, ROOT).ledger.wanted == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"root": {}}, "there is no root log"),
        ({"logs": "tenant", "root": {"anchors": {"up": {"root": {"url": "sqlite:///x", "origin": "x"}}}}}, "there is no other"),
        ({"logs": "tenant", "root": {"quorum": 1}}, "1 of 0 witnesses cannot agree"),
        ({"logs": "tenant", "root": {"witnesses": witnesses_of("w/1", "w/1")}}, "names of their own"),
    ],
)
def test_what_cannot_be_of_the_root_log_is_refused(said: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        Settings.model_validate({"data": tmp_path, "ledger": said})


async def test_a_root_log_that_nobody_remembers_is_said_to_be_unwitnessed_with_no_word_of_its_size(settings: Settings) -> None:
    async with ledgers(settings) as made:
        said, _ = made.remembered()
        assert "the root log is unwitnessed" in said
        samples = [each for family in made.families() if family.name == signals.LEDGER_WITNESSED_SIZE for each in family.samples]
        assert {each.labels["log"]: each.value for each in samples}[ROOT] == 0
