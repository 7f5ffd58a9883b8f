"""Tasks that the gateway itself makes: a message that people must approve waits as one, in A2A's own `input-required`.

Such a task's id proves whose it is: for anybody else, and for the same person through other agents, there is no such task.  What
is sent when it goes on is the message that was parked, decided anew and whole; of what its client says then nothing is sent.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from a2a.types import a2a_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]  # protobuf ships no stubs
from msgspec.structs import replace

from gateway.a2a import errors
from gateway.a2a.answers import AgentSaysNo
from gateway.a2a.contexts import holders_of
from gateway.a2a.errors import RpcRefused
from gateway.a2a.operations import Asked
from gateway.a2a.replies import formatted
from gateway.a2a.wire import UnreadableError, dump, to_json, to_proto
from gateway.approvals.approvals import about_of, iso
from gateway.approvals.saying import withdrawn
from gateway.asgi import WORKFLOW_HEADER
from gateway.model import Arrival, Call, Intent, Permit, Principal, Refused, Reply
from gateway.pipeline import Stages, govern
from gateway.reasons import Code
from gateway.state.approvals import State

if TYPE_CHECKING:
    from gateway.approvals.approvals import Approvals, Standing
    from gateway.state.approvals import Parked

Authenticate = Callable[[Arrival], Awaitable[Principal]]
METADATA: Final = "bailiwick/approval"
PREFIX: Final = "bailiwick."
_NAME: Final = re.compile(rb"bailiwick\.([0-9a-f-]{36})\.([A-Za-z0-9_-]{22})(?![A-Za-z0-9_-])")
_MOST_NAMED: Final = 32
_MOST_LOOKED: Final = 64
_SENDS: Final = frozenset({"SendMessage", "SendStreamingMessage"})
_LOOKS: Final = frozenset({"GetTask", "SubscribeToTask", "CancelTask"})
_REFUSALS: Final = frozenset({Code.APPROVAL_REQUIRED, Code.APPROVAL_DENIED})
_OVER: Final = frozenset({State.USED.value, State.EXPIRED.value, State.WITHDRAWN.value})
_SAID: Final = {
    "open": (
        pb.TaskState.TASK_STATE_INPUT_REQUIRED,
        "A person must approve this message first, until {expires}, at {url} - then send anything on this task, and it goes on.",
    ),
    "granted": (
        pb.TaskState.TASK_STATE_INPUT_REQUIRED,
        "This message is approved: send anything on this task, or the very same message again, and it goes on as it was.",
    ),
    "void": (
        pb.TaskState.TASK_STATE_REJECTED,
        "What this message was asked about by is not in force any more: send it again, and it is decided anew.",
    ),
    "denied": (pb.TaskState.TASK_STATE_REJECTED, "A person said no to this message.  Do not retry."),
    "expired": (pb.TaskState.TASK_STATE_REJECTED, "Nobody approved this message in time."),
    "withdrawn": (pb.TaskState.TASK_STATE_CANCELED, "This message was withdrawn before it was sent."),
    "used": (pb.TaskState.TASK_STATE_COMPLETED, "This message was approved and sent: its own answer tells what came of it."),
}


class Marks(Protocol):
    """Short proofs that an approval's id was said to a principal at an agent."""

    def mark(self, principal: Principal, agent: str, approval: str) -> str:
        """The proof, the same every time: 22 characters of base64url."""

    def marked(self, mark: str, principal: Principal, agent: str, approval: str) -> bool:
        """Whether it is that."""


class TaskAsked(Refused):
    """A message that waits for its approval, or was denied it, told as the task that it waits as."""

    def __init__(self, refusal: Refused, task: pb.Task) -> None:
        super().__init__(refusal.code, refusal.detail, decision=refusal.decision, data=refusal.data)
        self.task = task


