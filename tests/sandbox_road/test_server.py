"""The built-in sandbox server answers both eras itself, and runs only what it was asked to and what was decided."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.settings import Settings
from sandbox.model import Language, Reason, Strength
from tests.mcp.world import DENY, World, allow_with, answer_of, connected
from tests.sandbox_road.scripted import DEFAULT, SHIPPED, Scene, ended, left, scene

ARGUMENTS = {"code": "print(1)", "network": False, "memory_mb": 64}
STRICT = replace(SHIPPED, name="strict")
WIDE = replace(SHIPPED, name="wide", limits=replace(SHIPPED.limits, memory_bytes=1 << 30))


@pytest.fixture
async def caged(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path, {"strict": STRICT, "wide": WIDE}) as made:
        yield made


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_runs_code(caged: Scene, mode: str) -> None:
    async with connected(caged.world, mode, server="sandbox") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        result = await client.call_tool("run_python", ARGUMENTS)
    assert tools.keys() == {"run_python", "run_shell", "run_javascript", "list_environments"}
    assert not result.is_error
    assert result.structured_content["stdout"] == "1\n"
    started = next(entry for entry in caged.world.ledger.entries if entry.fields.get("tool") == "run_python")
    assert [(job.code, job.id) for job in caged.runner.ran] == [("print(1)", started.id)]


async def test_what_nothing_here_can_run_is_not_listed(caged: Scene) -> None:
    caged.runner.languages = frozenset({Language.SHELL})
    assert await shown(caged.world) == ["run_shell", "list_environments"]


async def test_where_nothing_is_proven_no_tool_is_listed(caged: Scene) -> None:
    caged.runner.strength = Strength.ABSENT
    assert await shown(caged.world) == []


async def shown(world: World) -> list[str]:
    answer = await world.modern("anna", "tools/list", server="sandbox")
    return [tool["name"] for tool in answer_of(answer)["result"]["tools"]]


async def test_the_profile_that_a_duty_names_is_the_one_it_runs_under(caged: Scene) -> None:
    caged.world.verdicts["*", "sandbox.run_python"] = allow_with("sandbox", profile="strict")
    await caged.result(**ARGUMENTS)
    assert caged.runner.ran[0].profile is STRICT


async def test_a_profile_that_the_caller_names_is_asked_about_and_on_record(caged: Scene) -> None:
    await caged.result(code="1", profile="wide")
    assert caged.runner.ran[0].profile is WIDE
    assert [(each.action, each.resource) for each in caged.world.asked] == [
        ("call", "sandbox.run_python"),
        ("use", "profile:wide"),
    ]
    (started,) = caged.entries("call.start")
    assert [each["resource"] for each in started.fields["further"]] == ["profile:wide"]


async def test_a_profile_that_is_not_granted_runs_nothing(caged: Scene) -> None:
    caged.world.verdicts["*", "profile:wide"] = DENY
    result = await caged.result(code="1", profile="wide")
    assert result["isError"]
    assert caged.runner.ran == []
    (refused,) = caged.entries("decision.deny")
    assert (refused.fields["action"], refused.fields["resource"]) == ("use", "profile:wide")


async def test_a_caller_may_only_tighten_what_a_duty_names(caged: Scene) -> None:
    caged.world.verdicts["*", "sandbox.run_python"] = allow_with("sandbox", profile=DEFAULT)
    assert (await caged.result(code="1", profile="wide"))["isError"]
    assert caged.runner.ran == []
    await caged.result(code="1", profile="strict")
    assert caged.runner.ran[0].profile is STRICT


async def test_naming_the_profile_that_would_be_taken_anyway_asks_for_nothing(caged: Scene) -> None:
    caged.world.verdicts["*", f"profile:{DEFAULT}"] = DENY
    await caged.result(code="1", profile=DEFAULT)
    assert caged.runner.ran[0].profile is SHIPPED


async def test_a_runner_that_breaks_is_an_internal_error_with_an_end_on_record(caged: Scene) -> None:
    async def breaks(_job: Any, _hooks: Any) -> Any:
        raise OSError("no more processes")

    caged.runner.script = breaks
    answer = await caged.call(code="1")
    assert answer["error"]["data"]["code"] == "internal-error"
    (end,) = caged.entries("sandbox.end")
    assert (end.fields["reason"], end.fields["detail"]) == ("sandbox_error", "OSError")


async def test_a_profile_that_there_is_not_is_refused_although_everything_is_granted(caged: Scene) -> None:
    assert (await caged.result(code="1", profile="nowhere"))["isError"]
    assert caged.runner.ran == []


async def test_environments_are_those_that_the_caller_may_name(caged: Scene) -> None:
    caged.world.verdicts["*", "profile:strict"] = DENY
    result = await caged.result("list_environments")
    entries = result["structuredContent"]["environments"]
    assert [(entry["name"], entry["default"]) for entry in entries] == [(DEFAULT, True), ("wide", False)]
    assert entries[0]["languages"].keys() == {"python", "shell", "javascript"}
    assert entries[0]["limits"]["memory_bytes"] == 536_870_912


async def test_a_run_that_fails_is_a_tool_error(caged: Scene) -> None:
    async def late(job: Any, _hooks: Any) -> Any:
        return ended(job, reason=Reason.TIMEOUT, exit_code=None)

    caged.runner.script = late
    result = await caged.result(**ARGUMENTS)
    assert result["isError"]
    assert "timeout" in result["content"][0]["text"]
    assert caged.world.ledger.entries[-1].fields["outcome"]["status"] == "tool-error"


async def test_unproven_isolation_is_a_refusal_and_on_record_with_what_is_missing(caged: Scene) -> None:
    caged.runner.strength = Strength.ABSENT
    result = await caged.result(**ARGUMENTS)
    assert result["isError"]
    assert "isolation-unproven" in result["content"][0]["text"]
    assert "net_none" not in str(result)
    (end,) = caged.entries("sandbox.end")
    assert end.fields["reason"] == "refused"
    assert end.fields["missing"]["net_none"] == "wanted hard, got absent"
    assert caged.entries("sandbox.start") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"code": 1}, {"network": True}, {"network": 0}, {"memory_mb": 513}, {"memory_mb": 0}, {"memory_mb": True},
        {"memory_mb": "64"}, {"extra": 1}, {"code": None}, {"stdin": 1}, {"arguments": "a"}, {"arguments": [1]}, {"files": []},
        {"files": {"a": 1}}, {"files": {"a": {"base64": "!"}}}, {"files": {"a": {"base64": "YQ==", "b": 1}}},
        {"files": {"../a": ""}}, {"files": {"/a": ""}}, {"files": {"main.py": ""}}, {"files": {"a": "", "a/b": ""}},
        {"session": 1}, {"session": True}, {"profile": 1}, {"code": "\0"}, {"code": "x" * (1 << 20) + "y"},
    ],
    ids=str,
)  # fmt: skip
async def test_arguments_that_do_not_fit_run_nothing(caged: Scene, changes: dict[str, Any]) -> None:
    result = await caged.result(**ARGUMENTS | changes)
    assert result["isError"]
    assert caged.runner.ran == []
    assert caged.entries("sandbox.start") == []


async def test_files_input_and_arguments_reach_the_job(caged: Scene) -> None:
    await caged.result("run_shell", code="cat", files={"a.txt": "ä", "b/c": {"base64": "AAE="}}, stdin="in", arguments=["-x"])
    (job,) = caged.runner.ran
    assert (dict(job.files), job.stdin, job.arguments) == ({"a.txt": "ä".encode(), "b/c": b"\0\1"}, b"in", ("-x",))
    assert job.language is Language.SHELL


PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


async def test_files_come_back_small_ones_whole_and_all_as_links(caged: Scene) -> None:
    async def leaves(job: Any, _hooks: Any) -> Any:
        return ended(job, files=left(table__csv=b"a,b\n", plot__png=PNG, big__bin=b"\0" * 4096))

    caged.runner.script = leaves
    result = await caged.result(code="1")
    files = {file["name"]: file for file in result["structuredContent"]["files"]}
    assert (files["table.csv"]["text"], files["table.csv"]["mimeType"]) == ("a,b\n", "text/csv")
    assert "text" not in files["big.bin"]
    assert [block["type"] for block in result["content"]] == ["text", "image", *["resource_link"] * 3]
    read = await caged.world.modern("anna", "resources/read", server="sandbox", uri=files["big.bin"]["uri"])
    (contents,) = answer_of(read)["result"]["contents"]
    assert contents["blob"] == "AAAA" * 1365 + "AA=="
    listed = answer_of(await caged.world.modern("anna", "resources/list", server="sandbox"))["result"]
    assert {one["name"] for one in listed["resources"]} == files.keys()
    assert listed["cacheScope"] == "private"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_clients_that_ask_for_templates_hear_that_there_are_none(caged: Scene, mode: str) -> None:
    async with connected(caged.world, mode, server="sandbox") as client:
        assert (await client.list_resource_templates()).resource_templates == []
        assert (await client.list_resources()).resources == []


@pytest.mark.parametrize("method", ["prompts/list", "completion/complete", "logging/setLevel"])
async def test_what_it_does_not_offer_is_an_unknown_method(caged: Scene, method: str) -> None:
    ref = {"type": "ref/resource", "uri": "sandbox://runs/{run}"}
    params = {"ref": ref, "argument": {"name": "run", "value": ""}, "level": "info"}
    for ask in (caged.world.modern, caged.world.legacy):
        answer = answer_of(await ask("anna", method, server="sandbox", **params))
        assert answer["error"]["code"] == -32601


async def test_anothers_file_is_as_one_that_is_not_there(caged: Scene) -> None:
    async def leaves(job: Any, _hooks: Any) -> Any:
        return ended(job, files=left(a__txt=b"secret"))

    caged.runner.script = leaves
    result = await caged.result(code="1")
    uri = result["structuredContent"]["files"][0]["uri"]
    nothing = uri.replace("a.txt", "b.txt")
    theirs = answer_of(await caged.world.modern("bert", "resources/read", server="sandbox", uri=uri))
    absent = answer_of(await caged.world.modern("bert", "resources/read", server="sandbox", uri=nothing))
    assert theirs["error"]["code"] == absent["error"]["code"] == -32602
    assert theirs["error"]["message"] == absent["error"]["message"]
    assert answer_of(await caged.world.modern("bert", "resources/list", server="sandbox"))["result"]["resources"] == []


async def test_a_file_that_policy_does_not_grant_is_neither_read_nor_listed(caged: Scene) -> None:
    async def leaves(job: Any, _hooks: Any) -> Any:
        return ended(job, files=left(a__txt=b"x"))

    caged.runner.script = leaves
    uri = (await caged.result(code="1"))["structuredContent"]["files"][0]["uri"]
    caged.world.verdicts["*", f"res:sandbox/{uri}"] = DENY
    answer = answer_of(await caged.world.modern("anna", "resources/read", server="sandbox", uri=uri))
    assert answer["error"]["data"]["code"] == "user-lacks-right"
    assert answer_of(await caged.world.modern("anna", "resources/list", server="sandbox"))["result"]["resources"] == []


async def test_what_a_duty_redacts_cannot_leave_as_a_file(caged: Scene) -> None:
    async def leaves(job: Any, _hooks: Any) -> Any:
        return ended(job, files=left(a__txt=b'{"iban": "DE1"}'))

    caged.runner.script = leaves
    caged.world.verdicts["*", "sandbox.run_python"] = allow_with("redact-result", fields=["iban"])
    result = await caged.result(code="1")
    assert result["structuredContent"]["files"] == []
    assert result["structuredContent"]["files_skipped"] == [{"name": "a.txt", "why": "withheld by policy"}]
    assert answer_of(await caged.world.modern("anna", "resources/list", server="sandbox"))["result"]["resources"] == []


@pytest.mark.parametrize("uri", ["sandbox://runs/../x", "sandbox://runs//x", "a", "", "sandbox://runs/%2e%2e/x"])
async def test_a_uri_without_one_reading_is_refused(caged: Scene, uri: str) -> None:
    answer = answer_of(await caged.world.modern("anna", "resources/read", server="sandbox", uri=uri))
    assert answer["error"]["data"]["code"] == "invalid-params"


async def test_every_run_is_on_record_with_its_digests(caged: Scene) -> None:
    async def leaves(job: Any, _hooks: Any) -> Any:
        return ended(job, stdout=b"hello", files=left(a__txt=b"x"))

    caged.runner.script = leaves
    result = (await caged.result(code="1", files={"in.txt": "given"}))["structuredContent"]
    call, probe, start, end, closed = [entry for entry in caged.world.ledger.entries if entry.kind != "decision.evaluate"]
    kinds = [call.kind, probe.kind, start.kind, end.kind, closed.kind]
    assert kinds == ["call.start", "sandbox.probe", "sandbox.start", "sandbox.end", "call.end"]
    assert start.fields["probe"] == probe.fields["probe"] == (await caged.runner.probe()).id
    assert start.fields["call"] == end.fields["call"] == call.id
    assert end.fields["start"] == start.id
    assert start.fields["trace"] == end.fields["trace"] == call.fields["trace"]
    assert start.fields["workflow"] == end.fields["workflow"] == call.fields["workflow"]
    assert start.fields["profile_digest"] == result["profile_digest"] == SHIPPED.digest
    assert end.fields["inputs_digest"] == result["inputs_digest"]
    assert end.fields["outputs_digest"] == result["outputs_digest"]
    assert end.fields["guarantees"]["net_none"] == "hard"
    assert end.fields["stdout"]["bytes"] == 5
    assert "hello" not in str((start, end))
    assert "given" not in str(start.fields)


async def test_a_probe_is_on_record_once_with_every_attempt_sealed_beside_it(caged: Scene) -> None:
    for _ in range(2):
        await caged.result(code="1")
    (probe,) = caged.entries("sandbox.probe")
    report = await caged.runner.probe()
    assert (probe.subject, probe.fields["backend"], probe.fields["guarantees"]["fs_read"]) == (None, report.backend, "hard")
    (value,) = probe.values
    assert json.loads(value.data) == json.loads(json.dumps(report.to_dict()))


@pytest.mark.parametrize("kind", ["sandbox.probe", "sandbox.start"])
async def test_what_cannot_be_recorded_is_not_run(caged: Scene, kind: str) -> None:
    append = caged.world.ledger.append

    async def broken(entry: Any) -> Any:
        caged.world.ledger.down = entry.kind == kind
        return await append(entry)

    caged.world.ledger.append = broken  # type: ignore[method-assign]
    answer = await caged.call(code="1")
    assert answer["error"]["data"]["code"] == "ledger-unavailable"
    assert caged.runner.ran == []


async def test_a_result_whose_end_cannot_be_recorded_is_withheld(caged: Scene) -> None:
    append = caged.world.ledger.append

    async def broken(entry: Any) -> Any:
        caged.world.ledger.down = entry.kind == "sandbox.end"
        return await append(entry)

    caged.world.ledger.append = broken  # type: ignore[method-assign]
    answer = await caged.call(code="1")
    assert answer["error"]["data"]["code"] == "ledger-unavailable"
    assert "1\\n" not in str(answer)


def test_nobody_else_can_be_the_agent_that_the_sandbox_is() -> None:
    own = {"sandbox": {"enabled": True}}
    assert Settings.model_validate(own).agents.keys() == {"sandbox"}
    assert Settings.model_validate({"sandbox": {"enabled": True, "agent": "code"}}).agents.keys() == {"code"}
    assert Settings.model_validate({}).agents == {}
    assert Settings.model_validate(own | {"agents": {"sandbox": {"scope": ["erp.*"]}}}).agents["sandbox"].scope == ("erp.*",)
    for claimed in ({"url": "http://127.0.0.1:1/"}, {"auth": {"bearer_ok": True}}, {"client_ids": ["x"]}):
        with pytest.raises(ValidationError, match="gateway's own sandbox"):
            Settings.model_validate(own | {"agents": {"sandbox": claimed}})
