"""`notify`: somebody is told of the call.  Written durably before the call goes, or it does not go; delivered beside the calls.

Crash story: what is in the outbox is told, by any replica, until its receiver takes it or `GIVE_UP_SECONDS` are over; a receiver
that took it while the answer was lost is told again, under the same id.  Of approvals the same worker tells, until they are over.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

import orjson

from audit import detectors
from gateway.model import Clock, Permit, Refused, UpstreamError
from gateway.obligations.duty import Params, WrongParameterError, fulfilled, impossible, only, terms, words
from gateway.state.outbox import Notice
from gateway.state.sealing import Sealer, UnsealableError
from gateway.upstream.client import HttpRequest, HttpResponse, Url
from policies.model import Obligation

log = logging.getLogger("gateway.notify")

TYPE: Final = "notify"
APPROVALS: Final = "approvals.webhook"
"""The receiver of what is asked of approvers; no duty can name it, as names have no dots."""
EVENT: Final = "call.permitted"
GIVE_UP_SECONDS: Final = 3 * 86_400
LEAST_SECRET: Final = 24
_LEASE_SECONDS: Final = 60
_ATTEMPT_SECONDS: Final = 15.0
_FIRST_PAUSE_SECONDS: Final = 2
_POLL_SECONDS: Final = 5.0
"""After which it looks for what is due again, and what other replicas left."""
_LONGEST_PAUSE_SECONDS: Final = 3600
_AT_ONCE: Final = 16
_ANSWER_BYTES: Final = 64 * 1024
_SECOND: Final = 1_000_000


def read(params: Params) -> tuple[str, ...]:
    """`{to: NAME | [NAME …]}`: receivers of the settings."""
    only(params, "to")
    if not (found := words(params, "to")):
        raise WrongParameterError("", "nobody is named: to")
    return found


class Receiver(NamedTuple):
    """Where somebody is told, and the key by which they know that we say so; secret, so never shown.

    again  seconds until what was not taken is told again; None: ever later.
    """

    url: Url
    key: bytes
    again: float | None = None

    def __repr__(self) -> str:
        return f"Receiver({self.url.host})"


def key_of(secret: str) -> bytes:
    """The key in a secret of Standard Webhooks (`whsec_` and base64), or any other text's bytes; ValueError for a short one."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True) if secret.startswith("whsec_") else secret.encode()
    except (binascii.Error, ValueError):
        raise ValueError("what follows whsec_ is no base64") from None
    if len(key) < LEAST_SECRET:
        raise ValueError(f"a signing secret has at least {LEAST_SECRET} bytes")
    return key


class Box(Protocol):
    """Where it waits: see `gateway.state.outbox.Outbox`."""

    async def put(self, notices: Sequence[Notice]) -> None:
        """All of them, durably."""

    async def claim(self, receivers: Sequence[str], most: int, now: int, until: int) -> list[Notice]:
        """What is due, for this replica alone."""

    async def told(self, notice: str) -> None:
        """Forget it."""

    async def again(self, notice: str, due: int) -> None:
        """It is tried again then."""


