"""An export checked as `verify.py` does it, and its Parquet rows too, which the standard library cannot read."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from audit.export import parquet
from audit.verify import PARQUET, ROWS, Finding, Report, verify_export

_SHOWN: Final = 100


def check(
    path: Path,
    key: str | None = None,
    kept: str | Sequence[str] | None = None,
    witnesses: Sequence[str] = (),
    quorum: int | None = None,
) -> Report:
    """See `audit.verify.verify_export`."""
    report = verify_export(path, key, kept, witnesses, quorum)
    if report.ok and "parquet" in report.export.get("formats", ()) and parquet.available():
        with tempfile.TemporaryDirectory() as scratch:
            folder = path if path.is_dir() else _unpacked(path, Path(scratch))
            report.findings += [Finding(said) for said in islice(parquet.differences(folder), _SHOWN)]
        report.notes = [note for note in report.notes if PARQUET not in note]
    return report


def _unpacked(path: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(path) as made:
        for name in (PARQUET, ROWS["jsonl"][0]):
            made.extract(name, scratch)
    return scratch
