"""What `check` says of MCP servers that the gateway is to start: without starting any."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from sandbox.interpreter import own_uids

from .conftest import PROCUREMENT, Run


def found(run: Run, folder: Path, server: str, more: str = "") -> dict[str, str]:
    """Code → severity of what is said of this one server."""
    shutil.copytree(PROCUREMENT, folder / "policies", dirs_exist_ok=True)
    path = folder / "bailiwick.yaml"
    path.write_text(f"tenant: acme\n{more}mcp:\n  it:\n    command: [{sys.executable}, -c, pass]\n{server}")
    problems = run("check", "--config", path, "--json").json["problems"]
    return {
        each["code"]: each["severity"] for each in problems if each["code"] not in {"no-tools", "unknown-server", "unknown-agent"}
    }


def test_a_program_in_a_cage_is_no_news(run: Run, tmp_path: Path) -> None:
    assert found(run, tmp_path, "") == {}


def test_a_program_without_a_cage_is_a_warning_every_time(run: Run, tmp_path: Path) -> None:
    assert found(run, tmp_path, "    sandbox: off\n") == {"uncaged": "warning"}


def test_a_profile_that_there_is_not_is_an_error(run: Run, tmp_path: Path) -> None:
    assert found(run, tmp_path, "    sandbox: mcp-stdoi\n") == {"unknown-profile": "error"}


@pytest.mark.parametrize("server", ["    cwd: .\n", "    read: [data]\n", "    read: [data/keys]\n", "    read: [link]\n"])
def test_a_program_that_could_read_the_gateways_own_data_is_an_error(run: Run, tmp_path: Path, server: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    assert found(run, tmp_path, server)["data-in-view"] == "error"


def test_a_program_that_could_read_a_secrets_file_is_a_warning(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    secret = tmp_path / "tools" / "token"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    assert found(run, tmp_path, "    read: [tools]\n    env: {TOKEN: {file: tools/token}}\n") == {"secret-in-view": "warning"}


def test_what_would_be_fetched_and_what_could_not_be_read_are_warnings(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert found(run, tmp_path, f"  files:\n    command: [{sys.executable}, -c, pass, {tmp_path}/notes]\n") == {
        "unread-argument": "warning"
    }
    listed = f"  files:\n    command: [{sys.executable}, -c, pass, {tmp_path}/notes]\n    read: [notes]\n"
    assert found(run, tmp_path, listed) == {}
    assert found(run, tmp_path, "  files:\n    command: [npx, -y, some-server]\n") == {"unfit-program": "warning"}
    assert found(run, tmp_path, "  files:\n    command: [no-such-program]\n") == {"unfit-program": "warning"}


@pytest.mark.parametrize(
    "server",
    [
        "  x:\n    url: http://127.0.0.1:1/\n    read: [notes]\n",
        "  x:\n    url: http://127.0.0.1:1/\n    sandbox: off\n",
        "  x:\n    command: [x]\n    read: [/]\n",
        "  x:\n    command: []\n",
    ],
)
def test_settings_that_would_do_nothing_or_everything_are_refused(run: Run, tmp_path: Path, server: str) -> None:
    assert "error" in found(run, tmp_path, server).values()


@pytest.mark.parametrize(
    "server",
    [
        "    folder: per-user\n    shared: true\n",
        "    folder: per-user\n    shared: false\n",
        "    folder: per-user\n    per_session: true\n",
        "    folder: per-user\n    sandbox: off\n",
        "    shared: true\n    per_session: true\n",
        "    folder_bytes: 100000\n",
        "    env: {X: {env: X}}\n    variables: {X: y}\n",
        "    variables: {'A=B': y}\n",
        "    folder: everybody\n",
    ],
)
def test_ways_of_keeping_a_process_that_contradict_each_other_are_no_settings(run: Run, tmp_path: Path, server: str) -> None:
    (tmp_path / "bailiwick.yaml").write_text(f"tenant: acme\nmcp:\n  it:\n    command: [{sys.executable}, -c, pass]\n{server}")
    assert run("check", "--config", tmp_path / "bailiwick.yaml").code == 1
    url = "tenant: acme\nmcp:\n  it:\n    url: https://x.example/mcp\n    folder: per-user\n"
    (tmp_path / "bailiwick.yaml").write_text(url)
    assert run("check", "--config", tmp_path / "bailiwick.yaml").code == 1


def test_folders_in_a_place_that_programs_cannot_pass_through_are_an_error(run: Run, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    said = found(run, tmp_path, "    folder: per-user\n", f"sandbox: {{folders: {closed / 'folders'}}}\n")
    assert said == ({"closed-folders": "error"} if own_uids() else {})


def test_what_has_a_network_is_not_shared(run: Run, tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    shipped = (PROCUREMENT.parents[2] / "sandbox" / "profiles" / "mcp-stdio.toml").read_text()
    hosts = shipped.replace("network = false", 'network = ["api.crm.example:443"]').replace('net_none = "hard"\n', "")
    (tmp_path / "profiles" / "crm.toml").write_text(hosts)
    more = f"sandbox: {{profiles: {tmp_path / 'profiles'}}}\n"
    assert found(run, tmp_path, "    sandbox: crm\n    shared: true\n", more) == {"shared-network": "error"}
    assert found(run, tmp_path, "    sandbox: crm\n", more) == {}
