"""Calls tools through the gateway that runs this code: `call("erp.read", {"id": "7"})`.

Every call is decided as if the person and the agents on whose behalf this code runs had made it themselves, and is on record.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from typing import Any

__all__ = ["ToolError", "call"]

_MOST = 16 * 1024 * 1024


class ToolError(Exception):
    """The call was refused, or the tool failed.

    code      the gateway's stable code, as `user-lacks-right`; `tool-error` where the tool itself said no.
    decision  id of the decision, by which an administrator finds it; "" where there is none.
    """

    def __init__(self, code: str, message: str, decision: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.decision = decision


class _Channel:
    """The descriptor that the gateway handed over; several threads may call at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writing = threading.Lock()
        self._heard = threading.Condition()
        self._listening = False
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}

    def ask(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        with self._writing:
            self._number += 1
            number = self._number
            said = json.dumps({"id": number, "tool": tool, "arguments": arguments}, allow_nan=False).encode()
            view = memoryview(struct.pack(">I", len(said)) + said)
            while view:
                view = view[os.write(self._descriptor, view) :]
        with self._heard:
            while number not in self._answers:
                if self._listening:
                    self._heard.wait()  # another thread listens, and hands over what is ours
                else:
                    self._listen()
            return self._answers.pop(number)

    def _listen(self) -> None:
        """Take the next answer, whosever it is.  The others may look at what there is meanwhile."""
        self._listening = True
        self._heard.release()
        answer: dict[str, Any] | None = None
        try:
            answer = json.loads(self._take(self._length()))
        finally:
            self._heard.acquire()
            self._listening = False
            if answer is not None:
                self._answers[answer["id"]] = answer
            self._heard.notify_all()

    def _length(self) -> int:
        length: int = struct.unpack(">I", self._take(4))[0]
        if length > _MOST:
            raise ToolError("too-large", "the answer is larger than any that the gateway sends")
        return length

    def _take(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self._descriptor, min(size, 65536))
            if not part:
                raise ToolError("closed", "the gateway takes no more calls of this run")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


_channel = _Channel(int(os.environ["BAILIWICK_TOOLS"])) if os.environ.get("BAILIWICK_TOOLS", "").isdigit() else None


def call(tool: str, arguments: dict[str, Any] | None = None) -> Any:
    """What the tool `server.name` returns: its structured result, or else its text; `ToolError` where there is none."""
    if _channel is None:
        raise ToolError("not-offered", "the profile of this run lets code call no tools")
    try:
        answer = _channel.ask(tool, {} if arguments is None else arguments)
    except OSError:
        raise ToolError("closed", "the gateway takes no more calls of this run") from None
    if "result" in answer:
        return answer["result"]
    raise ToolError(answer["code"], answer["message"], answer.get("decision", ""))
