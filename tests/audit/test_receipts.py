"""What a caller is told when its record is durable: signed once for a commit, and good against a log that says otherwise."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import receipt as receipts
from audit.checkpoint import CheckpointError, Vkey
from audit.checkpoint import parse as parse_note
from audit.model import Receipt, Together
from audit.receipt import ReceiptError, Voucher
from audit.tree import leaf_hash
from audit.verify import Key, describe, read_receipt, verify_sqlite

from .conftest import ORIGIN, SIGNING_KEY, VKEY, Open, denial

ROOT = Path(__file__).resolve().parents[2]
OWN = Vkey.parse(VKEY)


def together(count: int, first: int = 7) -> list[Receipt]:
    hashes = [leaf_hash(b"%d" % number) for number in range(count)]
    made = Together(first, hashes)
    return [Receipt(ORIGIN, f"r{number}", first + number, digest, made) for number, digest in enumerate(hashes)]


def changed(said: Mapping[str, Any], **members: object) -> dict[str, Any]:
    return {**said, **members}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 64])
def test_each_record_of_a_commit_has_a_receipt_that_both_verifiers_read_alike_and_one_signature_does(count: int) -> None:
    voucher = Voucher(ORIGIN, SIGNING_KEY)
    given = [voucher.vouch(each) for each in together(count)]
    assert len({said["signature"] for said in given}) == 1
    for number, said in enumerate(given):
        wire = json.loads(json.dumps(said))
        wanted = (f"r{number}", 7 + number, leaf_hash(b"%d" % number))
        assert receipts.verify(wire, OWN) == wanted
        assert read_receipt(wire, Key.parse(VKEY)) == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"index": 8},
        {"index": 9.0},
        {"index": True},
        {"at": 1},
        {"of": 6},
        {"of": 1},
        {"path": []},
        {"leaf": "AAAA"},
        {"log": "example.org/other"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_receipt_that_was_changed_is_none(change: dict[str, object]) -> None:
    said = changed(Voucher(ORIGIN, SIGNING_KEY).vouch(together(5)[2]), **change)
    with pytest.raises(ReceiptError):
        receipts.verify(said, OWN)
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_receipt(said, Key.parse(VKEY))


def test_another_key_gives_no_receipts_and_no_receipt_is_a_checkpoint() -> None:
    other = Voucher(ORIGIN, Ed25519PrivateKey.generate()).vouch(together(1)[0])
    with pytest.raises(ReceiptError):
        receipts.verify(other, OWN)
    text = receipts._text(ORIGIN, 0, 1, bytes(32)).decode()
    with pytest.raises(CheckpointError):
        parse_note(f"{text}\n\u2014 {ORIGIN} AAAA\n")


async def test_a_log_is_held_against_what_its_callers_were_told(path: Path, tmp_path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    told = [journal.vouch(each) for each in await asyncio.gather(*(journal.append(denial(f"d{n}")) for n in range(9)))]
    again = journal.vouch(await journal.append(denial("d3")))
    assert (again["record"], again["index"], again["leaf"]) == (told[3]["record"], told[3]["index"], told[3]["leaf"])
    await journal.close()
    assert verify_sqlite(path, VKEY, receipts=[*told, again]).findings == []
    voucher = Voucher(ORIGIN, SIGNING_KEY)
    elsewhere = voucher.vouch(Receipt(ORIGIN, "d1", told[0]["index"], leaf_hash(b"another")))
    beyond = voucher.vouch(Receipt(ORIGIN, "d99", 999, leaf_hash(b"d99")))
    found = [str(each) for each in verify_sqlite(path, VKEY, receipts=[*told, elsewhere, beyond, {"log": ORIGIN}]).findings]
    assert len(found) == 3
    assert any("as this record, and it is another one" in each for each in found)
    assert any("for d99 as record 999, and there are" in each for each in found)
    assert any("receipt 12 was not given by this log" in each for each in found)
    answers = tmp_path / "answers.jsonl"
    lines = [json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"_meta": {"bailiwick/receipt": said}}}) for said in told]
    answers.write_text("\n".join(lines))
    command = [sys.executable, str(ROOT / "audit/verify.py"), str(path), "--key", VKEY, "--receipts", str(answers), "--json"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["receipts"]) == (0, True, 9)
    assert "held against 9 receipts of callers" in describe(verify_sqlite(path, VKEY, receipts=told))
    answers.write_text("")
    none = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert (none.returncode, none.stdout) == (2, "")
    assert "--receipts names no file that holds one" in none.stderr