class Waiting:
    """The tasks of messages that wait."""

    def __init__(self, approvals: Approvals, marks: Marks) -> None:
        self._approvals = approvals
        self._marks = marks
        self._looked: dict[str, dict[str, Parked]] = {}

    def after(self, authenticate: Authenticate) -> Authenticate:
        """The same stage, which looks up the tasks of ours that a request names, once it is known whose they must be.

        What they stand for is read before the request is: it is decided by that, and not by what is said on the task.
        """

        async def known(arrival: Arrival) -> Principal:
            principal = await authenticate(arrival)
            found_in = chain(_NAME.finditer(arrival.path.encode("utf-8", "replace")), _NAME.finditer(arrival.body))
            named = dict.fromkeys(match.groups() for match in islice(found_in, _MOST_NAMED))
            rows = [await self._row(principal, arrival.target, *pair) for pair in named]
            found = {self._name(principal, arrival.target, row.id): row for row in rows if row is not None}
            if found:
                self._looked[arrival.id] = found  # until it is read, which comes next: nobody else gets a turn in between
                while len(self._looked) > _MOST_LOOKED:
                    self._looked.pop(next(iter(self._looked)))
            return principal

        return known

    def taken(self, call: Call, asked: Asked) -> Call:
        """The call as what it stands for: a message on such a task is the message that waits.

        `RpcRefused` for one that is over, and for another operation than the one that waits.
        """
        rows = self._looked.pop(call.arrival.id, None)
        if rows is None:
            return call
        request = call.message
        if call.method in _LOOKS and request.id in rows:
            return replace(call, kept=asked._replace(waiting=rows[request.id]))
        if call.method not in _SENDS or request.message.task_id not in rows:
            return call
        row = rows[request.message.task_id]
        about = about_of(self._approvals.opened(row))
        if row.state in _OVER or row.expires_at <= self._approvals.clock() or about["method"] != call.method:
            raise RpcRefused(
                Code.INVALID_PARAMS, "a task that is over", rpc_code=errors.UNSUPPORTED_OPERATION, rpc_id=call.rpc_id
            )
        try:
            parked = to_proto(about["params"], pb.SendMessageRequest())
        except UnreadableError as error:
            raise Refused(Code.INTERNAL_ERROR, f"what was parked cannot be read: {error}") from None
        if not parked.message.message_id:
            parked.message.message_id = request.message.message_id
        arrival = replace(call.arrival, body=dump(to_json(parked)))  # what the record says was asked for is what is sent
        return replace(call, arrival=arrival, message=parked, kept=asked._replace(waiting=row))

    async def granted(self, permit: Permit) -> Permit:
        """As `Approvals.granted`; `TaskAsked` where the duties have it asked so."""
        approval, message = permit.approval, permit.call.message.message
        if any(name.startswith(PREFIX) for name in (message.task_id, *message.reference_task_ids)):
            raise Refused(Code.NOT_OWNER, "an unknown task")  # nobody is asked about a message to what is not there
        if approval is None or not approval.asks:
            return await self._approvals.granted(permit)
        first = permit.call.kept.waiting is None  # who can be asked is asked at once, and held when they come back
        try:
            return await self._approvals.granted(replace(permit, approval=replace(approval, wait=0)) if first else permit)
        except Refused as refusal:
            row = await self._approvals.rows.get(str(refusal.data.get("approval"))) if refusal.code in _REFUSALS else None
            if row is None:
                raise
            raise TaskAsked(refusal, await self._task(row, permit.principal, permit.call.target)) from None

    async def reply(self, intent: Intent) -> Reply:
        """What is said of such a task to whoever looks at it, or takes it back."""
        call, principal = intent.permit.call, intent.permit.principal
        row: Parked = call.kept.waiting
        if call.method == "CancelTask" and not await withdrawn(self._approvals, row, principal, call.arrival.id):
            return Reply(AgentSaysNo(errors.not_cancelable()), is_final=True, failed=True)
        task = await self._task(await self._approvals.rows.get(row.id) or row, principal, call.target)
        return Reply(pb.StreamResponse(task=task) if call.method == "SubscribeToTask" else task, is_final=True)

    async def _row(self, principal: Principal, agent: str, approval: bytes, mark: bytes) -> Parked | None:
        name = approval.decode("ascii")
        if not self._marks.marked(mark.decode("ascii"), principal, agent, name):
            return None
        row = await self._approvals.rows.get(name)
        mine = row is not None and (row.tenant, row.subject) == (principal.tenant, principal.subject)
        return row if mine else None

    def _name(self, principal: Principal, agent: str, approval: str) -> str:
        return f"{PREFIX}{approval}.{self._marks.mark(principal, agent, approval)}"

    async def _task(self, row: Parked, principal: Principal, agent: str) -> pb.Task:
        standing = await self._approvals.standing(row)
        word = _word(standing, self._approvals.clock())
        state, text = _SAID[word]
        name, told = self._name(principal, agent, row.id), {"expires": iso(row.expires_at), "url": self._approvals.page + row.id}
        params: Any = about_of(standing.kept)["params"]
        context = str(params.get("message", {}).get("contextId") or name)
        task = pb.Task(id=name, context_id=context, status=pb.TaskStatus(state=state))
        task.status.timestamp.CopyFrom(_time(row.ended_at or row.created_at))
        message = task.status.message
        message.message_id, message.role = f"{row.id}.{word}", pb.Role.ROLE_AGENT
        message.task_id, message.context_id = name, context
        message.parts.add().text = text.format(**told)
        task.metadata.update({METADATA: {"approval": row.id, "state": word, **told}})
        return task


def unforged(answer: Any) -> Any:
    """What an agent says, without what the gateway alone says of approvals: nobody is led elsewhere by it."""
    if not any(METADATA in holder.metadata for holder in holders_of(answer)):
        return answer
    bare = type(answer)()
    bare.CopyFrom(answer)
    for holder in holders_of(bare):
        if METADATA in holder.metadata:
            del holder.metadata[METADATA]
    return bare


def looks_at_ours(call: Call) -> bool:
    """Whether it is about such a task, and so nothing that its agent hears of."""
    return call.method in _LOOKS and call.kept.waiting is not None


def _word(standing: Standing, now: int) -> str:
    """Where a message stands, in a word."""
    row = standing.row
    if row.state != State.OPEN:
        return row.state
    if row.expires_at <= now:
        return State.EXPIRED.value
    return "void" if standing.void else "granted" if standing.granted else "open"


def _time(at: int) -> Timestamp:
    moment = Timestamp()
    moment.FromMicroseconds(at)
    return moment


async def served(arrival: Arrival, stages: Stages) -> AsyncGenerator[Reply, None]:
    """As `govern`; a message that waits for its approval is answered by its task."""
    try:
        async with aclosing(govern(arrival, stages)) as replies:
            async for reply in replies:
                yield reply
    except TaskAsked as refusal:
        call, principal = refusal.call, refusal.principal
        if call is None or principal is None:
            raise
        streams = call.method == "SendStreamingMessage"
        answer = pb.StreamResponse(task=refusal.task) if streams else pb.SendMessageResponse(task=refusal.task)
        headers = ((WORKFLOW_HEADER, principal.workflow),)
        yield replace(formatted(Reply(answer, is_final=True), call, refusal.receipt), headers=headers)
