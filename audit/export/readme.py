"""The page of an export for an auditor who has never seen the product: what this is, how to check it, what it cannot show."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from audit.export.query import Query

_FILES: Final = {
    "jsonl": ("data/records.jsonl", "every record as it was hashed"),
    "csv": ("data/records.csv", "the same in columns; a cell that a spreadsheet would take for a formula begins with `'`"),
    "ocsf": ("data/ocsf.jsonl", "the same as OCSF 1.8.0 events"),
    "cef": ("data/records.cef", "the same as CEF"),
    "otlp": ("data/otlp.jsonl", "the same as OTLP logs, a request a line"),
    "parquet": ("data/records.parquet", "the columns of the CSV as Parquet"),
}
_PAGE: Final = """# Records of {log}

{scope}

| | |
|---|---|
| log | {log} |
| query | {asked} |
| made | {when} by {operator} |
| reason | {reason} |
| software | {software} |
| records | {records} |

| kind | records |
|---|---|
{kinds}

Times are UTC. People stand in records as pseudonyms (`s_…`); what calls carried stands there as commitments, which say nothing without
the values. Values that were disclosed are in `openings/`, a file for each person; such a file can be taken away (when the person is
erased, say) and everything else stays as it is.

## Check it

You need Python 3.9 or newer, and nothing else: no network, no installation. Two things must come from elsewhere than this folder:

1. the log's key, as its operator publishes it (here it is `{vkey}`: compare);
2. `verify.py`: the one in here is for reading. Its copy from the software's release, `audit/verify.py`, must be the same file.

```sh
python3 verify.py THIS_FOLDER --key 'THE KEY'                                  # exit 0: nothing was found
python3 verify.py THIS_FOLDER --key 'THE KEY' --checkpoint LAST_TIME.checkpoint # and it continues what you kept last time
python3 verify.py THIS_FOLDER --key 'THE KEY' --witness 'WITNESS KEY'           # and a witness saw it
```

Or open `verify.html` in a browser (no network is needed; take the copy of the release) and give it this folder or its zip: it checks
the same, but for rows of other formats than JSON Lines, and cosignatures.

It checks that every file is the one that the signed manifest names and that there is no other; that the records lead to the checkpoint that
the log's key signed (RFC 9162); that every row of every format is what its record says; that disclosed values are those that were committed
to. Keep the file `checkpoint` of this export, outside of the operator's reach: next time, `--checkpoint` shows that nothing before it was
rewritten since.

## What is here

{files}
- `manifest.dsse.json`: an in-toto statement in a DSSE envelope, signed with the log's key: SHA-256 of each file, the query, counts, who and why.
- `checkpoint`: the signed head of the log (C2SP tlog-checkpoint), with witnesses' cosignatures where there are any.
- {proofs}.
- `policy/`: the bundles of policy by which the recorded decisions were made. `keys/`: verifier keys, to compare.
- `anchors/`: time-stamping authorities' tokens: `openssl ts -verify -in X.tsr -data X.checkpoint -CAfile ROOTS`.

Each row carries `log`, `seq` (the record's number) and `leaf` (its hash), so that any row, wherever it went, leads back here.

## What it cannot show

A call that never went through the gateway; and, against an operator who holds the log's key, anything that no witness, no time-stamping
authority and no checkpoint of yours saw before.
"""


def readme(about: Mapping[str, Any]) -> str:
    """Markdown."""
    complete, span = about["scope"] == "complete", about["range"]
    kinds = "\n".join(f"| {kind} | {count} |" for kind, count in sorted(about["kinds"].items()))
    files = "\n".join(f"- `{_FILES[name][0]}`: {_FILES[name][1]}." for name in about["formats"])
    scope = (
        f"**Complete**: every record from number {span['first']} up to (not including) {span['stop']} of a log of {span['size']}. "
        "That none is left out of the range is proven."
        if complete
        else "**A selection**: the records that fit the query below. Each is proven to be in the log; that there is no other which "
        "fits is the word of whoever made it. Ask for the complete range where that matters."
    )
    proofs = (
        "`tile/` or `range/`: the records' bytes as they were hashed" if complete else "`proofs/`: each record with its proof"
    )
    asked = ", ".join(
        f"{name} {_said(name, value)}" for name, value in about["query"].items() if value and value != Query().until
    )
    return _PAGE.format(
        scope=scope,
        kinds=kinds,
        files=files,
        proofs=proofs,
        log=about["log"],
        vkey=about["vkey"],
        asked=asked or "everything",
        when=_when(about["at"]),
        operator=_cell(about["operator"]),
        reason=_cell(about["reason"]),
        software=about["software"],
        records=about["records"],
    )


def _when(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _said(name: str, value: Any) -> str:
    if name in {"from", "to"}:
        return _when(value)
    return _cell(" ".join(value))


def _cell(text: str) -> str:
    return "".join(c if c.isprintable() and c not in "|<>`[]" else " " for c in text)
