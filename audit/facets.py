"""What of a record can be searched for.  A pure function of its leaf, and for the end of a call also of its beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

FACETS: Final = (
    "id", "kind", "call", "workflow", "tenant", "subject", "agent", "chain", "proto", "method", "server", "tool", "action",
    "resource", "effect", "reason", "outcome", "policy", "trace", "writer",
)  # fmt: skip
"""The names by which a query asks, in the order of `Facets`."""

_OF_THE_BEGINNING: Final = (
    "workflow", "tenant", "subject", "agent", "chain", "proto", "method", "server", "tool", "action", "resource", "policy",
    "trace",
)  # fmt: skip
"""What an end repeats of the beginning that it names, so that `agent:x outcome:tool-error` finds it."""


class Facets(NamedTuple):
    """One record as it is searched; "" where it says nothing of the kind.

    call    the id of the call that it belongs to: its own, or the one that it ends.
    agent   who acts: the last of the chain.  chain: every agent of it, as " agent:a agent:b ".
    reason  of the refusal, else of the decision; outcome: how a forwarded call ended.
    """

    id: str
    kind: str
    call: str = ""
    workflow: str = ""
    tenant: str = ""
    subject: str = ""
    agent: str = ""
    chain: str = ""
    proto: str = ""
    method: str = ""
    server: str = ""
    tool: str = ""
    action: str = ""
    resource: str = ""
    effect: str = ""
    reason: str = ""
    outcome: str = ""
    policy: str = ""
    trace: str = ""
    writer: str = ""


_CALLS = frozenset({"call.start", "question.ask", "decision.deny", "egress.start"})


def facets(leaf: Mapping[str, Any], begun: Facets | None = None) -> Facets:
    """The facets of a leaf; `begun` are those of the record that its `call` names, where there is one."""
    decision, refused, outcome = (_mapping(leaf.get(name)) for name in ("decision", "refused", "outcome"))
    links = [str(link[1]) for link in leaf.get("chain") or () if isinstance(link, list) and len(link) == 2]
    agents = [link for link in links[1:] if link]
    kind = _text(leaf, "kind")
    said = Facets(
        id=_text(leaf, "id"),
        kind=kind,
        call=_text(leaf, "call") or (_text(leaf, "id") if kind in _CALLS else ""),
        workflow=_text(leaf, "workflow"),
        tenant=_text(leaf, "tenant"),
        subject=_text(leaf, "subject"),
        agent=agents[-1] if agents else "",
        chain=f" {' '.join(agents)} " if agents else "",
        proto=_text(leaf, "proto"),
        method=_text(leaf, "method"),
        server=_text(leaf, "target") or _text(leaf, "server"),
        tool=_text(leaf, "tool"),
        action=_text(leaf, "action"),
        resource=_text(leaf, "resource"),
        effect="deny" if kind == "decision.deny" else _text(decision, "effect"),
        reason=_text(refused, "code") or _text(decision, "reason") or _text(leaf, "reason"),
        outcome=_text(outcome, "status") or ("orphaned" if kind == "call.orphaned" else ""),
        policy=_text(decision, "policy") or _text(leaf, "policy"),
        trace=_text(leaf, "trace"),
        writer=_text(_mapping(leaf.get("writer")), "id"),
    )
    if begun is None:
        return said
    return said._replace(**{name: getattr(said, name) or getattr(begun, name) for name in _OF_THE_BEGINNING})


def _text(leaf: Mapping[str, Any], name: str) -> str:
    value = leaf.get(name)
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
