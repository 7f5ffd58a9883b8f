"""Traces go on, to the agent and with its news to the webhook; baggage goes where the settings say, and else nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.a2a.webhook import Allowed
from tests.a2a.agents import Request, scripted, task
from tests.a2a.test_push import config, receiver
from tests.a2a.world import gateway

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER, LOST = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}


@pytest.mark.parametrize("binding", ["json-rpc", "http+json", "0.3"])
@pytest.mark.parametrize(
    ("said", "goes_on"),
    [
        (["tenant=acme,user=paul"], "tenant=acme"),
        (["user=paul", "region = eu ;ttl=3;own , tenant=acme"], "region = eu ;ttl=3;own,tenant=acme"),
        (["Tenant=acme"], None),
        (['tenant=a"b'], None),
        (["tenant=a b"], None),
        (["tenant"], None),
        ([f"tenant={'x' * 9000}"], None),
    ],
)
async def test_of_baggage_only_what_the_settings_name_goes_on(
    tmp_path: Path, binding: str, said: list[str], goes_on: str | None
) -> None:
    async def script(request: Request) -> None:
        old = {"kind": "task", "id": "t-1", "contextId": "c-1", "status": {"state": "completed"}}
        await request.result(old if binding == "0.3" else task("COMPLETED"))

    peer = {"baggage": frozenset({"tenant", "region"}), "versions": ("1.0", "0.3")}
    async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}, peers={"ref": peer}) as world:
        headers = [*world.token("paul").items(), *(("baggage", each) for each in said)]
        path, body = "/a2a/ref/", {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": SENT}
        if binding == "0.3":
            parts = [{"kind": "text", "text": "hi"}]
            body |= {"method": "message/send", "params": {"message": {"messageId": "m", "role": "user", "parts": parts}}}
        else:
            headers.append(("a2a-version", "1.0"))
        if binding == "http+json":
            path, body = "/a2a/ref/rest/message:send", SENT
        assert "error" not in (await world.client.post(path, json=body, headers=headers)).json()
        assert agent.requests[0].headers.get("baggage") == goes_on


@pytest.mark.parametrize("carries", ["the trace", "another trace", "none"])
async def test_news_of_a_task_goes_on_in_the_trace_of_whoever_asked_for_it(tmp_path: Path, carries: str) -> None:
    told: dict[str, Any] = {}

    async def script(request: Request) -> None:
        told.update(request.rpc["params"]["configuration"]["taskPushNotificationConfig"])
        await request.result(task("WORKING"))

    async with (
        receiver() as (url, place, hook),
        scripted(script) as (agent_at, _),
        gateway(tmp_path, {"ref": agent_at}, allowed=Allowed(private=(place,))) as world,
    ):
        asked = SENT | {"configuration": {"taskPushNotificationConfig": config(url)}}
        await world.rpc("paul", "SendMessage", asked, traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="vendor=1")
        ours = next(entry.fields for entry in world.ledger.entries if entry.kind == "call.start")
        shown = {"authorization": f"Bearer {told['authentication']['credentials']}"}
        if carries != "none":
            trace, state = (TRACE, "vendor=2") if carries == "the trace" else (OTHER, "else=1")
            shown |= {"traceparent": f"00-{trace}-{LOST}-00", "tracestate": state}
        async with httpx.AsyncClient(trust_env=False) as direct:
            assert (await direct.post(told["url"], json=task("COMPLETED"), headers=shown)).status_code == 200
        (news,) = await hook.got(1)
        _, trace, span, flags = news.headers["traceparent"].split("-")
        assert trace == TRACE
        assert span not in {SPAN, LOST, ours["span"]}
        record = next(entry.fields for entry in world.ledger.entries if entry.fields.get("method") == "PushNotification")
        assert (record["trace"], ours["trace"]) == (TRACE, TRACE)
        if carries == "the trace":
            assert (record["parent"], record["link"]) == (LOST, f"{TRACE}-{ours['span']}")
            assert (flags, news.headers["tracestate"]) == ("00", "vendor=2")
        else:
            assert record["parent"] == ours["span"]
            assert record.get("link") == (f"{OTHER}-{LOST}" if carries == "another trace" else None)
            assert (flags, news.headers["tracestate"]) == ("01", "vendor=1")
