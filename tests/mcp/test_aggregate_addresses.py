"""`/mcp`: prompts under the servers' names, resources under their own addresses; each goes to the one server that has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mcp.aggregate_world import DEAD, SHARED, asked, called, upstreams
from tests.mcp.world import DENY, HIDDEN, World, answer_of, connected, control, gateway
from tests.upstreams.mcp_plain import LONG

ERAS = ["modern", "legacy"]
BOTH = ["new", "old"]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    yield from upstreams()


@pytest.fixture
async def world(tmp_path: Path, servers: dict[str, str]) -> AsyncIterator[World]:
    for url in servers.values():
        control(url)
    async with gateway(tmp_path, servers) as running:
        yield running


def heard(servers: dict[str, str], method: str) -> list[tuple[str, Any]]:
    return [
        (server, each["params"]) for server, url in servers.items() for each in control(url)["heard"] if each["method"] == method
    ]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_lists_reads_prompts_and_completes(world: World, mode: str) -> None:
    async with connected(world, mode, server="") as client:
        offered = client.server_capabilities.model_dump(exclude_none=True)
        assert {"tools", "resources", "prompts", "completions"} <= set(offered)
        resources = [str(each.uri) for each in (await client.list_resources()).resources]
        templates = [each.uri_template for each in (await client.list_resource_templates()).resource_templates]
        prompts = [each.name for each in (await client.list_prompts()).prompts]
        for server in BOTH:
            assert (await client.read_resource(f"file:///{server}.txt")).contents[0].text == f"of {server}"
            assert (await client.read_resource(f"{server}://item/5")).contents[0].text == f"of {server}"
            said = await client.get_prompt(f"{server}__hello", {"whom": "you"})
            assert said.messages[0].content.text == f"hello of {server}"
    assert resources == [SHARED, "file:///new.txt", SHARED, "file:///old.txt"]
    assert templates == ["new://item/{id}", "old://item/{id}"]
    assert [name for name in prompts if name.endswith("hello")] == ["new__hello", "old__hello"]
    assert all(len(name) <= 60 for name in prompts)


@pytest.mark.parametrize("era", ERAS)
async def test_one_address_at_two_servers_is_an_error_of_its_own_and_nobody_is_asked(
    world: World, servers: dict[str, str], era: str
) -> None:
    answer = await asked(world, "resources/read", era=era, uri=SHARED)
    error = answer["error"]
    assert error["code"] == -32602
    assert error["data"]["code"] == "ambiguous"
    assert error["data"]["servers"] == {server: f"{world.url}/mcp/{server}" for server in BOTH}
    assert all(f"{server} ({world.url}/mcp/{server})" in error["message"] for server in BOTH)
    assert world.ledger.entries[-1].id == error["data"]["decision"]
    assert heard(servers, "resources/read") == []


@pytest.mark.parametrize("server", BOTH)
async def test_of_two_servers_with_one_address_the_one_that_may_be_read_is_asked(world: World, server: str) -> None:
    other = next(each for each in BOTH if each != server)
    world.verdicts["*", f"res:{other}/{SHARED}"] = HIDDEN
    assert (await asked(world, "resources/read", uri=SHARED))["result"]["contents"][0]["text"] == f"of {server}"
    world.verdicts["*", f"res:{server}/{SHARED}"] = DENY
    assert (await asked(world, "resources/read", uri=SHARED))["error"]["message"] == "Resource not found"


@pytest.mark.parametrize("era", ERAS)
async def test_what_no_server_lists_is_not_found_and_nobody_is_asked_for_it(
    world: World, servers: dict[str, str], era: str
) -> None:
    said = []
    world.verdicts["*", "res:new/file:///new.txt"] = HIDDEN
    for uri in ("file:///nowhere.txt", "file:///new.txt", "new://item", "new://items/5", "ftp://x/y"):
        error = (await asked(world, "resources/read", era=era, uri=uri))["error"]
        error["data"].pop("decision")
        said.append(error)
    assert len({json.dumps(each) for each in said}) == 1
    assert said[0]["message"] == "Resource not found"
    assert heard(servers, "resources/read") == []


async def test_an_address_without_one_form_is_refused(world: World) -> None:
    for uri in ("file:///a/../b", "relative", "file:///a%2fb"):
        assert (await asked(world, "resources/read", uri=uri))["error"]["data"]["code"] == "invalid-params"


@pytest.mark.parametrize("era", ERAS)
async def test_a_link_in_an_answer_leads_to_the_server_that_gave_it_for_whom_it_was_given(world: World, era: str) -> None:
    assert (await asked(world, "resources/read", era=era, uri="file:///linked"))["error"]["message"] == "Resource not found"
    await called(world, "old__link", era=era, uri="file:///linked")
    assert (await asked(world, "resources/read", era=era, uri="file:///linked"))["result"]["contents"][0]["text"] == "of old"
    other = await asked(world, "resources/read", era=era, person="bert", uri="file:///linked")
    assert other["error"]["message"] == "Resource not found"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", BOTH)
async def test_a_completion_names_the_servers_own_prompt_or_template(
    world: World, servers: dict[str, str], era: str, server: str
) -> None:
    listed = (await asked(world, "prompts/list", era=era))["result"]["prompts"]
    long = next(each["name"] for each in listed if each["name"].startswith(f"{server}__a_tool"))
    argument = {"name": "whom", "value": "y"}
    for ref, told in (
        ({"type": "ref/prompt", "name": f"{server}__hello"}, {"type": "ref/prompt", "name": "hello"}),
        ({"type": "ref/prompt", "name": long}, {"type": "ref/prompt", "name": LONG}),
        ({"type": "ref/resource", "uri": f"{server}://item/{{id}}"},) * 2,
    ):
        answer = await asked(world, "completion/complete", era=era, ref=ref, argument=argument)
        assert json.loads(answer["result"]["completion"]["values"][0]) == told
    for ref in ({"type": "ref/prompt", "name": "hello"}, {"type": "ref/resource", "uri": "no://item/{id}"}):
        assert (await asked(world, "completion/complete", era=era, ref=ref, argument=argument))["error"]["code"] in {
            -32602,
            -32002,
        }


@pytest.mark.parametrize("era", ERAS)
async def test_a_hidden_prompt_is_an_unknown_one(world: World, era: str) -> None:
    world.verdicts["*", "prompt:old/hello"] = HIDDEN
    world.verdicts["*", "new"] = HIDDEN
    said = []
    for name in ("old__hello", "new__hello", "ghost__hello", "hello"):
        error = (await asked(world, "prompts/get", era=era, name=name))["error"]
        error["data"].pop("decision")
        said.append(json.dumps(error).replace(name, "?"))
    assert len(set(said)) == 1
    assert "Unknown prompt: ?" in said[0]


async def test_a_resource_that_may_be_a_dead_servers_is_told_as_that(tmp_path: Path, servers: dict[str, str]) -> None:
    async with gateway(tmp_path, {**servers, "dead": DEAD}) as world:
        error = (await asked(world, "resources/read", uri="file:///nowhere.txt"))["error"]
        assert (error["code"], "dead" in error["message"]) == (-31502, True)
        assert error["data"]["decision"] in {entry.id for entry in world.ledger.entries}
        assert (await asked(world, "resources/read", uri="file:///new.txt"))["result"]["contents"][0]["text"] == "of new"


async def test_a_log_level_of_the_era_of_handshakes_counts_in_its_session_for_servers_of_both(world: World) -> None:
    quiet, loud = await world.handshake("anna", ""), await world.handshake("anna", "")
    answer = answer_of(await world.legacy("anna", "logging/setLevel", server="", session=quiet, level="error"))
    assert answer["result"] == {}
    for session in (quiet, loud):
        call = {"name": "old__progress", "arguments": {}, "_meta": {"progressToken": 1}}
        said = (await world.legacy("anna", "tools/call", server="", session=session, **call)).text
        assert "notifications/progress" in said
        assert ("notifications/message" in said) is (session == loud)
        new = answer_of(await world.legacy("anna", "tools/call", server="", session=session, name="new__echo", arguments={}))
        meta = new["result"]["structuredContent"]["params"]["_meta"]
        assert meta.get("io.modelcontextprotocol/logLevel") == ("error" if session == quiet else None)
    wrong = await world.legacy("anna", "logging/setLevel", server="", session=quiet, level="ERROR")
    assert answer_of(wrong)["error"]["code"] == -32602


async def test_notices_of_the_era_of_handshakes_are_taken(world: World) -> None:
    session = await world.handshake("anna", "")
    for method, params in (
        ("notifications/roots/list_changed", {}),
        ("notifications/progress", {"progressToken": 1, "progress": 1}),
    ):
        assert (await world.legacy("anna", method, server="", session=session, rpc_id=None, **params)).status_code == 202


@pytest.mark.parametrize("server", BOTH)
async def test_a_client_of_handshakes_cancels_its_request_at_the_server(
    world: World, servers: dict[str, str], server: str
) -> None:
    """In a session by a notice, under the id that the server knows; else by hanging up."""
    session = await world.handshake("anna", "")
    waiting = asyncio.create_task(
        world.legacy("anna", "tools/call", server="", session=session, rpc_id="w", name=f"{server}__wait", arguments={})
    )
    await asyncio.to_thread(control, servers[server], waiting=True)
    for person, other, wanted in (("anna", "", "w"), ("bert", "", "w"), ("anna", session, "x"), ("anna", session, 1)):
        await world.legacy(person, "notifications/cancelled", server="", session=other, rpc_id=None, requestId=wanted)
    assert not waiting.done()
    await world.legacy("anna", "notifications/cancelled", server="", session=session, rpc_id=None, requestId="w")
    answer = answer_of(await waiting)
    assert (answer["id"], answer["error"]["code"]) == ("w", -32800)
    notices = [params for at, params in heard(servers, "notifications/cancelled") if at == server]
    assert len(notices) == (1 if server == "old" else 0)
    assert (await world.ledger.until("call.end")).fields["outcome"]
    control(servers[server], hang=False)
