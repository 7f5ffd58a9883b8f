"""`/api/audit` at a running gateway: for whom policy grants it, on record before it is answered, and with nothing opened."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interaction.world import ROOT, Gateway, Peers

AUDITORS = """\
p, role:buyer,    acme, audit:ledger, read,   allow, -, -, AUD-1
p, role:marketer, acme, audit:ledger, review, allow, -, -, AUD-2
"""


@pytest.fixture(scope="module")
def audited(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose policy lets buyers read and marketers review."""
    running = Gateway(tmp_path_factory.mktemp("audit-api"), upstreams)
    (running.folder / "policies/grants/auditors.csv").write_text(AUDITORS)
    try:
        yield running.start()
    finally:
        running.stop()


def get(gateway: Gateway, path: str, person: str = "paul", **query: object) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {gateway.token(person)}"}
    answer = gateway.http.get(f"/api/audit/{path}", headers=headers, params={k: str(v) for k, v in query.items()} or None)
    return answer.status_code, answer.json()


def test_a_call_is_found_shown_and_traced_and_each_question_is_on_record_first(audited: Gateway) -> None:
    call = audited.call("desk.read", audited.token("paul"))
    decision, workflow = call.headers["bailiwick-decision"], call.headers["bailiwick-workflow"]
    status, found = get(audited, "search", q=f"call:{decision} kind:call.*")
    assert status == 200, found
    assert [each["record"]["kind"] for each in found["records"]] == ["call.end", "call.start"]
    subject = found["records"][-1]["record"]["subject"]
    assert subject.startswith("s_")
    by_name = get(audited, "search", q=f"subject:user:dev/paul call:{decision}")[1]["records"]
    assert [each["record"]["subject"] for each in by_name] == [subject, subject]
    shown = get(audited, f"records/{decision}")[1]
    assert shown["record"]["request"].keys() == {"c", "n", "op"}
    story = get(audited, f"workflows/{workflow}")[1]
    assert story["allowed"] >= 1
    assert '"shown"' not in json.dumps(story)
    reads = get(audited, "search", q="kind:audit.read", count=1)[1]["records"]
    assert reads[0]["record"]["wanted"] == "search kind:audit.read"
    report = get(audited, "report", since=0, until=2**53 - 1)[1]
    assert report["counts"]["kinds"]["audit.read"] >= 5


@pytest.mark.parametrize("path", ["search", "records/x", "workflows/x", "report?since=0&until=1"])
def test_who_has_no_right_is_told_nothing(audited: Gateway, path: str) -> None:
    assert get(audited, path, "mia")[0] == 403
    assert audited.http.get(f"/api/audit/{path}").status_code == 401


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("search", {"q": "kynd:x"}, 422),
        ("search", {"count": 0}, 422),
        ("search", {"size": -1}, 422),
        ("records/nothing", {}, 404),
        ("workflows/nothing", {}, 404),
        ("report", {"since": 5}, 422),
    ],
)
def test_what_makes_no_sense_is_said(audited: Gateway, path: str, query: dict[str, object], status: int) -> None:
    found, body = get(audited, path, **query)
    assert found == status
    assert body["title"]


def test_a_review_is_on_record_with_its_period_and_note(audited: Gateway) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BAILIWICK_")}
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "audit",
        "review",
        "--from",
        "1h",
        "--note",
        "looked at all refusals",
        "--json",
    ]
    ran = [
        subprocess.run(
            [*command, "--config", str(audited.config)],
            capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
            env=environment | {"BAILIWICK_TOKEN": audited.token(person)},
        )
        for person in ("mia", "paul")
    ]  # fmt: skip
    assert [each.returncode for each in ran] == [0, 1], [each.stderr for each in ran]
    done = json.loads(ran[0].stdout)
    kept = get(audited, f"records/{done['id']}")[1]["record"]
    assert kept["kind"] == "audit.review"
    assert kept["wanted"].endswith("looked at all refusals")
    assert re.match(r"20\d\d-\d\d-\d\dT[0-9:.]+Z to 20[-0-9T:.]+Z of \d+ records: ", kept["wanted"])
