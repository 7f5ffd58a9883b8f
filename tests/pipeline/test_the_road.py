"""`govern`: no stage can be skipped, nothing leaves before its intent, nothing final before its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from audit.streamed import agreeing
from gateway import model
from gateway.model import (
    Arrival,
    Call,
    Intent,
    Outcome,
    OutcomeStatus,
    Permit,
    Principal,
    Refused,
    Reply,
    Said,
    Trace,
    UpstreamError,
)
from gateway.pipeline import Stages, govern
from gateway.reasons import Code
from policies.model import AccessRequest, Decision, Effect, Reason

ARRIVAL = Arrival("call-1", "mcp", "erp", (), b"{}", 1_000_000, Trace("0" * 31 + "1", "0" * 15 + "2"))
PRINCIPAL = Principal("user:dev/paul", ("agent:a",), "acme", "wf-1", 10, "bearer", "00")
CALL = Call(ARRIVAL, "tools/call", "erp", {}, ARRIVAL.trace, name="read")
REQUEST = AccessRequest("user:dev/paul", ("agent:a",), "acme", "call", "erp.read", 1)
ALLOW = Decision(Effect.ALLOW, Reason.ALLOWED, "sha256:0")
DENY = Decision(Effect.DENY, Reason.USER_LACKS_RIGHT, "sha256:0", missing=("user:dev/paul",))
FINAL = Reply({"ok": True}, is_final=True)


@dataclass
class Diary:
    """What the stages did, in order."""

    lines: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)


async def messages(diary: Diary, replies: tuple[Reply | Exception, ...]) -> AsyncGenerator[Reply, None]:
    diary.lines.append("forward")
    try:
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
            yield reply
    finally:
        diary.lines.append("upstream closed")


def stages(diary: Diary, *replies: Reply | Exception, decision: Decision = ALLOW) -> Stages:
    async def authenticate(arrival: Arrival) -> Principal:
        diary.lines.append("authenticate")
        return PRINCIPAL

    def parse(arrival: Arrival, principal: Principal) -> Call:
        diary.lines.append("parse")
        return CALL

    def normalise(call: Call, principal: Principal) -> AccessRequest:
        diary.lines.append("normalise")
        return REQUEST

    def decide(request: AccessRequest) -> Decision:
        diary.lines.append("decide")
        return decision

    async def fulfil(permit: Permit) -> Permit:
        diary.lines.append("fulfil")
        return permit

    async def record_intent(permit: Permit) -> Intent:
        await asyncio.sleep(0)
        diary.lines.append("intent durable")
        return Intent(permit, 7, model._RECORDED)

    async def forward(intent: Intent) -> Said:
        return messages(diary, replies)

    def filtered(reply: Reply, intent: Intent) -> Reply:
        return msgspec.structs.replace(reply, body=str(reply.payload).encode())

    async def record_outcome(intent: Intent, outcome: Outcome) -> None:
        await asyncio.sleep(0)
        diary.lines.append("outcome durable")
        diary.outcomes.append(outcome)

    async def record_refusal(arrival: Arrival, refusal: Refused) -> None:
        await asyncio.sleep(0)
        diary.lines.append("refusal durable")
        diary.refusals.append(refusal)

    def observe(arrival: Arrival, end: Intent | Refused, outcome: Outcome | None) -> None:
        pass

    return Stages(
        authenticate, parse, normalise, decide, fulfil, record_intent, forward, filtered, record_outcome, record_refusal, observe
    )


async def drive(diary: Diary, road: Stages) -> list[Reply]:
    seen = []
    async for reply in govern(ARRIVAL, road):
        diary.lines.append("released" if reply.is_final else "event")
        seen.append(reply)
    return seen


async def test_the_intent_is_durable_before_forwarding_and_the_outcome_before_the_final_word() -> None:
    diary = Diary()
    await drive(diary, stages(diary, Reply("progress", is_final=False), FINAL))
    assert diary.lines == [
        "authenticate", "parse", "normalise", "decide", "fulfil", "intent durable", "forward", "event", "upstream closed",
        "outcome durable", "released",
    ]  # fmt: skip
    assert diary.outcomes[0].status is OutcomeStatus.OK
    assert diary.outcomes[0].body == str(FINAL.payload).encode()


async def test_the_outcome_commits_to_a_stream_that_is_cut_off_as_far_as_it_came_and_to_one_that_only_seemed_over() -> None:
    progress, diary = Reply("progress", is_final=False), Diary()
    with pytest.raises(UpstreamError):
        await drive(diary, stages(diary, progress, progress, UpstreamError("connect", "gone")))
    await drive(diary, stages(diary, FINAL, FINAL))
    cut, whole = (outcome.chunks for outcome in diary.outcomes)
    assert cut is not None
    assert whole is not None
    assert agreeing([b"progress"] * 2, cut.salt, cut.said()[1]) == 2
    assert agreeing([str(FINAL.payload).encode()] * 2, whole.salt, whole.said()[1]) == 2


async def test_one_answer_waits_for_its_outcome_as_the_last_of_many_messages_does() -> None:
    diary = Diary()

    async def forward(intent: Intent) -> Said:
        diary.lines.append("forward")
        return FINAL

    seen = await drive(diary, replace(stages(diary), forward=forward))
    assert diary.lines[-4:] == ["intent durable", "forward", "outcome durable", "released"]
    assert [reply.body for reply in seen] == [diary.outcomes[0].body] == [str(FINAL.payload).encode()]
    assert diary.outcomes[0].status is OutcomeStatus.OK


async def test_one_answer_that_fails_or_that_is_too_large_is_recorded_and_not_released() -> None:
    async def failing(intent: Intent) -> Said:
        raise UpstreamError("connect")

    async def answering(intent: Intent) -> Said:
        return FINAL

    async def bounded(permit: Permit) -> Permit:
        return msgspec.structs.replace(permit, answer_bytes=3)

    diary = Diary()
    with pytest.raises(UpstreamError):
        await drive(diary, replace(stages(diary), forward=failing))
    with pytest.raises(Refused, match="limit-reached"):
        await drive(diary, replace(stages(diary), forward=answering, fulfil=bounded))
    assert [outcome.status for outcome in diary.outcomes] == [OutcomeStatus.UPSTREAM_ERROR, OutcomeStatus.INTERNAL_ERROR]
    assert "released" not in diary.lines


async def test_a_denial_is_recorded_and_nothing_is_forwarded() -> None:
    diary = Diary()
    with pytest.raises(Refused) as refused:
        await drive(diary, stages(diary, FINAL, decision=DENY))
    assert refused.value.code is Code.USER_LACKS_RIGHT
    assert (refused.value.principal, refused.value.call, refused.value.request) == (PRINCIPAL, CALL, REQUEST)
    assert diary.lines == ["authenticate", "parse", "normalise", "decide", "refusal durable"]


@pytest.mark.parametrize("stage", ["authenticate", "parse", "normalise", "decide", "fulfil", "record_intent"])
async def test_an_unexpected_error_in_any_stage_is_a_recorded_refusal(stage: str) -> None:
    diary = Diary()

    def broken(*_: object) -> object:
        raise KeyError("boom")

    async def broken_async(*_: object) -> object:
        raise KeyError("boom")

    is_async = stage in {"authenticate", "fulfil", "record_intent"}
    road = replace(stages(diary, FINAL), **{stage: broken_async if is_async else broken})
    with pytest.raises(Refused) as refused:
        await drive(diary, road)
    assert refused.value.code is Code.INTERNAL_ERROR
    assert "forward" not in diary.lines
    assert diary.lines[-1] == "refusal durable"


async def test_what_cannot_be_recorded_is_not_sent() -> None:
    diary = Diary()

    async def full(permit: Permit) -> Intent:
        raise Refused(Code.LEDGER_UNAVAILABLE, "disk full")

    with pytest.raises(Refused) as refused:
        await drive(diary, replace(stages(diary, FINAL), record_intent=full))
    assert refused.value.code is Code.LEDGER_UNAVAILABLE
    assert "forward" not in diary.lines


async def test_a_reply_whose_outcome_cannot_be_recorded_is_withheld() -> None:
    diary = Diary()

    async def full(intent: Intent, outcome: Outcome) -> None:
        raise Refused(Code.LEDGER_UNAVAILABLE, "disk full")

    with pytest.raises(Refused):
        await drive(diary, replace(stages(diary, FINAL), record_outcome=full))
    assert "released" not in diary.lines


async def test_an_upstream_that_ends_without_a_final_message_is_an_error_with_an_outcome() -> None:
    diary = Diary()
    with pytest.raises(UpstreamError):
        await drive(diary, stages(diary, Reply("progress", is_final=False)))
    assert diary.outcomes[0].status is OutcomeStatus.UPSTREAM_ERROR


async def test_an_upstream_error_is_recorded_and_passed_on() -> None:
    diary = Diary()
    with pytest.raises(UpstreamError):
        await drive(diary, stages(diary, UpstreamError("connect", "refused")))
    assert diary.outcomes[0].detail == "connect: refused"


async def test_a_tool_error_is_an_outcome_of_its_own() -> None:
    diary = Diary()
    await drive(diary, stages(diary, msgspec.structs.replace(FINAL, failed=True)))
    assert diary.outcomes[0].status is OutcomeStatus.TOOL_ERROR


async def test_a_result_that_the_filter_refuses_is_withheld_and_recorded() -> None:
    diary = Diary()

    def refuse(reply: Reply, intent: Intent) -> Reply:
        raise Refused(Code.DUTY_FAILED, "cannot be redacted")

    with pytest.raises(Refused):
        await drive(diary, replace(stages(diary, FINAL), filter=refuse))
    assert "released" not in diary.lines
    assert diary.outcomes[0].status is OutcomeStatus.INTERNAL_ERROR


async def test_a_stream_that_goes_on_after_a_final_looking_message_holds_back_only_the_last() -> None:
    diary = Diary()
    seen = await drive(diary, stages(diary, FINAL, Reply("more", is_final=False), msgspec.structs.replace(FINAL, payload="last")))
    assert [reply.payload for reply in seen] == [{"ok": True}, "more", "last"]
    assert diary.lines[-2:] == ["outcome durable", "released"]


async def test_a_client_that_hangs_up_closes_the_upstream_call_and_leaves_an_outcome() -> None:
    diary = Diary()
    road = govern(ARRIVAL, stages(diary, Reply("one", is_final=False), Reply("two", is_final=False), FINAL))
    await anext(road)
    await road.aclose()
    assert diary.lines[-2:] == ["upstream closed", "outcome durable"]
    assert diary.outcomes[0].status is OutcomeStatus.INTERRUPTED


async def test_cancelling_a_call_that_waits_for_its_upstream_still_records_the_outcome() -> None:
    diary = Diary()
    waiting = asyncio.Event()

    async def messages() -> AsyncGenerator[Reply, None]:
        try:
            waiting.set()
            await asyncio.Event().wait()
            yield FINAL
        finally:
            diary.lines.append("upstream closed")

    async def silent(intent: Intent) -> Said:
        return messages()

    task = asyncio.create_task(drive(diary, replace(stages(diary), forward=silent)))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert diary.lines[-2:] == ["upstream closed", "outcome durable"]


async def test_a_second_cancellation_cannot_erase_the_outcome() -> None:
    diary = Diary()
    waiting, recording, release = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def silent(intent: Intent) -> Said:
        waiting.set()
        await asyncio.Event().wait()
        return FINAL

    async def slow(intent: Intent, outcome: Outcome) -> None:
        recording.set()
        await release.wait()
        diary.outcomes.append(outcome)

    task = asyncio.create_task(drive(diary, replace(stages(diary), forward=silent, record_outcome=slow)))
    await waiting.wait()
    task.cancel()
    await recording.wait()
    task.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [outcome.status for outcome in diary.outcomes] == [OutcomeStatus.INTERRUPTED]


def test_nobody_makes_an_intent_but_the_recorder() -> None:
    permit = Permit.of(CALL, PRINCIPAL, REQUEST, ALLOW)
    with pytest.raises(TypeError):
        Intent(permit, 0)
    with pytest.raises(TypeError):
        Intent(permit, 0, object())


def test_a_denial_makes_no_permit() -> None:
    with pytest.raises(ValueError, match="allowing"):
        Permit.of(CALL, PRINCIPAL, REQUEST, DENY)
