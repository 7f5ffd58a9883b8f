"""Exports and checks a ledger of so many made-up records of such a size; prints how memory grew, and what they weigh (KB)."""

from __future__ import annotations

import json
import resource
import sqlite3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audit.checkpoint import Checkpoint, Vkey, sign
from audit.export.finishing import Means
from audit.export.making import make, planned
from audit.export.plan import Plan
from audit.export.query import Query
from audit.reader import Ledger
from audit.store_sql import migrate
from audit.tree import Frontier, leaf_hash
from audit.verify import verify_export
from tests.audit.conftest import NOON, ORIGIN, SIGNING_KEY, VKEY

folder, count, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir()
migrate(f"sqlite:///{folder}/ledger.db")
rows, frontier = sqlite3.connect(folder / "ledger.db"), Frontier()
rows.execute("INSERT INTO ledger_log VALUES (1, ?, ?)", (ORIGIN, str(Vkey.of(ORIGIN, SIGNING_KEY))))
for n in range(count):
    said = {
        "id": f"r{n}",
        "kind": "decision.deny",
        "log": ORIGIN,
        "ts": NOON + n,
        "v": 1,
        "note": "x" * size,
        "workflow": f"wf-{n}",
    }
    data = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    rows.execute("INSERT INTO ledger_leaves VALUES (?, ?, ?, ?)", (n, f"r{n}", leaf_hash(data), data))
    rows.executemany("INSERT INTO ledger_nodes VALUES (?, ?, ?)", [tuple(node) for node in frontier.append(leaf_hash(data))])
rows.execute("UPDATE ledger_head SET size = ?, frontier = ?", (count, frontier.encode()))
note = sign(Checkpoint(ORIGIN, count, frontier.root()), SIGNING_KEY)
rows.execute("INSERT INTO ledger_checkpoints VALUES (?, ?)", (count, note))
rows.commit()
rows.close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = folder / "out"
with Ledger.open(f"sqlite:///{folder}/ledger.db") as log:
    wish = Plan(Query(), ("jsonl", "otlp"), note, count, 0, 0, "os:me", "memory", NOON)
    make(log, planned(log, wish), out, Means(SIGNING_KEY, ORIGIN, lambda _: None, (), "test"), lambda *_: None)
report = verify_export(out, VKEY)
assert report.findings == [], report.findings[:3]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, count * size // 1024)
