"""A new folder, from nothing and from the configuration of an MCP client."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cli import adopt, adopted_text, jsonc, starter
from gateway.configuration import load
from policies.bundle import load as load_bundle

from .conftest import Run

SECRET = "hunter2hunter2"

CLAUDE_CODE = """\
{
  // what a developer had
  "mcpServers": {
    "GitHub Tools": {"type": "http", "url": "https://mcp.example/mcp",
      "headers": {"Authorization": "Bearer hunter2hunter2", "X-Org": "${ORG}"}},
    "github_tools": {"command": "npx", "args": ["-y", "@x/server"], "env": {"TOKEN": "hunter2hunter2", "HOME_DIR": "${HOME}"}},
    "old": {"type": "sse", "url": "https://old.example/sse"}, /* trailing comma next */
  },
}
"""


def _source(tmp_path: Path, text: str, name: str = ".mcp.json") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_new_folder_is_in_order_and_allows_nothing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert run("init", folder).code == 0
    assert run("check", "--config", folder / "bailiwick.yaml", "--strict").code == 0
    assert load(folder / "bailiwick.yaml", {}).issuers == ()
    assert not any(rule.effect == "allow" for rule in load_bundle(folder / "policies").rules)
    assert "/secrets/" in (folder / ".gitignore").read_text().splitlines()
    assert "/data/" in (folder / ".gitignore").read_text().splitlines()


def test_the_commented_examples_of_the_starter_are_valid_settings(tmp_path: Path) -> None:
    path = tmp_path / "bailiwick.yaml"
    text = (
        starter.settings()
        .replace("issuers: []\n", "issuers:\n")
        .replace("agents: {}\n", "agents:\n")
        .replace("mcp: {}\n", "mcp:\n")
    )
    lines = [
        line[1:] if line.startswith("#  ") else line.replace("  # ", "  ", 1) if line.startswith("  # ") else line
        for line in text.splitlines()
    ]
    path.write_text("\n".join(lines).replace("<sha256 of a random secret, hex>", "'" + "a" * 64 + "'"))
    settings = load(path, {})
    assert settings.issuers[0].alias == "corp"
    assert set(settings.agents) == {"researcher"}
    assert set(settings.mcp) == {"erp"}
    assert settings.server.public_url is not None


def test_nothing_is_ever_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "tools.yaml").write_text("mine")
    ran = run("init", tmp_path)
    assert ran.code == 1
    assert "policies/tools.yaml" in ran.err
    assert (tmp_path / "policies" / "tools.yaml").read_text() == "mine"
    assert not (tmp_path / "bailiwick.yaml").exists()


def test_a_link_is_not_written_through(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "bailiwick.yaml").symlink_to(outside)
    assert run("init", folder).code == 1
    assert not outside.exists()


def test_servers_of_a_client_become_servers_behind_the_gateway(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    ran = run("init", folder, "--from", _source(tmp_path, CLAUDE_CODE))
    assert ran.code == 0
    settings = load(folder / "bailiwick.yaml", {})
    http, child = settings.mcp["github-tools"], settings.mcp["github-tools-2"]
    assert str(http.url) == "https://mcp.example/mcp"
    assert http.headers["Authorization"].prefix == "Bearer "
    assert http.headers["X-Org"].env == "ORG"
    assert child.command == ("npx", "-y", "@x/server")
    assert child.env["HOME_DIR"].env == "HOME"
    assert "old" not in settings.mcp
    assert "2024" in ran.out
    assert "'github_tools' is called 'github-tools-2'" in ran.out


def test_secrets_go_to_files_that_only_their_owner_can_read(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    ran = run("init", folder, "--from", _source(tmp_path, CLAUDE_CODE))
    secrets = sorted((folder / "secrets").iterdir())
    assert [path.name for path in secrets] == ["github-tools-2-token", "github-tools-authorization"]
    assert [path.read_text() for path in secrets] == [SECRET, SECRET]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700
    elsewhere = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "secrets"]
    assert all(SECRET not in path.read_text() for path in elsewhere)
    assert SECRET not in ran.out + ran.err
    assert (
        load(folder / "bailiwick.yaml", {}).mcp["github-tools"].headers["Authorization"].file
        == folder / "secrets" / "github-tools-authorization"
    )


def test_the_adopted_folder_passes_its_own_check(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gate"
    run("init", folder, "--from", _source(tmp_path, CLAUDE_CODE))
    monkeypatch.setenv("ORG", "acme")
    found = run("check", "--config", folder / "bailiwick.yaml", "--json").json
    assert found["ok"]
    assert {p["code"] for p in found["problems"]} == {"no-tools", "unfit-program"}  # npx has nothing to fetch from in a cage
    hints = (folder / "policies" / "tools.yaml").read_text()
    assert "#   github-tools.<tool>: {args:" in hints


def test_the_client_is_told_its_new_configuration_in_its_own_shape(run: Run, tmp_path: Path) -> None:
    url = "http://127.0.0.1:8080/mcp/erp"
    inputs = '"inputs": [{"id": "key", "type": "promptString"}]'
    vscode = f'{{{inputs}, "servers": {{"erp": {{"type": "http", "url": "http://x/", "headers": {{"K": "${{input:key}}"}}}}}}}}'
    cursor = '{"mcpServers": {"erp": {"url": "http://x/mcp", "headers": {"Authorization": "Bearer ${env:ERP}"}}}}'
    desktop = '{"mcpServers": {"erp": {"command": "erp-server", "args": [], "env": {}}}}'
    code = '{"mcpServers": {"erp": {"type": "stdio", "command": "erp-server"}}}'
    cases = (
        (
            vscode,
            ".vscode/mcp.json",
            {"type": "http", "url": url, "headers": {"Authorization": "Bearer ${input:bailiwick-token}"}},
        ),
        (cursor, ".cursor/mcp.json", {"url": url, "headers": {"Authorization": "Bearer ${env:BAILIWICK_TOKEN}"}}),
        (code, ".mcp.json", {"type": "http", "url": url, "headers": {"Authorization": "Bearer ${BAILIWICK_TOKEN}"}}),
    )
    for index, (text, name, entry) in enumerate(cases):
        ran = run("init", tmp_path / str(index), "--from", _source(tmp_path / f"s{index}", text, name), "--json")
        client = json.loads((tmp_path / str(index) / "client.json").read_text())
        assert client["servers" if "vscode" in name else "mcpServers"] == {"erp": entry}
        assert ran.json["client"] == client
    run("init", tmp_path / "d", "--from", _source(tmp_path / "sd", desktop, "claude_desktop_config.json"))
    bridge = json.loads((tmp_path / "d" / "client.json").read_text())["mcpServers"]["erp"]
    assert bridge["command"] == "npx"
    assert bridge["args"][:3] == ["-y", "mcp-remote", url]


def test_what_a_client_asks_a_person_becomes_a_variable() -> None:
    found = adopt.adopt({"servers": {"a": {"url": "http://x/", "headers": {"K": "Bearer ${input:api-key}"}}}}, "mcp.json")
    assert found is not None
    assert found.servers[0].headers["K"] == adopt.Reference(env="API_KEY", prefix="Bearer ")
    assert found.variables == {"API_KEY"}


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"type": "sse", "url": "http://x/"}, "sse-unsupported"),
        ({"url": "http://x/sse"}, "sse-unsupported"),
        ({"type": "ws", "url": "ws://x/"}, "unknown-shape"),
        ({}, "unknown-shape"),
        ({"url": "http://x/", "command": "y"}, "unknown-shape"),
        ({"url": "file:///etc/passwd"}, "unusable-url"),
        ({"url": "http://${HOST}/"}, "unusable-url"),
        ({"url": "http://u:hunter2@x/"}, "secret-in-url"),
        ({"url": "http://x/?api_key=hunter2"}, "secret-in-url"),
        ({"command": "s", "args": ["--api-key", "hunter2"]}, "secret-in-command"),
        ({"command": "s", "args": ["--token=hunter2"]}, "secret-in-command"),
        ({"command": "s", "args": ["postgresql://u:hunter2@db/x"]}, "secret-in-command"),
        ({"command": "s", "args": ["--header", "Authorization: Bearer hunter2"]}, "secret-in-command"),
        ({"command": "s", "args": ["ghp_hunter2hunter2hunter2"]}, "secret-in-command"),
        ({"command": "s", "args": ["${workspaceFolder}"]}, "placeholder-in-command"),
        ({"command": "s", "disabled": True}, "server-disabled"),
    ],
)
def test_a_server_that_cannot_be_carried_over_is_left_out_and_said(entry: dict[str, object], code: str) -> None:
    found = adopt.adopt({"mcpServers": {"x": entry}}, "mcp.json")
    assert found is not None
    assert found.servers == []
    assert [note.code for note in found.notes] == [code]
    assert "hunter2" not in str(found.notes)


@pytest.mark.parametrize(
    "words",
    [
        ["-y", "@modelcontextprotocol/server-filesystem@2025.8.21", "/home/user1/projects/a-long-folder-name-2"],
        ["--port", "8080", "--author", "me", "--design", "x"],
        ["run", "-i", "--rm", "-e", "GITHUB_TOKEN", "ghcr.io/github/github-mcp-server"],
    ],
)
def test_an_ordinary_command_is_not_mistaken_for_a_secret(words: list[str]) -> None:
    found = adopt.adopt({"mcpServers": {"x": {"command": "npx", "args": words}}}, "mcp.json")
    assert found is not None
    assert [server.command for server in found.servers] == [("npx", *words)]


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', "[" * 100_000, '{"other": {}}', "\ufeff"])
def test_a_file_that_is_no_client_configuration_is_refused(text: str, run: Run, tmp_path: Path) -> None:
    ran = run("init", tmp_path / "gate", "--from", _source(tmp_path, text))
    assert ran.code == 1
    assert not (tmp_path / "gate").exists()


def test_half_a_surrogate_pair_is_refused_with_words(run: Run, tmp_path: Path) -> None:
    path = _source(tmp_path, '{"mcpServers": {"a\\ud800b": {"url": "http://h/"}}}')
    told = run("init", "--from", path, tmp_path / "new")
    assert told.code == 1
    assert "is no character" in told.err
    assert not (tmp_path / "new").exists()


def test_comments_inside_text_are_text(tmp_path: Path) -> None:
    path = _source(tmp_path, '{"a": "http://x/ /* no */ // no", /* yes */ "b": [1, 2, /* , */ ], } // ,}')
    assert jsonc.read(path) == {"a": "http://x/ /* no */ // no", "b": [1, 2]}


_names = st.text(min_size=1, max_size=20).filter(lambda t: t.isprintable())
_values = st.one_of(
    st.just(SECRET),
    st.just(f"Bearer {SECRET}"),
    st.just("${A}"),
    st.just(f"x {SECRET} ${{B}}"),
    st.just(f"Basic  {SECRET}"),
    st.integers(),
)
_entries = st.fixed_dictionaries(
    {},
    optional={
        "url": st.sampled_from(
            ["http://x/mcp", f"http://u:{SECRET}@x/", f"http://x/?token={SECRET}", "ftp://x/", "http://[::1/"]
        ),
        "command": st.sampled_from(["npx", "s"]),
        "args": st.lists(
            st.sampled_from(["-y", "--token", f"--token={SECRET}", f"--password={SECRET}", f"postgres://u:{SECRET}@h/d"]),
            max_size=3,
        ),
        "env": st.dictionaries(_names, _values, max_size=3),
        "headers": st.dictionaries(_names, _values, max_size=3),
        "type": st.sampled_from(["http", "sse", "stdio", "", 7]),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(servers=st.dictionaries(_names, _entries, max_size=5))
def test_no_secret_reaches_a_text_and_every_text_is_valid(tmp_path: Path, servers: dict[str, dict[str, object]]) -> None:
    adoption = adopt.adopt({"mcpServers": servers}, "mcp.json")
    assert adoption is not None
    yaml = starter.settings(adopted_text.mcp_yaml(adoption))
    client = json.dumps(adopted_text.client_json(adoption, "http://g"))
    assert SECRET not in yaml + adopted_text.tools_hints(adoption) + client + str(adoption.notes)
    path = tmp_path / "bailiwick.yaml"
    path.write_text(yaml)
    assert set(load(path, {}).mcp) == {server.slug for server in adoption.servers}
    assert len({server.slug for server in adoption.servers}) == len(adoption.servers)
    assert sorted([server.name for server in adoption.servers] + adoption.left_out) == sorted(servers)
    assert len(adoption.notes) >= len(adoption.left_out)


def test_a_name_that_is_an_id_already_is_kept_whatever_stands_before_it() -> None:
    found = adopt.adopt({"mcpServers": {"my server": {"url": "http://a/mcp"}, "my-server": {"url": "http://b/mcp"}}}, "mcp.json")
    assert found is not None
    assert {server.name: server.slug for server in found.servers} == {"my server": "my-server-2", "my-server": "my-server"}
