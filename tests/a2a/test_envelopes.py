"""Whatever is asked of an A2A address, and in whatever way, the answer is in the envelope of its binding, never a framework's."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.a2a.pairs import Sending
from tests.a2a.world import reference_agent

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND")
PATHS = (
    "/a2a",
    "/a2a/",
    "/a2a//",
    "/a2a/full",
    "/a2a/full/",
    "/a2a/full//",
    "/a2a/full/x",
    "/a2a/full/v1/message:send",
    "/a2a/FULL/",
    "/a2a/none/",
    "/a2a/none/rest/tasks",
    "/a2a/none/.well-known/agent-card.json",
    "/a2a/full/.well-known/agent-card.json",
    "/a2a/full/.well-known/agent-card.json/",
    "/a2a/full/.well-known/agent.json",
    "/a2a/full/rest",
    "/a2a/full/rest/",
    "/a2a/full/rest/x",
    "/a2a/full/rest/message:send",
    "/a2a/full/rest/message:stream",
    "/a2a/full/rest/tasks",
    "/a2a/full/rest/tasks/",
    "/a2a/full/rest/tasks/never-was",
    "/a2a/full/rest/tasks/never-was:cancel",
    "/a2a/full/rest/tasks/never-was:subscribe",
    "/a2a/full/rest/tasks/never-was:nothing",
    "/a2a/full/rest/tasks/never-was/pushNotificationConfigs",
    "/a2a/full/rest/tasks/never-was/pushNotificationConfigs/x",
    "/a2a/full/rest/extendedAgentCard",
    "/a2a/full/rest/tasks?pageSize=x",
    "/a2a/full/rest/tasks?pageSize=1&pageSize=2",
    "/a2a/full/rest/tasks?%ff=%ff",
    "/a2a/full/rest/tasks/%00",
    "/a2a/full/rest/tasks/%ff%fe",
    "/a2a/full/rest/tasks/" + "x" * 2000,
    "/a2a/%2e%2e/%2e%2e/",
    "/a2a/full%2frest%2ftasks",
    "/a2a-callback/",
    "/a2a-callback/x",
    "/a2a-callback/" + "A" * 32,
    "/a2a-callback/x/y",
)
JSON = {"content-type": "application/json"}
BODIES: dict[str, tuple[bytes, dict[str, str]]] = {
    "nothing": (b"", {}),
    "half": (b'{"jsonrpc": "2.0", ', JSON),
    "a list": (b"[]", JSON),
    "an object": (b"{}", JSON),
    "a request": (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": 7}}', JSON),
    "no text": (b"\xff\xfe\x00\x80", JSON),
    "deep": (b"[" * 5000, JSON),
    "a form": (b"message=hi", {"content-type": "application/x-www-form-urlencoded"}),
    "parts": (b"--x\r\n\r\nhi\r\n--x--", {"content-type": "multipart/form-data; boundary=x"}),
    "XML": (b"<a/>", {"content-type": "text/xml"}),
    "a type that is none": (b"{}", {"content-type": ";;;"}),
}
FRAMES: dict[str, dict[str, str]] = {
    "as a person": {},
    "as nobody": {"authorization": ""},
    "as somebody false": {"authorization": "Bearer x.y.z"},
    "by another scheme": {"authorization": "Basic cGF1bDpwYXVs"},
    "of no version": {"a2a-version": ""},
    "of another version": {"a2a-version": "9.9"},
    "from another page": {"origin": "https://evil.example"},
    "for another host": {"host": "evil.example"},
    "with an extension that is none": {"a2a-extensions": "not a uri, http://"},
    "with a long line": {"x-long": "y" * 4000},
}


@dataclass(frozen=True)
class Asked:
    verb: str
    path: str
    body: str
    frame: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sending]:
    with reference_agent() as url:
        gateway = Sending(tmp_path_factory.mktemp("gateway"), {"full": {"url": url}}, webhooks=("localhost:9",))
        gateway.start()
        yield gateway
        gateway.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(running: Sending) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, verify=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def token(running: Sending) -> str:
    return running.token()


async def answered(http: httpx.AsyncClient, token: str, asked: Asked) -> httpx.Response:
    body, kind = BODIES[asked.body]
    headers = {"authorization": f"Bearer {token}", "a2a-version": "1.0"} | kind | FRAMES[asked.frame]
    headers = {name: value for name, value in headers.items() if value}
    return await http.request(asked.verb, asked.path, content=body, headers=headers)


def envelope_of(asked: Asked, answer: httpx.Response) -> str:
    """Which envelope an answer has; an AssertionError for one of a framework, or none."""
    if answer.status_code < 400:
        return "none"
    if asked.verb == "HEAD":
        assert answer.content == b""
        return "none"
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    value: Any = json.loads(answer.content)
    assert isinstance(value, dict)
    assert "detail" not in value
    assert "Traceback" not in answer.text
    if "jsonrpc" in value:
        assert value.keys() == {"jsonrpc", "id", "error"}
        assert isinstance(value["error"]["code"], int)
        assert value["error"]["message"]
        assert value["error"]["data"][0]["reason"]
        return "rpc"
    if "error" in value:
        assert value.keys() == {"error"}
        assert value["error"]["code"] == answer.status_code
        assert re.fullmatch(r"[A-Z_]+", value["error"]["status"])
        assert value["error"]["message"]
        return "rest"
    assert value == {"title": "refused"}
    return "callback"


def wanted(path: str) -> str:
    """The envelope of an address."""
    if path.startswith("/a2a-callback"):
        return "callback"
    return "rest" if re.match(r"/a2a/[^/]+/rest(/|\?|$)", path.replace("%2f", "/")) else "rpc"


@pytest.mark.parametrize("path", PATHS, ids=[path[:60] for path in PATHS])
async def test_every_refusal_is_in_the_envelope_of_its_binding(http: httpx.AsyncClient, token: str, path: str) -> None:
    asked = [Asked("POST", path, body, "as a person") for body in BODIES]
    asked += [Asked(verb, path, body, "as a person") for verb in VERBS for body in ("nothing", "half", "an object")]
    asked += [Asked(verb, path, body, frame) for verb in ("GET", "POST") for body in ("a request", "half") for frame in FRAMES]
    refused = 0
    for each in asked:
        answer = await answered(http, token, each)
        found = envelope_of(each, answer)
        assert found in {"none", wanted(path)}, (each, answer.status_code, answer.text[:300])
        assert answer.status_code < 500, each
        refused += found != "none"
        if answer.status_code == 405:
            assert each.verb not in answer.headers["allow"].split(", ")
            assert answer.headers["allow"]
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert refused > len(asked) // 3


async def test_a_body_that_is_too_large_is_refused_in_the_envelope_of_its_binding(http: httpx.AsyncClient, token: str) -> None:
    headers = {"authorization": f"Bearer {token}", "a2a-version": "1.0"} | JSON
    for path in ("/a2a/full/", "/a2a/full/rest/message:send", "/a2a-callback/" + "A" * 32):
        answer = await http.post(path, content=b" " * (17 * 1024 * 1024), headers=headers)
        assert answer.status_code == 413, path
        assert envelope_of(Asked("POST", path, "large", ""), answer) == wanted(path)
