"""What a gateway's settings set free from what otherwise holds: on record before the first call, so that none is silent."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from audit.leaf import Kind
from audit.model import Entry
from gateway.model import Clock, new_id
from gateway.settings_outbound import UNCAGED

if TYPE_CHECKING:
    from gateway.policy.records import Append
    from gateway.settings import Settings

_AT_ONCE: Final = 64
"""Exemptions of one record."""


def exemptions(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """From what (`ledger`, `sandbox`, `egress`, `issuer`, `receipts`), for whom, and what holds instead."""
    for name, server in sorted(settings.mcp.items()):
        if server.ledger != "strict":
            yield "ledger", f"mcp:{name}", server.ledger
        if server.command is not None and server.sandbox == UNCAGED:
            yield "sandbox", f"mcp:{name}", UNCAGED
    for name, agent in sorted(settings.agents.items()):
        if agent.ledger != "strict":
            yield "ledger", f"a2a:{name}", agent.ledger
    for destination, said in sorted(settings.sandbox.egress.destinations.items()):
        if not said.tls:
            yield "egress", destination, "no-tls"
        for network in said.networks:
            yield "egress", destination, str(network)
    for issuer in settings.issuers:
        if issuer.development:
            yield "issuer", issuer.issuer, "development"
    if not settings.ledger.receipts:
        yield "receipts", "", "none"


async def record(settings: Settings, append: Append, clock: Clock) -> None:
    """Durable on return: `exemption.set`, as many records as it takes; none where nothing is exempt."""
    rest = exemptions(settings)
    while some := list(islice(rest, _AT_ONCE)):
        at = clock()
        said = [{"from": what, "target": target, "instead": instead} for what, target, instead in some]
        await append(Entry(Kind.EXEMPTION_SET, new_id(at), at, None, {"exemptions": said}))