class Notifier:
    """Writes what is to be told, and tells it: of calls to whom duties name, and of approvals to `APPROVALS`."""

    def __init__(
        self,
        box: Box,
        sealer: Sealer,
        receivers: Mapping[str, Receiver],
        send: Callable[[HttpRequest], Awaitable[HttpResponse]],
        clock: Clock,
    ) -> None:
        self._box = box
        self._sealer = sealer
        self._receivers = receivers
        self._named = receivers.keys() - {APPROVALS}
        self._send = send
        self._clock = clock
        self._more = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell what waits, from now on."""
        if self._receivers:
            self._working = asyncio.create_task(self._work())

    async def aclose(self) -> None:
        """Stop telling; what was not taken waits."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def fulfil(self, permit: Permit, obligation: Obligation) -> Permit:
        """All duties of this kind at once: each receiver is told once of a call."""
        if obligation.name in permit.fulfilled:
            return permit
        wanted: dict[str, list[str]] = {}
        for each in permit.decision.obligations:
            if each.type != TYPE:
                continue
            for name in terms(permit, each, read):
                if name not in self._named:
                    raise impossible(permit, each, f"the settings have no notify.{name[:63]}")
                wanted.setdefault(name, []).append(each.name)
            permit = fulfilled(permit, each)
        now = self._clock()
        notices = []
        for name, duties in wanted.items():
            notice = f"{permit.call.arrival.id}.{name}"
            sealed = self._sealer.seal(notice, _said(permit, duties, now))
            until, subject = now + GIVE_UP_SECONDS * _SECOND, permit.principal.subject
            notices.append(Notice(notice, name, sealed, 0, now, until, subject))
        try:
            await self._box.put(notices)
        except Refused as refusal:
            refusal.decision = permit.decision
            raise
        self._more.set()
        return permit

    @property
    def of_approvals(self) -> bool:
        """Whether anybody is told of calls that wait for approval."""
        return APPROVALS in self._receivers

    async def asks(self, name: str, subject: str, said: bytes, until: int) -> None:
        """Tell of an approval that is asked for, until then; durable on return.  The same one again changes nothing."""
        await self._box.put([Notice(name, APPROVALS, self._sealer.seal(name, said), 0, self._clock(), until, subject)])
        self._more.set()

    async def over(self, name: str) -> None:
        """It is asked for no more."""
        await self._box.told(name)

    async def _work(self) -> None:
        while True:
            self._more.clear()
            try:
                now = self._clock()
                found = await self._box.claim(tuple(self._receivers), _AT_ONCE, now, now + _LEASE_SECONDS * _SECOND)
            except Refused as refusal:
                log.error("what is to be told cannot be read: %s", refusal)
                found = []
            if found:
                await asyncio.gather(*[self._tell(notice) for notice in found])
                continue
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._more.wait()
            except TimeoutError:
                pass

    async def _tell(self, notice: Notice) -> None:
        try:
            why = await self._try(notice)
            now = self._clock()
            if why == "" or now > notice.until:
                await self._box.told(notice.id)
                if why:
                    log.error("notice %s was never taken and is given up after %d attempts: %s", notice.id, notice.attempts, why)
                return
            log.warning("notice %s was not taken (attempt %d): %s", notice.id, notice.attempts, why)
            pause = self._receivers[notice.receiver].again
            if pause is None:
                pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(notice.attempts - 1, 20), _LONGEST_PAUSE_SECONDS)
            await self._box.again(notice.id, now + int(pause * _SECOND))
        except Refused as refusal:  # it is tried again when its claim ends
            log.error("the outbox does not answer: %s", refusal)

    async def _try(self, notice: Notice) -> str:
        """ "" where the receiver took it, else why not."""
        receiver = self._receivers[notice.receiver]
        try:
            body = self._sealer.open(notice.id, notice.sealed)
        except UnsealableError:
            return "it does not open with this gateway's key"
        at = str(self._clock() // _SECOND)
        signed = hmac.digest(receiver.key, f"{notice.id}.{at}.".encode() + body, "sha256")
        headers = (
            (b"content-type", b"application/json"),
            (b"webhook-id", notice.id.encode()),
            (b"webhook-timestamp", at.encode()),
            (b"webhook-signature", b"v1," + base64.b64encode(signed)),
        )
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                response = await self._send(HttpRequest(receiver.url, body, headers))
                try:
                    await response.read(_ANSWER_BYTES)
                finally:
                    await response.aclose()
        except (UpstreamError, TimeoutError) as error:
            return str(error) or "timeout"
        return "" if 200 <= response.status < 300 else f"the receiver answers {response.status}"


def _said(permit: Permit, duties: list[str], now: int) -> bytes:
    """What is told: who did what by which decision.  No arguments, and nothing that looks like a secret."""
    principal, request, call = permit.principal, permit.request, permit.call
    at = datetime.fromtimestamp(now / _SECOND, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data: dict[str, Any] = {
        "decision": call.arrival.id,
        "duties": duties,
        "tenant": principal.tenant,
        "subject": principal.subject,
        "actors": list(principal.actors),
        "workflow": principal.workflow,
        "protocol": call.arrival.protocol,
        "method": call.method,
        "action": request.action,
        "resource": request.resource,
        "policy": permit.decision.bundle,
        "rules": [match.rule for match in permit.decision.matched],
        "trace": call.trace.trace_id,
    }
    return detectors.redacted(orjson.dumps({"type": EVENT, "timestamp": at, "data": data}))[0]
