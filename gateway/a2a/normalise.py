"""An A2A call as the question that policy is asked: may this subject, through these actors, send to that agent?"""

from __future__ import annotations

from gateway.a2a.operations import CARD
from gateway.model import Call, Principal
from policies.model import NOTHING, AccessRequest


def normalise(call: Call, principal: Principal) -> AccessRequest:
    """Every operation asks for `send` on `a2a:<agent>`: who may send may read its own tasks.

    The card asks hypothetically (`arguments=None`): whether the caller could send to the agent under some condition.
    """
    return AccessRequest(
        subject=principal.subject,
        actors=principal.actors,
        tenant=principal.tenant,
        action="send",
        resource=f"a2a:{call.target}",
        at=call.arrival.at,
        groups=principal.groups,
        arguments=None if call.method == CARD else NOTHING,
        context=principal.facts("a2a", call.method, call.version),
    )
