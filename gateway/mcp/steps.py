"""MCP calls as steps of a workflow: tools, resources and prompts, and what their answers say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from gateway.mcp.methods import CALL_TOOL, GET_PROMPT, READ_RESOURCE
from gateway.model import Call, Principal, Reply
from gateway.workflows.steps import Ended, Heard
from policies.model import NOTHING

_STEPS: Final = frozenset({CALL_TOOL, READ_RESOURCE, GET_PROMPT})
_ENDED: Final = {"complete": Ended.DONE, "input_required": Ended.ASKED}


class McpSteps:
    """See `gateway.workflows.steps.Reader`."""

    def is_step(self, call: Call) -> bool:
        """A call, a reading, a prompt; not the rest of an answer, nor an answer to a question."""
        return call.method in _STEPS and not call.direction

    def looks(self, _call: Call) -> bool:
        """Nothing here shows what another workflow began."""
        return False

    async def joins(self, _call: Call, _principal: Principal) -> tuple[str, ...]:
        """None: there are no conversations."""
        return ()

    def arguments(self, call: Call) -> Mapping[str, object]:
        """A tool's own."""
        return call.arguments or NOTHING

    def heard(self, reply: Reply) -> Heard:
        """A result's structured content; where it has none, its texts that are JSON objects."""
        result = reply.payload.get("result") if reply.is_final and isinstance(reply.payload, dict) else None
        if not isinstance(result, dict):
            return Heard()
        ended = _ENDED.get(result.get("resultType", "complete"), Ended.OPEN)
        if ended is Ended.DONE and isinstance(result.get("task"), dict):
            ended = Ended.OPEN  # 2025-11-25: a task was made
        structured = result.get("structuredContent")
        return Heard(ended, (structured,) if isinstance(structured, dict) else _texts(result.get("content")))


def _texts(content: object) -> tuple[Mapping[str, object], ...]:
    found = []
    for block in content if isinstance(content, list) else ():
        text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
        if isinstance(text, str) and text.lstrip()[:1] == "{":
            try:
                said = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue
            if isinstance(said, dict):
                found.append(said)
    return tuple(found)
