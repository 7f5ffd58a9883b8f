"""`tools import` against the example's real servers and the reference server: what it drafts, refuses and leaves alone."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from gateway.cli.tool_entries import UnfitFileError, as_text, draft, registered, with_entries
from policies.registry import TYPES
from policies.schema import SAFEST, comparable, described
from tests.mcp.world import REFERENCE, reference_server

from .conftest import PROCUREMENT, ROOT, Run

SERVERS = ROOT / "examples/procurement/servers"


@pytest.fixture(scope="module")
def erp() -> Iterator[tuple[str, str]]:
    """The example's ERP as a process: its URL, and the secret that it wants."""
    secret = secrets.token_urlsafe(16)
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(
            [sys.executable, str(SERVERS / "erp.py"), "--fd", str(listening.fileno())],
            stdin=subprocess.PIPE,
            env=inherited | {"UPSTREAM_SECRET": secret},
            pass_fds=(listening.fileno(),),
        )
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", secret
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture(scope="module")
def reference() -> Iterator[str]:
    with reference_server() as url:
        yield url


def configured(folder: Path, mcp: str, tools: str | None = None) -> tuple[Path, Path]:
    """Settings with these servers and a bundle; the files of both."""
    policies = folder / "policies"
    (policies / "grants").mkdir(parents=True)
    for name in ("model.conf", "roles.csv", "conditions.yaml", "obligations.yaml"):
        (policies / name).write_text((ROOT / "policies/default" / name).read_text())
    text = tools if tools is not None else "tenants: [acme]\ntools:\n"
    (policies / "tools.yaml").write_text(text)
    config = folder / "bailiwick.yaml"
    config.write_text(f"tenant: acme\nmcp:\n{mcp}")
    return config, policies / "tools.yaml"


