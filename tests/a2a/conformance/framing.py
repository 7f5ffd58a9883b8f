"""JSON-RPC 2.0 as A2A 1.0 §9 uses it: envelopes, ids, both forms of the URL, and what is answered to a body that is none."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.a2a.conformance.verdicts import check, each
from tests.a2a.conformance.wires import Rpc

RPC = ("JSONRPC",)
READ = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "never-was"}}
SAID = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "hi"}]}

PARSE = {
    "nothing": b"",
    "half": b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", ',
    "words": b"hello",
    "a comma too many": b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask",}',
    "no text": b"\xff\xfe\x00",
    "single quotes": b"{'jsonrpc': '2.0'}",
}
INVALID = {
    "no version": {"id": 1, "method": "GetTask", "params": {"id": "x"}},
    "another version": READ | {"jsonrpc": "1.0"},
    "version as a number": READ | {"jsonrpc": 2.0},
    "no method": {"jsonrpc": "2.0", "id": 1, "params": {}},
    "method as a number": READ | {"method": 7},
    "method as nothing": READ | {"method": None},
    "an object as id": READ | {"id": {}},
    "a list as id": READ | {"id": [1]},
    "a truth as id": READ | {"id": True},
    "a batch": [READ],
    "an empty batch": [],
    "a text": "GetTask",
    "a number": 7,
    "nothing": None,
}
UNKNOWN = {
    "another word": "Nonsense",
    "lower case": "sendmessage",
    "camel case": "sendMessage",
    "with a space": "SendMessage ",
    "of REST": "message:send",
    "of another service": "lf.a2a.v1.A2AService/SendMessage",
}
PARAMS: dict[str, tuple[str, Any]] = {
    "a list": ("GetTask", ["never-was"]),
    "an id that is a number": ("GetTask", {"id": 7}),
    "an id that is an object": ("GetTask", {"id": {}}),
    "no message": ("SendMessage", {}),
    "a message that is a text": ("SendMessage", {"message": "hi"}),
    "a message that is a list": ("SendMessage", {"message": [SAID]}),
    "parts that are an object": ("SendMessage", {"message": SAID | {"parts": {"text": "hi"}}}),
    "a part that is a text": ("SendMessage", {"message": SAID | {"parts": ["hi"]}}),
    "a text that is a number": ("SendMessage", {"message": SAID | {"parts": [{"text": 7}]}}),
    "a role that is none": ("SendMessage", {"message": SAID | {"role": "ROLE_KING"}}),
    "no parts": ("SendMessage", {"message": SAID | {"parts": []}}),
    "no message id": ("SendMessage", {"message": {"role": "ROLE_USER", "parts": [{"text": "hi"}]}}),
    "a history length that is a text": ("GetTask", {"id": "x", "historyLength": "many"}),
    "a history of less than nothing": ("GetTask", {"id": "x", "historyLength": -1}),
    "a page size that is too much": ("ListTasks", {"pageSize": 101}),
    "a page size of nothing": ("ListTasks", {"pageSize": 0}),
    "a state that is none": ("ListTasks", {"status": "TASK_STATE_HAPPY"}),
    "a time that is none": ("ListTasks", {"statusTimestampAfter": "yesterday"}),
    "a page token that is none": ("ListTasks", {"pageToken": "guess"}),
}
NO_STRUCTURE: dict[str, Any] = {"a text": "never-was", "a number": 7, "a truth": True}
IDS: dict[str, Any] = {
    "a text": "abc-1",
    "an empty text": "",
    "a number": 42,
    "zero": 0,
    "less than zero": -1,
    "a long one": "x" * 200,
}


def refused(answer: Any, code: int) -> None:
    """An error of JSON-RPC with this code, and nothing beside it."""
    assert answer.error is not None, answer.whole
    assert answer.error["code"] == code, answer.whole
    assert isinstance(answer.error["message"], str)
    assert answer.error["message"]
    assert answer.whole["jsonrpc"] == "2.0"
    assert "result" not in answer.whole
    assert answer.kind == "application/json"
    assert answer.status == 200


@each(PARSE, bindings=RPC)
async def what_is_no_json_is_a_parse_error(wire: Rpc, body: bytes) -> None:
    answer = await wire.post(body)
    refused(answer, -32700)
    assert answer.whole["id"] is None


@each(INVALID, bindings=RPC)
async def what_is_no_request_is_an_invalid_one(wire: Rpc, body: Any) -> None:
    refused(await wire.post(json.dumps(body).encode()), -32600)


@each(UNKNOWN, bindings=RPC)
async def a_method_that_is_none_is_not_found(wire: Rpc, method: str) -> None:
    answer = await wire.post(json.dumps(READ | {"method": method, "id": 3}).encode())
    refused(answer, -32601)
    assert answer.whole["id"] == 3


@each(PARAMS, bindings=RPC)
async def params_that_are_none_are_invalid(wire: Rpc, said: tuple[str, Any]) -> None:
    answer = await wire.post(json.dumps({"jsonrpc": "2.0", "id": 4, "method": said[0], "params": said[1]}).encode())
    refused(answer, -32602)
    assert answer.whole["id"] == 4


@each(NO_STRUCTURE, bindings=RPC)
async def params_that_are_no_structure_are_refused(wire: Rpc, params: Any) -> None:
    answer = await wire.post(json.dumps(READ | {"params": params}).encode())
    assert answer.error is not None
    assert answer.error["code"] in {-32600, -32602}


@each(IDS, bindings=RPC)
async def an_id_comes_back_as_it_was(wire: Rpc, rpc_id: Any) -> None:
    for params in (wire.message("tck-complete-task"), {}):
        said = {"jsonrpc": "2.0", "id": rpc_id, "method": "SendMessage", "params": params}
        answer = await wire.post(json.dumps(said).encode())
        assert (answer.whole["id"], type(answer.whole["id"])) == (rpc_id, type(rpc_id)), answer.whole
        assert ("result" in answer.whole) != ("error" in answer.whole)


@check(bindings=RPC, kinds=("full", "minimal", "auth"))
async def both_forms_of_the_url_answer_and_neither_redirects(wire: Rpc) -> None:
    for url in (wire.base.rstrip("/"), f"{wire.base.rstrip('/')}/"):
        answer = await wire.post(json.dumps(READ).encode(), url=url)
        assert answer.status == 200, url
        refused(answer, -32001)


@check(bindings=RPC)
async def members_that_nobody_knows_are_ignored(wire: Rpc) -> None:
    params = wire.message("tck-complete-task", fromTomorrow={"a": [1]})
    said = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params | {"later": 1}, "extra": True}
    assert (await wire.post(json.dumps(said).encode())).result["task"]["status"]["state"] == "TASK_STATE_COMPLETED"


@check(bindings=RPC)
async def a_body_in_another_charset_parameter_is_still_json(wire: Rpc) -> None:
    answer = await wire.post(json.dumps(READ).encode(), {"content-type": "application/json; charset=utf-8"})
    refused(answer, -32001)


@check(bindings=RPC)
async def answers_to_requests_at_once_go_to_who_asked(wire: Rpc) -> None:
    bodies = [json.dumps(READ | {"id": number}).encode() for number in range(20)]
    answers = await asyncio.gather(*(wire.post(body) for body in bodies))
    assert [answer.whole["id"] for answer in answers] == list(range(20))
