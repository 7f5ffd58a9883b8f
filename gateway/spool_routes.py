"""Which calls may be recorded in the spool while the ledger's store is away: those to servers and agents that settings name so.

Never one that a workflow's rules hold: its history stands in a store of its own, which knows no spool.
"""

from __future__ import annotations

from collections.abc import Callable

from audit.spool import SpoolLimits
from gateway.model import Call
from gateway.settings import Settings

Spools = Callable[[Call], bool]


def spooling(settings: Settings) -> Spools | None:
    """None where no route's settings ask for it."""
    routes = {("mcp", name) for name, server in settings.mcp.items() if server.ledger == "spool"}
    routes |= {("a2a", name) for name, agent in settings.agents.items() if agent.ledger == "spool"}
    if not routes:
        return None

    def spools(call: Call) -> bool:
        return (call.arrival.protocol, call.target) in routes

    return spools


def limits_of(settings: Settings) -> SpoolLimits:
    """Where the spool lies: also where nothing asks for it (any more), for what was left there has to come into the log."""
    spool = settings.ledger.spool
    return SpoolLimits(settings.data.resolve() / "spool", spool.bytes, spool.seconds)
