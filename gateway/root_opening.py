"""Who outside remembers the root log: as of any log, but that it is opened only when the first checkpoint comes for it.

Whatever is wrong with it stops nobody's calls.  Where witnesses remember another root log than there is, nothing more is written
into it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial

from audit.checkpoint import Vkey
from audit.store_proofs import ProofStore
from gateway.anchors.opening import anchors_of
from gateway.anchors.root import RootLog
from gateway.forwarding.opening import forwarders_of
from gateway.identity.keyfiles import ledger_key
from gateway.model import Clock
from gateway.outside import Outside, beside, check_before_start, witnessing_of
from gateway.settings import Settings
from gateway.upstream.client import Upstreams

log = logging.getLogger("gateway.ledger")


async def opened_root(  # noqa: PLR0917  what it is made of
    settings: Settings, environ: Mapping[str, str], clock: Clock, upstreams: Upstreams, root: RootLog, stack: AsyncExitStack
) -> Outside:
    """By the settings as the root log has them; `stack` ends it."""
    proofs = ProofStore(root.url)
    stack.push_async_callback(asyncio.to_thread, proofs.close)
    own = Vkey.of(settings.ledger.origin, ledger_key(settings.data, settings.ledger.key, environ))
    witnessing = witnessing_of(settings, own, proofs, upstreams, clock)
    anchoring = anchors_of(settings, environ, own, proofs, upstreams, clock, None)
    anchoring.recording(root.append)
    forwarding = forwarders_of(settings, environ, root.url, proofs, upstreams.send, root.append, clock)
    outside = Outside(witnessing, anchoring, forwarding)
    root.check = partial(check_before_start, witnessing, anchoring)
    if settings.ledger.witnesses:
        log.info("the root log has %d witnesses; key %s", len(settings.ledger.witnesses), own)
    else:
        log.warning("the root log is unwitnessed: keep its checkpoints (GET /ledger/root) elsewhere; key %s", own)

    async def begin() -> None:
        await root.begun.wait()
        outside.begin(settings, stack)

    beside(begin(), "the root log", stack)
    return outside
