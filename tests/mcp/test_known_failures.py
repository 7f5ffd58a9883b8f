"""Ways in which gateways are known to fail their clients, each by name, where no other test of a part of this one shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.model import Reply
from gateway.receipts import RECEIPT, with_receipt
from gateway.settings import Limits
from gateway.upstream.client import Upstreams
from tests.mcp.world import answer_of, connected, gateway, plain_server

APP = "ui://app/main.html"


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, str]]:
    """Two servers with pages of apps, whose scheme is no web address."""
    with (
        plain_server("--era", "modern", "--name", "app", "--uri", APP) as app,
        plain_server("--era", "legacy", "--name", "other", "--uri", "ui://other/main.html") as other,
    ):
        yield {"app": app, "other": other}


@pytest.mark.parametrize("server", ["app", ""], ids=["mount", "aggregate"])
async def test_an_address_of_an_app_is_listed_and_read_as_its_server_wrote_it(
    tmp_path: Path, apps: dict[str, str], server: str
) -> None:
    async with gateway(tmp_path, apps) as world:
        listed = answer_of(await world.modern("anna", "resources/list", server=server))["result"]["resources"]
        read = answer_of(await world.modern("anna", "resources/read", server=server, uri=APP))["result"]["contents"]
    assert APP in {each["uri"] for each in listed}
    assert read == [{"uri": APP, "text": "of app"}]


@pytest.mark.parametrize(("server", "mode"), [("ref", "auto"), ("", "legacy")], ids=["mount", "aggregate"])
async def test_a_long_tool_that_reports_progress_outlives_every_timer_of_silence(
    tmp_path: Path, server_url: str, mode: str, server: str
) -> None:
    seen: list[float] = []

    async def progress(at: float, total: float | None, message: str | None) -> None:
        seen.append(at)

    impatient = Upstreams(idle_seconds=2)
    async with (
        gateway(tmp_path, {"ref": server_url}, upstreams=impatient) as world,
        connected(world, mode, server=server) as client,
    ):
        name = "gw_sleep" if server else "ref__gw_sleep"
        result = await client.call_tool(name, {"seconds": 4, "tag": "long"}, progress_callback=progress)
    assert (result.is_error, result.content[0].text) == (False, "slept")
    assert seen == sorted(seen) != []


def test_no_timer_ends_a_tool_within_minutes_unless_somebody_configures_it() -> None:
    assert Limits().upstream_idle_seconds >= 300
    assert Limits().call_seconds >= 3600


@pytest.mark.parametrize("mode", ["initialize", "tools/call"])
async def test_an_answer_alone_in_its_stream_is_one_here_too_for_clients_of_handshakes(
    tmp_path: Path, server_url: str, mode: str
) -> None:
    """Such clients may open several streams at once, and tell a server that streams from one that does not."""
    async with gateway(tmp_path, {"ref": server_url}) as world:
        session = await world.handshake("anna")
        params: dict[str, Any] = {"name": "test_simple_text", "arguments": {}}
        if mode == "initialize":
            session, params = (
                "",
                {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}},
            )
        answer = await world.legacy("anna", mode, session=session, **params)
        modern = await world.modern("anna", "tools/call", name="test_simple_text", arguments={})
    assert answer.headers["content-type"] == "text/event-stream"
    assert "result" in answer_of(answer)
    assert ("mcp-session-id" in answer.headers) == (mode == "initialize")
    assert modern.headers["content-type"] == "application/json"


def test_an_empty_result_stays_empty_for_clients_that_expect_nothing_else() -> None:
    receipt = {"log": "example.org/log"}
    for result, told in (({}, {}), ({"tools": []}, {"tools": [], "_meta": {RECEIPT: receipt}})):
        reply = Reply({"jsonrpc": "2.0", "id": 1, "result": result}, is_final=True)
        assert with_receipt(reply, receipt).payload["result"] == told
