"""The stages of the road that are A2A's own: parse, normalise, ownership and delegation, forward, filter.

What is sent on is the proto that was checked, and what comes back is released only as a proto that was read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from copy import copy
from typing import Any, Self, cast

from a2a.types import a2a_pb2 as pb
from msgspec.structs import replace

from gateway.a2a import errors, extensions, v03
from gateway.a2a import push as pushing
from gateway.a2a.answers import AgentSaysNo, LastWord, pause_of, says_failed
from gateway.a2a.authorisation import Asks
from gateway.a2a.blanked import FACE
from gateway.a2a.cards import Card, Cards, cacheable, etag_of
from gateway.a2a.contexts import contexts_in, told, within
from gateway.a2a.desk import Desk, Judge, Listing, Shared
from gateway.a2a.errors import RpcRefused
from gateway.a2a.events import Ahead, Lookahead
from gateway.a2a.extensions import Declaring
from gateway.a2a.grpc_wire import read as read_grpc
from gateway.a2a.hop import Answers, Bounds, Hop, Onward, Peer, hop_to
from gateway.a2a.listing import NO_TOKENS, UNCOUNTED, USUAL_PAGE, PageTokens, Place, page
from gateway.a2a.normalise import normalise
from gateway.a2a.operations import (
    CARD,
    CARD_PATH,
    DIRECTORY_PATHS,
    EXTENDED_CARD,
    LIST_AGENTS,
    LIST_TASKS,
    OPERATIONS,
    Asked,
    Named,
    Operation,
    mentioned_in,
    named_in_answer,
    webhook_in,
)
from gateway.a2a.push import Push
from gateway.a2a.replies import formatted
from gateway.a2a.rest import is_rest
from gateway.a2a.rest import read as read_rest
from gateway.a2a.tasks import Ownership
from gateway.a2a.waiting import Waiting, looks_at_ours, unforged
from gateway.a2a.wire import UnreadableError, envelope, to_proto
from gateway.asgi import WORKFLOW_HEADER
from gateway.model import Arrival, Call, Intent, Permit, Principal, Reply, Said, UpstreamError
from gateway.reasons import Code
from gateway.receipts import Receipts, no_receipt
from gateway.upstream.client import Upstreams
from gateway.upstream.credentials import Rejected, no_other
from policies.model import AccessRequest

GRACE_SECONDS = 0.25
"""How long a stream that seems to be over may take to end, before its last event is released without its end."""

Mint = Callable[[Principal, str, str, int], str]
"""Principal, agent, call id, most groups → the token by which the agent goes on for this principal; may raise `Refused`."""


async def _as_it_is(permit: Permit) -> Permit:
    return permit


class A2aRoad:
    """Fills `Stages` for A2A: `parse`, `normalise`, `fulfil` (to be run after the duties), `forward`, `filter`."""

    def __init__(
        self,
        *,
        peers: Mapping[str, Peer],
        upstreams: Upstreams,
        ownership: Ownership,
        mint: Mint,
        cards: Cards,
        judge: Judge,
        shared: Shared = _as_it_is,
        bounds: Bounds | None = None,
        rejected: Rejected = no_other,
        onward: Onward | None = None,
        tokens: PageTokens | None = None,
        receipt: Receipts = no_receipt,
        push: Push | None = None,
        declaring: Declaring | None = None,
        asks: Asks | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        """ValueError for a peer whose own headers collide with the delegation token's or with the protocol's.

        judge   who decides what of cards and of the directory a principal sees: the bundle that decides its calls.
        shared  what an agent is shown where the answer, its card, is everybody's.
        waiting tasks of the gateway's own, as which messages wait for approvals.
        """
        self._bounds = bounds or Bounds()
        self._hops = {agent: hop_to(peer, upstreams, self._bounds, rejected, onward) for agent, peer in peers.items()}
        self._versions = frozenset({errors.SUPPORTED_VERSIONS[0]}.union(*(peer.versions for peer in peers.values())))
        self._ownership = ownership
        self._mint = mint
        self._desk = Desk(cards, self._hops, judge, shared)
        self._onward = onward
        self._tokens = tokens or NO_TOKENS
        self._receipt = receipt
        self._push = push
        self._declaring = declaring or cards.declared
        self._asks = asks or Asks()
        self._waiting = waiting

    async def aclose(self) -> None:
        """Let go of every agent."""
        for hop in self._hops.values():
            await hop.aclose()

    def judged_by(self, judge: Judge) -> Self:
        """The same road, whose cards and directory ask another judge."""
        other = copy(self)
        other._desk = self._desk.judged_by(judge)
        return other

    def parse(self, arrival: Arrival, principal: Principal) -> Call:  # noqa: ARG002  a stage's shape
        """One strictly read call; `RpcRefused` for anything else, and last of all for an agent that is not there."""
        if arrival.binding == "grpc":
            method, params, text = read_grpc(arrival, depth=self._bounds.json_depth)
            call = self._asked(replace(arrival, body=text), method, params)
        elif arrival.url_path in DIRECTORY_PATHS:
            _only("GET", arrival)
            return Call(arrival, LIST_AGENTS, "", None, arrival.trace)
        elif arrival.path == CARD_PATH:
            _only("GET", arrival)
            call = Call(arrival, CARD, arrival.target, None, arrival.trace, version=errors.SUPPORTED_VERSIONS[0])
        elif is_rest(arrival.path):
            call = self._asked(arrival, *read_rest(arrival, depth=self._bounds.json_depth))
        elif arrival.path:
            raise RpcRefused(Code.UNKNOWN_METHOD, "path", status=404)
        else:
            _only("POST", arrival)
            rpc_id, method, params, version = envelope(arrival, self._versions, depth=self._bounds.json_depth)
            call = self._asked(arrival, method, params, rpc_id, version)
        if arrival.target not in self._hops:
            raise RpcRefused(Code.UNKNOWN_TARGET, rpc_id=call.rpc_id)
        return call

    def _asked(
        self,
        arrival: Arrival,
        method: str,
        params: dict[str, Any],
        rpc_id: errors.RpcId = None,
        version: str = errors.SUPPORTED_VERSIONS[0],
    ) -> Call:
        of_old = version == v03.VERSION
        operation = OPERATIONS.get(v03.METHODS.get(method, "") if of_old else method)
        if operation is None:
            known = of_old and method in OPERATIONS  # by its name it is of another version than it says, or does not say
            raise RpcRefused(Code.UNSUPPORTED_VERSION if known else Code.UNKNOWN_METHOD, rpc_id=rpc_id)
        try:
            message, leaves = v03.read(method, params) if of_old else (to_proto(params, operation.request()), False)
            operation.prepare(message)
            asked = Asked(self._actives(arrival, version), leaves_waiting=leaves)
            call = Call(
                arrival, operation.method, arrival.target, message, arrival.trace, rpc_id=rpc_id, version=version, kept=asked
            )
            call = call if self._waiting is None else self._waiting.taken(call, asked)
            extensions.narrow(call.message, asked.extensions)
        except UnreadableError as error:
            raise RpcRefused(Code.INVALID_PARAMS, str(error), rpc_id=rpc_id) from None
        except RpcRefused as refusal:
            refusal.rpc_id = rpc_id
            raise
        return call

    def _actives(self, arrival: Arrival, version: str) -> tuple[str, ...]:
        hop = self._hops.get(arrival.target)
        allowed = hop.peer.extensions if hop is not None else frozenset()
        return extensions.active(arrival, version, allowed, self._declaring(arrival.target))

    def normalise(self, call: Call, principal: Principal) -> AccessRequest:
        """The question that policy is asked."""
        return normalise(call, principal)

    async def fulfil(self, permit: Permit) -> Permit:
        """Ownership of everything the request names, and the delegation token for the agent; all before anything is sent.

        Raises `Refused`: NOT_OWNER, DELEGATION_LOOP, DELEGATION_TOO_DEEP, and what else minting raises.
        """
        call = permit.call
        if call.method in {CARD, LIST_AGENTS} or looks_at_ours(call):
            return permit
        peer = self._hops[call.target].peer
        if call.version not in peer.versions:  # said only to whoever may know of the agent at all
            raise errors.unsupported(peer.versions, call.rpc_id)
        await self._desk.vouch(permit)
        extensions.demand(self._declaring(call.target), call.kept.extensions, call.version, call.rpc_id)
        if call.method == LIST_TASKS:
            self._place(permit)
            permit = await self._meant(permit)
        named = OPERATIONS[call.method].names(call.message)
        await self._ownership.check(permit, named.tasks)
        token = self._mint(permit.principal, peer.id, call.arrival.id, peer.max_groups)
        if named.context:  # last, as it leaves a trace: a refused call claims nothing
            context = await self._ownership.enter(permit, named.context, peer.contexts)
            permit = replace(permit, call=within(permit.call, named.context, context))
        if self._onward is not None:
            await self._onward.hand(call, token)
        return replace(permit, call=await self._relayed(permit), delegation=token)

    async def _meant(self, permit: Permit) -> Permit:
        """A list's with the id of the context that is meant, where that is one of the caller's."""
        context = await self._ownership.meant(permit, said) if (said := permit.call.message.context_id) else ""
        return replace(permit, call=within(permit.call, said, context)) if context else permit

    async def _relayed(self, permit: Permit) -> Call:
        """The call with a callback of ours in place of the client's webhook, where it has one."""
        call = permit.call
        if webhook_in(call.message) is None:
            return call
        if self._push is None:
            raise RpcRefused(Code.INVALID_PARAMS, "no push", rpc_code=errors.PUSH_NOT_SUPPORTED, rpc_id=call.rpc_id)
        message = type(call.message)()
        message.CopyFrom(call.message)
        try:
            await self._push.taken(permit, cast("pb.TaskPushNotificationConfig", webhook_in(message)))
        except RpcRefused as refusal:
            refusal.rpc_id = call.rpc_id
            raise
        return replace(call, message=message)

    async def forward(self, intent: Intent) -> Said:
        """The hop to the agent.  Every task and context is written down as the caller's before the reply that names it."""
        call = intent.permit.call
        if call.method in {CARD, LIST_AGENTS}:
            read = self._desk.public if call.method == CARD else self._desk.directory
            return Reply(await read(intent.permit), is_final=True)
        if call.method == EXTENDED_CARD:
            return await self._desk.extended(intent.permit)
        if self._waiting is not None and looks_at_ours(call):
            return await self._waiting.reply(intent)
        hop: Hop = self._hops[call.target]
        if call.method == LIST_TASKS:
            return await self._listed(intent, hop)
        answers = await hop.send(intent.permit, call.message)
        if answers.streams:
            return self._stream(answers, intent)
        try:
            return await self._single(answers, intent)
        finally:
            await answers.aclose()

    def filter(self, reply: Reply, intent: Intent) -> Reply:
        """The bytes that are released: our envelope, the caller's id, the proto that was read."""
        permit = intent.permit
        headers = ((WORKFLOW_HEADER, permit.principal.workflow), *reply.headers)
        payload = reply.payload
        if payload is None:  # a stream that ended in good order after its last event
            return replace(reply, headers=headers)
        if isinstance(payload, Card | Listing):
            return cacheable(payload, payload.body, payload.etag, permit.call.arrival, headers)
        if permit.redact and reply.looked is None:
            reply = FACE.searched(reply, permit, permit.redact)
            payload = reply.payload
        reply = formatted(reply, permit.call, self._receipt(intent) if reply.is_final else None)
        if isinstance(payload, pb.AgentCard) and reply.body is not None and is_rest(permit.call.arrival.path):
            return cacheable(payload, reply.body, etag_of(reply.body), permit.call.arrival, headers)
        return replace(reply, headers=headers)

    def _place(self, permit: Permit) -> Place:
        """Where the page that is asked for begins; `RpcRefused` for a token that was not made for the caller here."""
        call = permit.call
        if not call.message.page_token:
            return Place()
        try:
            return self._tokens.open(permit.principal, call.target, call.message.page_token)
        except ValueError:
            raise RpcRefused(Code.INVALID_PARAMS, "pageToken", rpc_id=call.rpc_id) from None

    async def _listed(self, intent: Intent, hop: Hop) -> Reply:
        """A page of the caller's own tasks."""
        permit, request = intent.permit, intent.permit.call.message
        answer = pb.ListTasksResponse(page_size=request.page_size or USUAL_PAGE)
        if request.context_id and not await self._ownership.meant(permit, request.context_id):
            return Reply(answer, is_final=True)  # as of a context in which nobody ever said anything
        refused: list[Reply] = []

        async def ask(asked: pb.ListTasksRequest) -> pb.ListTasksResponse:
            answers = await hop.send(permit, asked)
            try:
                reply = await self._single(answers, intent)
            finally:
                await answers.aclose()
            if isinstance(reply.payload, AgentSaysNo):
                refused.append(reply)
                return pb.ListTasksResponse()
            return cast("pb.ListTasksResponse", reply.payload)

        found = await page(request, self._place(permit), ask, lambda ids: self._ownership.mine(permit, ids))
        if refused:
            return refused[0]
        answer.tasks.extend(found.tasks)
        await self._ownership.unmixed(permit, mentioned_in(answer))
        await self._asks.heard(answer, intent)
        answer = told(answer, await self._ownership.words(permit, contexts_in(answer)))
        answer.total_size = found.total if found.total != UNCOUNTED else await self._ownership.count(permit, request.context_id)
        if found.next is not None:
            answer.next_page_token = self._tokens.seal(permit.principal, permit.call.target, found.next)
        return Reply(answer, is_final=True)

    async def _single(self, answers: Answers, intent: Intent) -> Reply:
        async with aclosing(answers.items()) as items:
            item = await anext(items)
        return await self._owned(_reply(answers.read(item), intent, answers.activated, final=True), intent)

    async def _stream(self, answers: Answers, intent: Intent) -> AsyncGenerator[Reply, None]:
        """Event by event.  The last one is final, so that it waits for its record; which one is last, the stream's end tells.

        A task that waits for its person (input, authorisation) may go on or not: its event is released as soon as the stream
        shows that it stays open, and the end, whenever it comes, is a final reply without a body.
        """
        events = Lookahead(answers.items())
        waiting = False
        try:
            while (item := await events.next()) is not None:
                reply = await self._owned(_reply(answers.read(item), intent, answers.activated, final=False), intent)
                pause = None if reply.is_final else pause_of(reply.payload)
                waiting = False
                if pause is not None:
                    ahead = await events.ahead(GRACE_SECONDS)
                    over = ahead is Ahead.END or (ahead is Ahead.SILENCE and pause == "terminal")
                    reply = replace(reply, is_final=over)
                    waiting = pause == "interrupted"
                yield reply
                if reply.is_final:
                    return
            if not waiting:
                raise UpstreamError("closed", "the stream ended before its task did")
            yield Reply(None, is_final=True)
        finally:
            try:
                await events.close()
            finally:
                await answers.aclose()

    async def _owned(self, reply: Reply, intent: Intent) -> Reply:
        reply = replace(reply, payload=unforged(reply.payload))
        permit, payload = intent.permit, reply.payload
        named = Named() if isinstance(payload, AgentSaysNo) else named_in_answer(payload)
        await self._ownership.learn(permit, named)
        if not isinstance(payload, pb.ListTasksResponse):  # of which a part is the caller's
            await self._ownership.unmixed(permit, mentioned_in(payload))
            await self._asks.heard(payload, intent)
            reply = replace(reply, payload=await self._in_words(payload, permit))
        if self._push is None:
            return reply
        config = webhook_in(permit.call.message)
        if isinstance(payload, AgentSaysNo):
            if config is not None:
                await self._push.drop(self._push.callback_of(config.url))
            return reply
        if config is not None and named.tasks:
            await self._push.bind(self._push.callback_of(config.url), named.tasks[0])
        if permit.call.method == pushing.DELETE:
            await self._push.forget(permit.call.target, permit.call.message.task_id, permit.call.message.id)
        return replace(reply, payload=await self._push.told(reply.payload, permit))

    async def _in_words(self, payload: Any, permit: Permit) -> Any:
        """What an agent says, with what the caller calls the contexts in it; of an error, the contexts of the call."""
        call, ids = permit.call, contexts_in(payload)
        if isinstance(payload, AgentSaysNo):
            tasks = OPERATIONS[call.method].names(call.message).tasks
            ids = await self._ownership.contexts_of(permit, tasks) | {call.context} - {""}
        return told(payload, await self._ownership.words(permit, ids)) if ids else payload


def _reply(payload: Any, intent: Intent, activated: tuple[str, ...], *, final: bool) -> Reply:
    call = intent.permit.call
    operation: Operation = OPERATIONS[call.method]
    headers = ((extensions.header_of(call.version), ", ".join(activated)),) if activated else ()
    if isinstance(payload, LastWord):
        payload, final = payload.event, True
    if isinstance(payload, AgentSaysNo):
        return Reply(payload, is_final=True, failed=True, headers=headers)
    if isinstance(payload, pb.StreamResponse) and payload.WhichOneof("payload") == "message":
        final = True
    return Reply(payload, is_final=final, failed=not operation.reads and says_failed(payload), headers=headers)


def _only(verb: str, arrival: Arrival) -> None:
    """`RpcRefused` for any other HTTP method."""
    if arrival.http_method != verb:
        raise RpcRefused(Code.UNKNOWN_METHOD, arrival.http_method[:16], status=405, allow=verb)
