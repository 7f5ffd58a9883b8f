"""Records of approvals belong to the tenant of the call: where each has a log of its own, they stand there and nowhere else."""

from __future__ import annotations

from gateway.approvals import records
from gateway.model import Principal
from gateway.state.approvals import Parked

PAUL = Principal("user:corp/paul", ("agent:clerk",), "acme", "wf", 2_000_000_000, method="bearer", credential="0")
ROW = Parked("id", "acme", PAUL.subject, "wf", "sha256:0", "sha256:1", "desk.pay", "open", True, 1, 2, b"")


def test_every_record_of_an_approval_stands_in_the_log_of_its_tenant() -> None:
    made = [records.withdraw(ROW, PAUL, "call", 3), records.use(ROW, "call", 3, ()), records.expire(ROW)]
    assert {entry.kind: entry.tenant for entry in made} == dict.fromkeys([entry.kind for entry in made], "acme")
