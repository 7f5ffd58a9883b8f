"""An A2A call as the question that policy is asked: may this subject, through these actors, send to that agent?"""

from __future__ import annotations

from collections.abc import Mapping

from a2a.types import a2a_pb2 as pb

from gateway.a2a.operations import CARD, LIST_AGENTS
from gateway.model import Call, Principal
from policies.addresses import host_of
from policies.model import NOTHING, AccessRequest
from policies.names import EVERY_AGENT


def normalise(call: Call, principal: Principal) -> AccessRequest:
    """Every operation asks for `send` on `a2a:<agent>`: who may send may read its own tasks.

    The card asks hypothetically (`arguments=None`): whether the caller could send to the agent under some condition.
    The directory asks `list` on all agents: each of them is asked for what its card asks, and left out where that is no.
    """
    listing = call.method == LIST_AGENTS
    return AccessRequest(
        subject=principal.subject,
        actors=principal.actors,
        tenant=principal.tenant,
        action="list" if listing else "send",
        resource=EVERY_AGENT if listing else f"a2a:{call.target}",
        at=call.arrival.at,
        groups=principal.groups,
        arguments=None if call.method == CARD else NOTHING,
        context=_facts(call, principal),
    )


def _facts(call: Call, principal: Principal) -> Mapping[str, Mapping[str, object]]:
    """`agent.*` and `ctx.*`: also the extensions that are active, and of a message what its parts are, come from and weigh.

    A card's question, and the directory's, is for nobody's message yet, so that these are left open there.
    """
    facts = principal.facts("a2a", call.method, call.version)
    if call.method in {CARD, LIST_AGENTS}:
        return facts
    parts = call.message.message.parts if isinstance(call.message, pb.SendMessageRequest) else ()
    said: dict[str, object] = {
        "extensions": list(call.kept.extensions),
        "media_types": sorted({part.media_type.lower() for part in parts if part.media_type}),
        "url_hosts": sorted({_host(part.url) for part in parts if part.HasField("url")}),
        "raw_bytes": sum([len(part.raw) for part in parts]),
    }
    return {**facts, "ctx": {**facts["ctx"], **said}}


def _host(url: str) -> str:
    """The host of a web address; "" for any other address, and where two readers could find different ones."""
    return (host_of(url) or "") if "://" in url else ""
