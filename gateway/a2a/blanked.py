"""What duties take from messages, artifacts and tasks: from their texts, their data and what is said beside them.

Ids and states are the protocol's own and stay.  Bytes, and where fields are looked for addresses of files and texts that are no
JSON, cannot be searched and are withheld whole; so are the later pieces of an artifact that comes in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from a2a.types import a2a_pb2 as pb
from google.protobuf.message import Message  # type: ignore[import-untyped]
from msgspec.structs import replace

from gateway.a2a.answers import AgentSaysNo
from gateway.a2a.wire import dump, to_json, to_proto
from gateway.model import Permit, Reply
from gateway.obligations import blank
from gateway.obligations.detect import MARK
from gateway.receipts import with_flags

WITHHELD: Final = "The agent's error is withheld by policy."
_TEXTS: Final = frozenset({"name", "description", "filename"})


def blanked(permit: Permit) -> Permit:
    """The permit of the call without what must not be sent."""
    call, entries = permit.call, permit.redact_sent
    if not isinstance(call.message, pb.SendMessageRequest):
        return permit  # it says nothing but ids
    said = _walk(to_json(call.message), entries, whole=True)
    message = to_proto(said, pb.SendMessageRequest())
    return replace(permit, call=replace(call, message=message), said=dump(said))


_OWN: Final = pb.AgentCard | pb.TaskPushNotificationConfig | pb.ListTaskPushNotificationConfigsResponse
"""They say of the agent, and of its caller, what they said themselves."""


class Face:
    """See `gateway.obligations.inspector.Face`."""

    def searched(self, reply: Reply, _permit: Permit, entries: frozenset[str]) -> Reply:
        """The reply without these, and what it was where that is something else; a card stays."""
        if not isinstance(reply.payload, AgentSaysNo) and self.shown(reply) is None:
            return reply
        found = without(reply, entries)
        return found if found.payload == reply.payload else replace(found, original=self.kept(reply).original)

    def shown(self, reply: Reply) -> Any:
        """The answer, or the event of one, as JSON; None for what is none."""
        payload = reply.payload
        return to_json(payload) if isinstance(payload, Message) and not isinstance(payload, _OWN) else None

    def kept(self, reply: Reply) -> Reply:
        """With what a final reply says now as its original, unless it has one."""
        shown = self.shown(reply) if reply.is_final and not reply.original else None
        return reply if shown is None else replace(reply, original=dump(shown))

    def told(self, reply: Reply, shown: Any, flags: Sequence[str] = ()) -> Reply:
        """The same proto, read from that."""
        said = with_flags(shown, flags, whole=isinstance(reply.payload, pb.Task | pb.Message))
        return replace(reply, payload=to_proto(said, type(reply.payload)()))


FACE: Final = Face()


def without(reply: Reply, entries: frozenset[str]) -> Reply:
    """A reply without what must not be seen; of an agent's error its code alone is left."""
    payload = reply.payload
    if isinstance(payload, AgentSaysNo):
        return replace(reply, payload=AgentSaysNo({"code": payload.error["code"], "message": WITHHELD}))
    return replace(reply, payload=released(payload, entries))


def released(answer: Any, entries: frozenset[str]) -> Any:
    """An answer, or an event of one (a proto), without what must not be seen."""
    if isinstance(answer, _OWN):
        return answer
    whole = not (isinstance(answer, pb.StreamResponse) and answer.artifact_update.append)
    return to_proto(_walk(to_json(answer), entries, whole=whole), type(answer)())


def _walk(value: Any, entries: frozenset[str], *, whole: bool) -> Any:
    if isinstance(value, list):
        return [_walk(inner, entries, whole=whole) for inner in value]
    if not isinstance(value, dict):
        return value
    walked: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "parts" and isinstance(inner, list):
            walked[key] = [_part(part, entries, whole=whole) for part in inner]
        elif key == "metadata":
            walked[key] = blank.part(inner, entries)
        elif key in _TEXTS and isinstance(inner, str):
            walked[key] = blank.words(inner, entries)
        elif key == "taskPushNotificationConfig":
            walked[key] = inner
        else:
            walked[key] = _walk(inner, entries, whole=whole)
    return walked


def _part(part: dict[str, Any], entries: frozenset[str], *, whole: bool) -> dict[str, Any]:
    beside: dict[str, Any] = {key: blank.part(part[key], entries) for key in ("metadata",) if key in part}
    beside |= {key: blank.words(part[key], entries) for key in ("filename",) if key in part}
    kind = {"mediaType": part["mediaType"]} if "mediaType" in part else {}
    if "data" in part:
        return {"data": blank.data(part["data"], entries), **kind, **beside}
    if "text" in part:
        return {"text": blank.text(part["text"], entries) if whole else MARK, **kind, **beside}
    if "url" in part and not blank.by_fields(entries):
        return {"url": blank.words(part["url"], entries), **kind, **beside}
    return {"text": MARK, **beside}  # bytes, and whatever else there may come
