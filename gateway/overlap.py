"""Which calls may be under way while their record is being written: those of tools that were approved as changing nothing.

Asked for by the server's settings; never by what the server says of itself now.  Answers wait for the record.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.mcp.methods import CALL_TOOL
from gateway.model import Permit
from gateway.policy.in_force import InForce
from gateway.settings import Settings
from policies.lock import reads_only

Overlaps = Callable[[Permit], bool]


def overlapping(settings: Settings, in_force: InForce) -> Overlaps | None:
    """None where no server's settings ask for it."""
    servers = frozenset(name for name, server in settings.mcp.items() if server.ledger == "overlap")
    if not servers:
        return None

    def overlaps(permit: Permit) -> bool:
        call = permit.call
        if call.method != CALL_TOOL or call.target not in servers or call.name is None:
            return False
        lock = in_force.current.pair_of(permit.principal.workflow).bundle.pinning.lock
        return reads_only(lock, call.target, call.name)

    return overlaps
