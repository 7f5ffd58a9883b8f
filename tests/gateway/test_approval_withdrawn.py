"""An approval that was taken back: nobody is told any more that it waits."""

from __future__ import annotations

from typing import Any, cast

from gateway.approvals.saying import withdrawn
from gateway.model import Principal
from gateway.state.approvals import Parked

PAUL = Principal("user:corp/paul", (), "acme", "wf", 2_000_000_000, method="bearer", credential="0")
ROW = Parked("id", "acme", PAUL.subject, "wf", "sha256:0", "sha256:1", "desk.pay", "open", True, 1, 2_000, b"")


class Approvals:
    """Takes down what is done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.rows = self

    def clock(self) -> int:
        return 1_000

    async def record(self, _entry: object) -> None:
        self.done.append("recorded")

    async def end(self, *_: object) -> bool:
        self.done.append("ended")
        return True

    async def noted(self, *_: object) -> None:
        self.done.append("noted")

    async def no_more(self, name: str) -> None:
        self.done.append(f"no more of {name}")

    def changed(self) -> None:
        self.done.append("changed")


async def test_approvers_are_not_told_any_more_of_what_was_withdrawn() -> None:
    approvals = Approvals()
    assert await withdrawn(cast("Any", approvals), ROW, PAUL, "call")
    assert approvals.done == ["recorded", "ended", "noted", "no more of id", "changed"]
