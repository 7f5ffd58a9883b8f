"""Which workflows a canary bundle decides for: a stable part of them, by a hash of their ids.

A workflow belongs to one side for its whole life; a larger part contains every smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.model import Call, Principal
    from policies.model import AccessRequest, Decision

_PARTS = 1 << 32


def is_canary(workflow: str, percent: float) -> bool:
    """Whether this workflow is among these percent of all."""
    digest = hashlib.sha256(b"bailiwick-canary-v1\n" + workflow.encode("utf-8", "surrogatepass")).digest()
    drawn = int.from_bytes(digest[:4], "big")
    return drawn * 100 < percent * _PARTS


class ByWorkflow:
    """The stages `normalise` and `decide` of a road on which two bundles decide, each for its workflows.

    A question does not say of which workflow it is, so `normalise` notes who is to answer it.  `decide` follows it without
    anything in between; a question that it was not told of is an error, and so a refusal.
    """

    __slots__ = ("_decide_of", "_normalise", "_noted")

    def __init__(
        self,
        normalise: Callable[[Call, Principal], AccessRequest],
        decide_of: Callable[[str], Callable[[AccessRequest], Decision]],
    ) -> None:
        self._normalise = normalise
        self._decide_of = decide_of
        self._noted: tuple[AccessRequest, Callable[[AccessRequest], Decision]] | None = None

    def normalise(self, call: Call, principal: Principal) -> AccessRequest:
        """The question, and a note of whose workflow it belongs to."""
        request = self._normalise(call, principal)
        self._noted = request, self._decide_of(principal.workflow)
        return request

    def decide(self, request: AccessRequest) -> Decision:
        """The answer of the bundle that this workflow belongs to."""
        noted, self._noted = self._noted, None
        if noted is None or noted[0] is not request:
            msg = "a question of no known workflow"
            raise RuntimeError(msg)
        return noted[1](request)
