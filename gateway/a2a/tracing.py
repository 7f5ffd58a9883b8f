"""W3C trace context on the hops of A2A: the caller's trace goes on, to the agent and with its news back to the client's webhook.

Baggage is the caller's words to whoever traces behind us: none goes on but the members that the settings name.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec.structs import replace

from gateway.asgi import child_traceparent
from gateway.model import Arrival, Trace

MAX_BAGGAGE: Final = 8192
"""Bytes, as W3C Baggage §3.3.2 has it."""
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE: Final = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_MEMBER: Final = re.compile(rf"({_TOKEN})[ \t]*=[ \t]*({_VALUE})((?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*{_VALUE})?)*)")


def lines(trace: Trace, baggage: str = "") -> list[tuple[bytes, bytes]]:
    """The header lines of a hop onwards."""
    found = [(b"traceparent", child_traceparent(trace).encode())]
    if trace.state:
        found.append((b"tracestate", trace.state.encode()))
    if baggage:
        found.append((b"baggage", baggage.encode()))
    return found


def baggage(arrival: Arrival, allowed: frozenset[str]) -> str:
    """The members of the caller's baggage that go on, as they came; "" for none."""
    if not allowed:
        return ""
    text = ",".join(arrival.every("baggage"))
    if len(text) > MAX_BAGGAGE:
        return ""
    found = (_MEMBER.fullmatch(member.strip(" \t")) for member in text.split(","))
    return ",".join(member[0] for member in found if member is not None and member[1] in allowed)


def continued(kept: Trace, came: Trace) -> Trace:
    """The trace of an agent's news: that of the call that asked for it, also where the agent lost it on its way.

    kept  our span in that call, came: our span in the agent's request.  The span that is not the parent is linked.
    """
    if came.trace_id == kept.trace_id and came.parent:
        return replace(came, link=f"{kept.trace_id}-{kept.span_id}")
    link = f"{came.trace_id}-{came.parent}" if came.parent else ""
    return Trace(kept.trace_id, came.span_id, kept.span_id, kept.flags, kept.state, link)
