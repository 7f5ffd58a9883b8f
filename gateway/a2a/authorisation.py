"""An agent asks its person to authorise something elsewhere (A2A 1.0 §7.6): told, on record, and no authorisation of anything.

Where the settings list hosts, a request that names another address loses its words: the person would be sent there.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from a2a.types import a2a_pb2 as pb

from gateway.a2a.wire import to_json
from gateway.model import Intent
from policies.addresses import host_of

MOST_REMEMBERED: Final = 4096
_ASKS: Final = pb.TaskState.TASK_STATE_AUTH_REQUIRED
_ADDRESS: Final = re.compile(r"(?:(?:[a-z][a-z0-9+.-]*:)?[\\/]{2}|https?:|www\.)[^\s<>\"'`)\]}]+", re.IGNORECASE)
"""What a person, or whatever shows them the text, could take for an address on the web."""
_WEB: Final = re.compile(r"(?:(https?)://|(?=www\.))([^/?#]+)", re.IGNORECASE)

Record = Callable[[Intent, str, tuple[str, ...], bool], Awaitable[None]]
"""The call, the task, the hosts to which its words lead, and whether they were withheld; durable on return, or it raises."""


async def unrecorded(_intent: Intent, _task: str, _hosts: tuple[str, ...], _withheld: bool) -> None:
    """For a road without a ledger."""


class Asks:
    """What agents ask for, on record once for each time that they do, as far as this process remembers.

    hosts  by agent, those to which it may send a person; without any, where it likes.
    """

    def __init__(self, record: Record = unrecorded, hosts: Mapping[str, frozenset[str] | None] = MappingProxyType({})) -> None:
        self._record = record
        self._hosts = hosts
        self._told: OrderedDict[tuple[str, str, bytes], None] = OrderedDict()

    async def heard(self, answer: Any, intent: Intent) -> None:
        """Look at an answer before it is released; words that may not be told are taken out of it, in place."""
        for task, status in _statuses(answer):
            if status.state == _ASKS:
                await self._asked(task, status, intent)

    async def _asked(self, task: str, status: pb.TaskStatus, intent: Intent) -> None:
        agent = intent.permit.call.target
        key = agent, task, hashlib.sha256(status.SerializeToString(deterministic=True)).digest()
        words = tuple(_strings(to_json(status.message))) if status.HasField("message") else ()
        led = tuple(sorted({_host(found) for text in words for found in _ADDRESS.findall(text)}))
        allowed = self._hosts.get(agent)
        withheld = allowed is not None and not all(_named(host, allowed) for host in led)
        if key not in self._told:
            await self._record(intent, task, led, withheld)
            self._told[key] = None
            if len(self._told) > MOST_REMEMBERED:
                self._told.popitem(last=False)
        if withheld:
            status.ClearField("message")


def _statuses(answer: Any) -> Iterator[tuple[str, pb.TaskStatus]]:
    """The statuses that an answer tells, each with its task."""
    if isinstance(answer, pb.ListTasksResponse):
        yield from ((task.id, task.status) for task in answer.tasks)
    elif isinstance(answer, pb.Task):
        yield answer.id, answer.status
    elif isinstance(answer, pb.SendMessageResponse | pb.StreamResponse):
        kind = answer.WhichOneof("payload")
        if kind == "task":
            yield answer.task.id, answer.task.status
        elif kind == "status_update":
            yield answer.status_update.task_id, answer.status_update.status


def _strings(value: Any) -> Iterator[str]:
    """Every text in JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)


def _host(address: str) -> str:
    """Where an address leads; "" where that is not the web, or two readers could be led to different places."""
    found = _WEB.match(address) if "\\" not in address else None
    return (host_of(f"{(found[1] or 'https').lower()}://{found[2].rstrip('.,;:!')}") or "") if found is not None else ""


def _named(host: str, allowed: Iterable[str]) -> bool:
    return any(wanted == host or (wanted.startswith("*.") and host.endswith(wanted[1:])) for wanted in allowed)
