"""`/mcp`: one server made of all that the caller may use, whichever era its servers speak, and whichever of them answer."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.repeated import decoded
from gateway.mcp.sealed import Sealed
from tests.mcp.aggregate_world import DEAD, asked, called, tool_names, upstreams
from tests.mcp.world import (
    DENY,
    HIDDEN,
    MODERN,
    World,
    answer_of,
    connected,
    control,
    gateway,
    modern_body,
    modern_headers,
    plain_server,
)
from tests.upstreams.mcp_plain import LONG, ODD

ERAS = ["modern", "legacy"]
BOTH = ["new", "old"]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    yield from upstreams()


@pytest.fixture
async def world(tmp_path: Path, servers: dict[str, str]) -> AsyncIterator[World]:
    for url in servers.values():
        control(url)
    async with gateway(tmp_path, {**servers, "dead": DEAD}, patience=2.0) as running:
        yield running


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_sees_tools_of_both_eras_and_calls_them(world: World, mode: str) -> None:
    async with connected(world, mode, server="") as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        results = {server: await client.call_tool(f"{server}__echo", {"n": 1}) for server in BOTH}
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else MODERN)
        assert client.server_info.name == "bailiwick"
        assert client.instructions == "[new] Say hello to new.\n[old] Say hello to old."
    assert listed == sorted(listed, key=lambda name: name.split("__")[0])
    assert {"new__echo", "old__echo"} <= set(listed)
    assert [results[server].structured_content["of"] for server in BOTH] == BOTH


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", BOTH)
async def test_the_server_hears_its_own_name_of_the_tool_and_its_own_era(world: World, era: str, server: str) -> None:
    for name, begins in (("echo", "echo"), (LONG, "a_tool"), (ODD, "na_ve_name")):
        shown = next(tool for tool in await tool_names(world) if tool.startswith(f"{server}__{begins}"))
        said = (await called(world, shown, era=era, text="ü", n=12.5))["structuredContent"]
        assert said["name"] == name
        assert said["params"]["arguments"] == {"text": "ü", "n": 12.5}
        assert server not in json.dumps(said["params"])
        assert ("mcp-session-id" in said["headers"]) is (server == "old")
        assert said["headers"]["mcp-protocol-version"] == (MODERN if server == "new" else "2025-11-25")
        assert decoded(said["headers"].get("mcp-name")) == (name if server == "new" else None)
        assert ("io.modelcontextprotocol/clientCapabilities" in said["params"].get("_meta", {})) is (server == "new")


async def test_headers_that_repeat_arguments_go_on_and_are_written_for_clients_that_know_none(
    world: World, servers: dict[str, str]
) -> None:
    call = {"name": "new__headed", "arguments": {"region": "eu", "n": 1}}
    headers = modern_headers("tools/call", **call) | {"mcp-param-region": "eu"}
    for answer in (
        await world.post("anna", modern_body("tools/call", **call), server="", headers=headers),
        await world.legacy("anna", "tools/call", server="", **call),
        await world.legacy("anna", "tools/call", server="", **call),
    ):
        assert answer_of(answer)["result"]["structuredContent"]["headers"]["mcp-param-region"] == "eu"
    asked = [heard["method"] for heard in control(servers["new"])["heard"]]
    assert asked.count("tools/list") == 1  # it was learned once
    lied = await world.post("anna", modern_body("tools/call", **call), server="", headers=headers | {"mcp-param-region": "us"})
    assert lied.json()["error"]["code"] == -32020


ANYTHING = {
    "numbers": [0, -1, 2**63 - 1, 0.1, 1e300, -0.0, 1.5e-7], "texts": ["", "\0", "ü\u2028\ufeff", "=?base64?eA==?=", "a" * 5000],
    "name": "evil__pay", "arguments": {"name": {"_meta": {"progressToken": 1}}}, "_meta": [None, True, {}], "": {"": [[[[]]]]},
}  # fmt: skip


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", BOTH)
async def test_arguments_of_any_shape_arrive_as_they_were_decided_on(world: World, era: str, server: str) -> None:
    said = (await called(world, f"{server}__echo", era=era, arguments=ANYTHING))["structuredContent"]["params"]
    assert (said["name"], said["arguments"]) == ("echo", {"arguments": ANYTHING})
    decided = [request for request in world.asked if request.resource == f"{server}.echo" and request.arguments is not None]
    assert json.loads(json.dumps(decided[-1].arguments, default=float)) == {"arguments": ANYTHING}


@pytest.mark.parametrize("rpc_id", [0, "0", "listen:0", 7])
@pytest.mark.parametrize("server", BOTH)
async def test_an_answer_has_the_id_of_its_question(world: World, rpc_id: Any, server: str) -> None:
    answer = answer_of(await world.modern("anna", "tools/call", server="", rpc_id=rpc_id, name=f"{server}__echo", arguments={}))
    assert answer["id"] == rpc_id
    assert type(answer["id"]) is type(rpc_id)


async def test_definitions_pass_untouched_but_for_their_name(world: World) -> None:
    through = (await asked(world, "tools/list"))["result"]["tools"]
    own = answer_of(await world.modern("anna", "tools/list", server="new"))["result"]["tools"]
    mine = [tool for tool in through if tool["name"].startswith("new__")]
    assert [{**tool, "name": ""} for tool in mine] == [{**tool, "name": ""} for tool in own]


async def test_a_modern_list_says_for_whom_and_how_long_it_holds_and_a_legacy_one_does_not(world: World) -> None:
    modern, legacy = [(await asked(world, "tools/list", era=era))["result"] for era in ERAS]
    assert (modern["cacheScope"], modern["ttlMs"], modern["resultType"]) == ("private", 0, "complete")
    assert modern["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "bailiwick"
    assert not {"cacheScope", "ttlMs", "resultType"} & set(legacy)
    assert legacy["tools"] == modern["tools"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_is_down_is_left_out_and_named_and_a_call_to_it_says_which(world: World, era: str) -> None:
    listed = (await asked(world, "tools/list", era=era))["result"]
    assert listed["_meta"]["bailiwick/unavailable"] == {"dead": "upstream-connect"}
    assert {tool["name"].split("__")[0] for tool in listed["tools"]} == set(BOTH)
    error = await called(world, "dead__echo", era=era)
    assert error["code"] == -31502
    assert error["data"]["decision"] in {entry.id for entry in world.ledger.entries}
    assert "dead" in error["message"]
    failed = [entry for entry in world.ledger.entries if entry.kind == "call.end" and entry.fields["outcome"]["status"] != "ok"]  # type: ignore[index]
    assert failed


async def test_a_silent_server_costs_its_own_part_of_a_list_and_is_back_when_it_answers(
    tmp_path: Path, servers: dict[str, str]
) -> None:
    with plain_server("--era", "modern", "--name", "mute", "--hang") as mute:
        async with gateway(tmp_path, {**servers, "mute": mute}, patience=0.5) as world:
            listed = (await asked(world, "tools/list"))["result"]
            assert listed["_meta"]["bailiwick/unavailable"] == {"mute": "upstream-timeout"}
            assert {tool["name"].split("__")[0] for tool in listed["tools"]} == set(BOTH)
            control(mute, hang=False)
            assert "mute__echo" in await tool_names(world)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", [*BOTH, "dead"])
async def test_a_hidden_tool_is_an_unknown_one_letter_by_letter(world: World, era: str, server: str) -> None:
    world.verdicts["*", f"{server}.echo"] = HIDDEN
    world.verdicts["*", "new"] = world.verdicts["*", "new.recall"] = DENY  # the server itself is hidden, whatever its tools are
    said = []
    for name in (f"{server}__echo", "new__recall", "ghost__echo", "echo", f"{server}__", "__echo", "new__x_0123abcd", "n" * 61):
        ask = world.modern if era == "modern" else world.legacy
        answer = await ask("anna", "tools/call", server="", name=name, arguments={})
        error = answer.json()["error"]
        decision = error["data"].pop("decision")
        assert decision == answer.headers["bailiwick-decision"]
        assert decision in {entry.id for entry in world.ledger.entries}
        said.append((answer.status_code, json.dumps(error).replace(name, "?"), sorted(set(answer.headers) - {"date"})))
    assert len({json.dumps(each) for each in said}) == 1
    assert '"Unknown tool: ?"' in said[0][1]


@pytest.mark.parametrize("era", ERAS)
async def test_a_denied_call_is_a_result_that_the_model_can_read(world: World, era: str) -> None:
    world.verdicts["*", "old.echo"] = DENY
    result = await called(world, "old__echo", era=era)
    assert result["isError"] is True
    assert result["_meta"]["bailiwick/code"] == "user-lacks-right"
    refused = next(entry for entry in world.ledger.entries if entry.kind == "decision.deny")
    assert result["_meta"]["bailiwick/decision"] == refused.id
    assert refused.fields["target"] == "old"
    assert refused.fields["tool"] == "echo"


async def test_what_is_visible_is_what_the_mounts_show(world: World) -> None:
    world.verdicts["*", "new.echo"] = HIDDEN
    world.verdicts["*", "old.recall"] = DENY
    shown = await tool_names(world)
    own = [tool["name"] for tool in answer_of(await world.modern("anna", "tools/list", server="new"))["result"]["tools"]]
    assert len([name for name in shown if name.startswith("new__")]) == len(own)
    assert "new__echo" not in shown
    assert "old__recall" not in shown


async def test_every_sub_call_has_a_decision_and_records_of_its_own(world: World) -> None:
    await tool_names(world)
    world.ledger.entries.clear()
    await tool_names(world)
    started = [entry for entry in world.ledger.entries if entry.kind == "call.start"]
    assert sorted(str(entry.fields["target"]) for entry in started if entry.fields["method"] == "tools/list") == ["new", "old"]
    assert len({entry.id for entry in started}) == len(started)
    assert len({entry.fields["trace"] for entry in started}) == 1
    assert all(entry.fields["decision"] for entry in started)


async def test_a_server_that_the_caller_may_not_know_of_is_never_asked(world: World, servers: dict[str, str]) -> None:
    world.verdicts["*", "old"] = HIDDEN
    assert not [name for name in await tool_names(world) if name.startswith("old")]
    assert "old" not in json.dumps(await asked(world, "server/discover"))
    assert not control(servers["old"])["heard"]


@pytest.mark.parametrize(
    ("wanted", "given"), [("2025-06-18",) * 2, ("2025-03-26",) * 2, ("2024-11-05", "2025-11-25"), ("x", "2025-11-25")]
)
async def test_a_handshake_settles_on_a_revision_that_is_served(world: World, wanted: str, given: str) -> None:
    params = {"protocolVersion": wanted, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    answer = await world.legacy("anna", "initialize", server="", **params)
    result = answer_of(answer)["result"]
    assert result["protocolVersion"] == given
    assert result["serverInfo"]["name"] == "bailiwick"
    assert set(result["capabilities"]) >= {"tools"}
    session = answer.headers["mcp-session-id"]
    assert answer_of(await world.legacy("anna", "ping", server="", session=session))["result"] == {}
    for person, sent in (("bert", session), ("anna", session[:-2]), ("anna", await world.handshake("anna", "old"))):
        assert (await world.legacy(person, "ping", server="", session=sent)).status_code == 404


async def test_an_upstreams_session_is_one_principals_and_is_opened_anew_where_it_ended(
    world: World, servers: dict[str, str]
) -> None:
    await called(world, "old__remember", what="anna's")
    await called(world, "old__remember", era="legacy", person="bert", what="bert's")
    for person, kept in (("anna", "anna's"), ("bert", "bert's"), ("clara", None)):
        assert (await called(world, "old__recall", person=person))["structuredContent"]["kept"] == kept
    await called(world, "old__forget")
    assert (await called(world, "old__recall"))["structuredContent"]["kept"] is None
    opened = [heard for heard in control(servers["old"])["heard"] if heard["method"] == "initialize"]
    assert len(opened) == 4
    assert all(heard["params"]["capabilities"] == {} for heard in opened)


async def test_a_session_that_nobody_has_used_for_long_is_given_back_to_its_server(
    world: World, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.standing.SESSION_SECONDS", 0.0)
    before = control(servers["old"])["sessions"]
    for _ in range(3):
        await called(world, "old__echo")
    assert control(servers["old"])["sessions"] == before + 1


async def test_two_gateways_without_stickiness_serve_one_client(tmp_path: Path, servers: dict[str, str]) -> None:
    key = secrets.token_bytes(32)
    async with (
        gateway(tmp_path, servers, sealed=Sealed([key])) as first,
        gateway(tmp_path, servers, sealed=Sealed([key]), public_url=first.url) as second,
    ):
        session = await first.handshake("anna", "")
        for n, world in enumerate((second, first, second, first)):
            for server in BOTH:
                params = {"name": f"{server}__echo", "arguments": {"n": n}}
                answer = await world.legacy("anna", "tools/call", server="", session=session, **params)
                assert answer_of(answer)["result"]["structuredContent"]["params"]["arguments"] == {"n": n}
            listed = answer_of(await world.legacy("anna", "tools/list", server="", session=session))
            assert {tool["name"].split("__")[0] for tool in listed["result"]["tools"]} == set(BOTH)


@pytest.mark.parametrize("era", ERAS)
async def test_progress_of_a_server_in_the_other_era_comes_before_the_result(world: World, era: str) -> None:
    ask = world.modern if era == "modern" else world.legacy
    meta = {"progressToken": "p"}
    extra: dict[str, Any] = {"meta": meta} if era == "modern" else {"_meta": meta}
    answer = await ask("anna", "tools/call", server="", name="old__progress", arguments={}, rpc_id="q", **extra)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["params"]["progress"] for event in events if event.get("method") == "notifications/progress"] == [1, 2]
    assert {event["params"]["progressToken"] for event in events if event.get("method") == "notifications/progress"} == {"p"}
    assert ("notifications/message" in [event.get("method") for event in events]) is (era == "legacy")  # modern asks for logs
    assert events[-1]["id"] == "q"
    assert ("resultType" in events[-1]["result"]) is (era == "modern")


async def test_a_question_that_no_bridge_carries_is_a_result_that_says_so(world: World) -> None:
    result = await called(world, "new__ask", era="legacy")
    assert result["isError"] is True
    assert "resultType" not in result


async def test_many_clients_with_the_same_ids_share_an_upstreams_session_and_get_their_own_answers(world: World) -> None:
    results = await asyncio.gather(*(called(world, "old__echo", n=n) for n in range(20)))
    assert [result["structuredContent"]["params"]["arguments"]["n"] for result in results] == list(range(20))


async def test_all_pages_are_one_list_and_pages_that_go_round_in_circles_are_a_failure(
    tmp_path: Path, servers: dict[str, str]
) -> None:
    with (
        plain_server("--era", "modern", "--page", "3", "--tools", "20") as paged,
        plain_server("--era", "modern", "--tools", "2100") as long,
        plain_server("--circle") as round_and_round,
    ):
        async with gateway(tmp_path, {"long": long, "paged": paged, "round": round_and_round}) as world:
            listed = (await asked(world, "tools/list"))["result"]
            answer = await asked(world, "tools/list", cursor="any")
    assert len([tool for tool in listed["tools"] if tool["name"].startswith("paged__tool_")]) == 20
    assert len([tool for tool in listed["tools"] if tool["name"].startswith("long__")]) == 2000
    assert listed["_meta"]["bailiwick/unavailable"] == {"long": "more-than-2000", "round": "upstream-protocol"}
    assert "nextCursor" not in listed
    assert answer["error"]["code"] == -32602


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_a_stranger_is_told_where_to_go_before_anything_is_read(world: World, path: str) -> None:
    answer = await world.client.post(path, content=b"not json", headers={"content-type": "application/json"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == (
        f'Bearer resource_metadata="{world.url}/.well-known/oauth-protected-resource/mcp"'
    )
    assert world.ledger.kinds() == ["auth.refused"]


@pytest.mark.parametrize(
    ("method", "status", "code"),
    [("tools/none", 404, -32601), ("ping", 404, -32601), ("initialize", 404, -32601), ("tasks/list", 404, -32601)],
)
async def test_what_is_not_served_is_unknown_and_on_record(world: World, method: str, status: int, code: int) -> None:
    answer = await world.modern("anna", method, server="")
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (status, code, 1)
    assert world.ledger.entries[-1].fields["refused"] == {"code": "unknown-method", "detail": method}


@pytest.mark.parametrize("verb", ["PATCH", "PUT"])
async def test_other_verbs_are_not_served(world: World, verb: str) -> None:
    answer = await world.client.request(verb, "/mcp", headers=world.token("anna"))
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_what_cannot_be_recorded_is_not_asked(world: World, servers: dict[str, str]) -> None:
    control(servers["new"])
    world.ledger.down = True
    for answer in (
        await world.modern("anna", "tools/list", server=""),
        await world.modern("anna", "tools/call", server="", name="new__echo", arguments={}),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["data"]["code"] == "ledger-unavailable"
    assert control(servers["new"])["heard"] == []
