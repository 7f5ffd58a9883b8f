"""Push notifications, relayed: the agent is given a callback of ours with a secret, the client's own webhook never leaves here.

What an agent says of a configuration is told with the client's own words put back; one that is not the caller's is not there.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from a2a.types import a2a_pb2 as pb

from gateway.a2a import v03
from gateway.a2a.errors import PUSH_NOT_SUPPORTED, SUPPORTED_VERSIONS, RpcRefused
from gateway.a2a.webhook import Allowed, Webhook, judged
from gateway.model import Permit, Principal, Trace
from gateway.reasons import Code
from gateway.state.push import Kept

CREATE: Final = "CreateTaskPushNotificationConfig"
GET: Final = "GetTaskPushNotificationConfig"
LIST: Final = "ListTaskPushNotificationConfigs"
DELETE: Final = "DeleteTaskPushNotificationConfig"
OPERATIONS: Final = frozenset({CREATE, GET, LIST, DELETE})
PATH: Final = "/a2a-callback/"
LIFETIME_SECONDS: Final = 30 * 24 * 3600


class Rows(Protocol):
    """Configurations, as `gateway/state/push.py` keeps them."""

    async def add(self, row: Kept, now: int) -> None:
        """Durable on return."""

    async def of(self, callback: str, now: int) -> Kept | None:
        """The one behind a callback."""

    async def bind(self, callback: str, task_id: str, config_id: str = "") -> None:
        """Of which task it is."""

    async def drop(self, callback: str) -> None:
        """Forget one."""

    async def forget(self, agent: str, task_id: str, config_id: str) -> None:
        """Forget what the agent forgot."""


class Seal(Protocol):
    """Envelope encryption, as `gateway/state/sealing.py` has it."""

    def seal(self, binding: str, value: bytes) -> bytes:
        """Ciphertext that only the same binding opens."""

    def open(self, binding: str, value: bytes) -> bytes:
        """The inverse."""


class Known(msgspec.Struct, frozen=True, gc=False):
    """What is kept, sealed, of a configuration: where its news goes, for whom, and the digest of what the agent must show.

    version     of the protocol in which it was made, and in which its news is told.
    extensions  that were active in the call that made it.
    """

    url: str
    token: str
    scheme: str
    credentials: str
    secret: str
    principal: Principal
    trace: Trace
    version: str = SUPPORTED_VERSIONS[0]
    extensions: tuple[str, ...] = ()

    @property
    def webhook(self) -> Webhook:
        """Where news goes."""
        return Webhook(self.url, self.token, self.scheme, self.credentials)


@dataclass(frozen=True, slots=True)
class Found:
    """A configuration behind a callback, opened."""

    row: Kept
    known: Known


class Push:
    """The configurations of this gateway.  now: epoch seconds."""

    def __init__(self, rows: Rows, seal: Seal, base: str, allowed: Allowed, now: Callable[[], int]) -> None:
        """base  public URL of the gateway, without a trailing slash."""
        self._rows = rows
        self._seal = seal
        self._base = base
        self.allowed = allowed
        self._now = now

    async def taken(self, permit: Permit, config: pb.TaskPushNotificationConfig) -> str:
        """Keep the client's configuration and put ours in its place; the callback's digest.  `RpcRefused` for what may not be."""
        if not self.allowed:
            raise RpcRefused(Code.INVALID_PARAMS, "push notifications are not relayed here", rpc_code=PUSH_NOT_SUPPORTED)
        said = Webhook(config.url, config.token, config.authentication.scheme, config.authentication.credentials)
        await judged(said, self.allowed)
        name, secret = secrets.token_urlsafe(24), secrets.token_urlsafe(32)
        callback, principal, call = _digest(name), permit.principal, permit.call
        how = call.trace, call.version, call.kept.extensions
        known = Known(said.url, said.token, said.scheme, said.credentials, _digest(secret), principal, *how)
        sealed = self._seal.seal(callback, msgspec.json.encode(known))
        whose = (principal.tenant, principal.subject)
        until = self._now() + LIFETIME_SECONDS
        await self._rows.add(Kept(callback, call.target, config.task_id, config.id, *whose, sealed, until), self._now())
        # Agents of 0.3 show the token, and no credentials.
        config.url, config.token = f"{self._base}{PATH}{name}", secret if call.version == v03.VERSION else ""
        config.authentication.CopyFrom(pb.AuthenticationInfo(scheme="Bearer", credentials=secret))
        return callback

    async def forget(self, agent: str, task_id: str, config_id: str) -> None:
        """The agent was told to forget it."""
        await self._rows.forget(agent, task_id, config_id)

    async def drop(self, callback: str) -> None:
        """It came to nothing."""
        await self._rows.drop(callback)

    async def bind(self, callback: str, task_id: str, config_id: str = "") -> None:
        """An answer named its task."""
        await self._rows.bind(callback, task_id, config_id)

    async def told(self, answer: Any, permit: Permit) -> Any:
        """The agent's answer about configurations in the client's words; `RpcRefused(NOT_OWNER)` for one of somebody else."""
        if isinstance(answer, pb.TaskPushNotificationConfig):
            mine = await self._mine(answer, permit)
            if mine is None:
                raise RpcRefused(Code.NOT_OWNER, "a configuration of somebody else")
            return mine
        if isinstance(answer, pb.ListTaskPushNotificationConfigsResponse):
            found = [await self._mine(config, permit) for config in answer.configs]
            return pb.ListTaskPushNotificationConfigsResponse(
                configs=[config for config in found if config is not None], next_page_token=answer.next_page_token
            )
        return answer

    def callback_of(self, url: str) -> str:
        """The digest of the callback that an address of ours names; "" for any other address."""
        prefix = f"{self._base}{PATH}"
        return _digest(url.removeprefix(prefix)) if url.startswith(prefix) else ""

    async def called(self, name: str, secret: str) -> Found | None:
        """The configuration behind a callback that shows its secret; None for any other, and nobody is told which."""
        found = await self._found(_digest(name))
        wanted = found.known.secret if found is not None else _digest("")
        return found if hmac.compare_digest(wanted, _digest(secret)) and found is not None else None

    async def _mine(self, config: pb.TaskPushNotificationConfig, permit: Permit) -> pb.TaskPushNotificationConfig | None:
        callback = self.callback_of(config.url)
        found = await self._found(callback) if callback else None
        principal = permit.principal
        if found is None or (found.row.agent, found.row.tenant, found.row.subject) != (
            permit.call.target,
            principal.tenant,
            principal.subject,
        ):
            return None
        await self._rows.bind(found.row.callback, config.task_id, config.id)
        mine = pb.TaskPushNotificationConfig()
        mine.CopyFrom(config)
        mine.tenant, mine.url, mine.token = "", found.known.url, found.known.token
        mine.ClearField("authentication")
        if found.known.scheme:
            mine.authentication.CopyFrom(pb.AuthenticationInfo(scheme=found.known.scheme, credentials=found.known.credentials))
        return mine

    async def _found(self, callback: str) -> Found | None:
        row = await self._rows.of(callback, self._now())
        if row is None:
            return None
        return Found(row, msgspec.json.decode(self._seal.open(callback, row.sealed), type=Known))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