def test_the_examples_server_is_drafted_as_a_person_registered_it(
    run: Run, tmp_path: Path, erp: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, secret = erp
    monkeypatch.setenv("ERP_SECRET", secret)
    mcp = f"  erp: {{url: '{url}', headers: {{Authorization: {{env: ERP_SECRET, prefix: 'Bearer '}}}}}}\n"
    config, file = configured(tmp_path, mcp)
    shown = run("tools", "import", "erp", "--config", config)
    assert shown.code == 0
    assert (
        "erp.write_po: {args: {supplier: string, amount: number, currency: string, cost_center: string}, risk: high}" in shown.out
    )
    assert file.read_text() == "tenants: [acme]\ntools:\n"
    assert secret not in shown.out + shown.err

    assert run("tools", "import", "erp", "--config", config, "--write").code == 0
    mine, wrong = registered(file.read_text())
    theirs, _ = registered((PROCUREMENT / "tools.yaml").read_text())
    assert wrong == ()
    assert {name: dict(spec.args) for name, spec in mine.items()} == {
        name: dict(spec.args) for name, spec in theirs.items() if spec.server == "erp"
    }
    assert {spec.risk for spec in mine.values()} == {"high"}
    assert {spec.labels for spec in mine.values()} == {()}

    before = file.read_text()
    again = run("tools", "import", "erp", "--config", config, "--write", "--json")
    assert (again.code, again.json["entries"], again.json["written"]) == (0, {}, False)
    assert file.read_text() == before
    live = run("policy", "check", "--config", config, "--live", "--json")
    assert {p["code"] for p in live.json["problems"]} & {
        "silent-server",
        "differing-tool",
        "missing-tool",
        "unregistered-tool",
    } == set()


def test_a_wrong_credential_is_a_finding_and_its_value_is_not_shown(
    run: Run, tmp_path: Path, erp: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_SECRET", "surely-not-the-secret")
    config, _ = configured(
        tmp_path, f"  erp: {{url: '{erp[0]}', headers: {{Authorization: {{env: ERP_SECRET, prefix: 'Bearer '}}}}}}\n"
    )
    ran = run("tools", "import", "erp", "--config", config)
    assert ran.code == 1
    assert "401" in ran.err
    assert "surely-not-the-secret" not in ran.out + ran.err


def test_an_entry_that_a_person_wrote_is_never_changed_and_what_differs_is_shown(
    run: Run, tmp_path: Path, erp: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERP_SECRET", erp[1])
    tools = """\
tenants: [acme]
tools:
  erp.write_po:  # judged in May
    args: {supplier: string, amount: string, cc: string}
    labels:
      - writes:finance
    # nothing else
  mail.send: {args: {to: string}, risk: low}   # the last one
  # a comment at the end
sets:
  "set:mail": [mail.send]
"""
    mcp = f"  erp: {{url: '{erp[0]}', headers: {{Authorization: {{env: ERP_SECRET, prefix: 'Bearer '}}}}}}\n"
    config, file = configured(tmp_path, mcp, tools)
    ran = run("tools", "import", "erp", "--config", config, "--write", "--json")
    assert ran.code == 1
    differing = {(each["argument"], each["here"], each["there"]) for each in ran.json["differences"]}
    assert differing == {
        ("amount", "string", "number"), ("cc", "string", None), ("currency", None, "string"), ("cost_center", None, "string")
    }  # fmt: skip
    made = file.read_text()
    assert list(ran.json["entries"]) == ["erp.pay_invoice", "erp.read"]
    assert made == tools.replace("  # a comment at the end\n", ran.json["text"] + "  # a comment at the end\n")
    text = run("tools", "import", "erp", "--config", config).out
    assert "erp.write_po differs, and stays as it is:\n  - amount: string\n  + amount: number\n" in text


@pytest.mark.parametrize("how", ["http", "json", "stateless", "stdio"])
def test_the_reference_server_is_understood_over_every_transport(run: Run, tmp_path: Path, reference: str, how: str) -> None:
    if how == "stdio":
        # Without a cage: this Python may lie where a child with a user id of its own may not go.
        mcp = f"  ref: {{command: ['{sys.executable}', '{REFERENCE}', '--stdio'], sandbox: off}}\n"
        config, file = configured(tmp_path, mcp)
        ran = run("tools", "import", "ref", "--config", config, "--write", "--json")
    elif how == "http":
        config, file = configured(tmp_path, f"  ref: {{url: '{reference}'}}\n")
        ran = run("tools", "import", "ref", "--config", config, "--write", "--json")
    else:
        with reference_server(f"--{how}") as url:
            config, file = configured(tmp_path, f"  ref: {{url: '{url}'}}\n")
            ran = run("tools", "import", "ref", "--config", config, "--write", "--json")
    assert ran.code == 0
    tools, wrong = registered(file.read_text())
    assert wrong == ()
    assert len(tools) > 10
    assert dict(tools["ref.greet"].args) == {"name": "string"}


class Scripted(BaseHTTPRequestHandler):
    """Answers each method with a scripted body; `initialize` is refused where the script lacks it."""

    script: ClassVar[dict[str, Any]] = {}
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((message["method"], self.headers.get("mcp-protocol-version")))
        answer = self.script.get(message["method"])
        if callable(answer):
            answer = answer(message)
        status = 202 if "id" not in message else 200 if answer is not None else 400
        body = b"" if answer is None else json.dumps({"jsonrpc": "2.0", "id": message.get("id"), **answer}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


@pytest.fixture
def scripted() -> Iterator[tuple[str, type[Scripted]]]:
    handler = type("Handler", (Scripted,), {"script": {}, "seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


HELLO = {"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}}


def test_a_server_of_the_stateless_era_alone_is_understood(
    run: Run, tmp_path: Path, scripted: tuple[str, type[Scripted]]
) -> None:
    url, handler = scripted
    handler.script = {
        "tools/list": {"result": {"tools": [{"name": "x", "inputSchema": {"type": "object"}}], "resultType": "complete"}}
    }
    config, _ = configured(tmp_path, f"  s: {{url: '{url}'}}\n")
    assert list(run("tools", "import", "s", "--config", config, "--json").json["entries"]) == ["s.x"]
    assert handler.seen == [("initialize", None), ("tools/list", "2026-07-28")]


def test_every_page_of_a_list_is_read(run: Run, tmp_path: Path, scripted: tuple[str, type[Scripted]]) -> None:
    url, handler = scripted

    def page(message: dict[str, Any]) -> dict[str, Any]:
        number = int(message["params"].get("cursor", "0"))
        more = {"nextCursor": str(number + 1)} if number < 2 else {}
        return {"result": {"tools": [{"name": f"t{number}", "inputSchema": {}}], **more}}

    handler.script = {"initialize": HELLO, "tools/list": page}
    config, _ = configured(tmp_path, f"  s: {{url: '{url}'}}\n")
    assert list(run("tools", "import", "s", "--config", config, "--json").json["entries"]) == ["s.t0", "s.t1", "s.t2"]


@pytest.mark.parametrize(
    "answer",
    [
        {"result": {"tools": "none"}},
        {"result": {"tools": [{"title": "no name"}]}},
        {"result": {"tools": [{"name": "twice"}, {"name": "twice"}]}},
        {"result": []},
        {"error": {"code": -32000, "message": "\x1b[2J no"}},
        lambda _message: {"result": {"tools": [], "nextCursor": "again"}},  # for ever
    ],
)
def test_an_answer_that_is_no_list_of_tools_is_a_finding(
    run: Run, tmp_path: Path, scripted: tuple[str, type[Scripted]], answer: object
) -> None:
    url, handler = scripted
    handler.script = {"initialize": HELLO, "tools/list": answer}
    config, file = configured(tmp_path, f"  s: {{url: '{url}'}}\n")
    before = file.read_text()
    ran = run("tools", "import", "s", "--config", config, "--write")
    assert ran.code == 1
    assert "did not say what its tools are" in ran.err
    assert "\x1b" not in ran.out + ran.err
    assert file.read_text() == before


def test_attack_a_servers_words_cannot_become_policy(run: Run, tmp_path: Path, scripted: tuple[str, type[Scripted]]) -> None:
    url, handler = scripted
    tools = [
        {"name": "ok\n  erp.write_po", "inputSchema": {}},
        {"name": "a: {risk: low}", "inputSchema": {}},
        {"name": "plain", "description": "x\n  evil.tool: {risk: low}", "inputSchema": {
            "properties": {"to\n  evil.tool: {}": {"type": "string"}, "kind": {"type": ["a\n  evil.tool: {}", "string"]},
                           "null": {"type": "string"}}},
         "annotations": {"title": "\n  evil.tool: {}", "readOnlyHint": True, "openWorldHint": True}},
    ]  # fmt: skip
    handler.script = {"initialize": HELLO, "tools/list": {"result": {"tools": tools}}}
    config, file = configured(tmp_path, f"  s: {{url: '{url}'}}\n")
    ran = run("tools", "import", "s", "--config", config, "--write", "--json")
    assert ran.code == 1
    assert len(ran.json["refused"]) == 2
    found, wrong = registered(file.read_text())
    assert wrong == ()
    assert {name: dict(spec.args) for name, spec in found.items()} == {"s.plain": {"kind": "object", "null": "string"}}
    assert found["s.plain"].risk == "medium"
    assert found["s.plain"].labels == ()
    assert [line for line in file.read_text().splitlines() if "evil" in line and not line.lstrip().startswith("#")] == []


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["string", "null"]}, "string"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "number"),
        ({"enum": ["a", "b"]}, "string"),
        ({"const": 3}, "integer"),
        ({"$ref": "#/$defs/Money"}, "number"),
        ({"$ref": "#/$defs/Loop"}, SAFEST),
        ({"$ref": "http://127.0.0.1:1/x"}, SAFEST),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, SAFEST),
        ({"anyOf": [{"type": "string"}, {}]}, SAFEST),
        ({"enum": [1, "a"]}, SAFEST),
        ({}, SAFEST),
        (True, SAFEST),
        ({"type": "no-such-type"}, SAFEST),
    ],
)
def test_an_arguments_type_is_the_servers_where_it_is_plain_and_the_safest_otherwise(schema: object, kind: str) -> None:
    root = {"properties": {"x": schema}, "$defs": {"Money": {"type": "number"}, "Loop": {"$ref": "#/$defs/Loop"}}}
    found = described(root)
    assert found.types == {"x": kind}
    assert ("x" in found.doubts) == (kind == SAFEST)
    assert comparable(found)["x"] == ("unknown" if kind == SAFEST else kind)
    assert kind in TYPES


@pytest.mark.parametrize("schema", [None, [], "x", {"properties": []}, {"properties": {"x y": {}}}, {"properties": {3: {}}}])
def test_a_schema_that_is_none_describes_no_argument(schema: object) -> None:
    assert described(schema).types == {}


@pytest.mark.parametrize(
    "text",
    [
        "tenants: [acme]\ntools: {}\nsets: {}\n",
        "tenants: [acme]\ntools: {}  # none yet\n",
        "tenants: [acme]\ntools:\n",
        "tenants: [acme]\ntools:",
        "tenants: [acme]\n\ntools: {}\n\nsets: {}",
        "tenants: [acme]\ntools:\n    a.b: {}",
        "tenants: [acme]\ntools:\n  a.b:\n    args: {x: string}\n    labels:\n    - a:b\n\n# sets follow\nsets:\n",
        "tools:\n  a.b:\n# no tenants on it\ntenants: [acme]\n",
    ],
)
def test_entries_join_a_file_that_otherwise_stays_as_it_is(text: str) -> None:
    if "a.b:\n#" in text:
        text = text.replace("a.b:\n", "a.b: {}\n")
    known, wrong = registered(text)
    assert wrong == ()
    made = draft("s", {"x": {"inputSchema": {"properties": {"n": {"type": "number"}}}}, "3": {}}, known)
    after = with_entries(text, made.entries)
    tools, wrong = registered(after)
    assert wrong == ()
    assert set(tools) == {*known, "s.x", "s.3"}
    assert [line for line in text.splitlines() if line.strip() and line.replace(" {}", "").strip() not in after] == []
    assert after.count("Drafted") == 2


@pytest.mark.parametrize("text", ["tenants: [acme]\n", "tenants: [acme]\ntools: {a.b: {}}\n", "[]", "tools: [\n", ""])
def test_a_file_that_would_have_to_be_rewritten_is_left_alone(text: str) -> None:
    made = draft("s", {"x": {}}, {})
    assert as_text(made.entries)
    with pytest.raises(UnfitFileError):
        with_entries(text, made.entries)


def test_misuse_is_no_finding(run: Run, tmp_path: Path) -> None:
    config, file = configured(tmp_path, "  erp: {url: 'http://127.0.0.1:1/mcp'}\n")
    assert run("tools", "import", "epr", "--config", config).code == 2
    assert run("tools", "import", "sandbox", "--config", config).code == 2
    assert run("tools", "import", "erp", "--config", tmp_path / "none.yaml").code == 2
    file.write_text("tools: [\n")
    assert run("tools", "import", "erp", "--config", config).code == 2


def test_attack_the_address_guard_holds_for_imports_too(run: Run, tmp_path: Path) -> None:
    config, _ = configured(
        tmp_path, "  meta: {url: 'http://169.254.169.254/mcp'}\n  me: {url: 'http://127.0.0.1:1/', allow_private: false}\n"
    )
    for server in ("meta", "me"):
        ran = run("tools", "import", server, "--config", config)
        assert ran.code == 1
        assert "connect" in ran.err
