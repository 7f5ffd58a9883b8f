"""What a call's answer says of calls before it that went on as tasks."""

from __future__ import annotations

import msgspec

from policies.workflows.story import Step


class Followed(msgspec.Struct, frozen=True, gc=False):
    """Steps that were open, each with its workflow and as the answer has it end; no other record says so of them.

    record  id of the record of the call's outcome, for which they are claimed.
    """

    record: str
    steps: tuple[tuple[str, Step], ...]
