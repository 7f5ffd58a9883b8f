"""What the settings may say of upstreams' credentials, and secrets that change while the gateway serves."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.cli.check import findings
from gateway.configuration import load
from gateway.identity.commands import printed
from gateway.identity.followed import AGAIN_SECONDS, Followed
from gateway.identity.keyfiles import resolve
from gateway.problem import ProblemError
from gateway.settings import Credentials, Secret
from gateway.upstream.credentials import token_line

ENDPOINT = {"url": "https://idp.example/token", "client": {"id": "bailiwick"}}
BASE = "tenant: acme\nissuers:\n  - {alias: idp, issuer: 'https://idp.example', audience: gw}\n"
SECOND_ISSUER = "  - {alias: other, issuer: 'https://other.example', audience: gw}\n"
EXCHANGE = "{strategy: token_exchange, endpoint: {url: 'https://i/', client: {id: c}}}"


@pytest.mark.parametrize(
    "said",
    [
        {"strategy": "txn_token", "header": "authorization"},
        {"strategy": "txn_token", "lifetime_seconds": 31},
        {"strategy": "txn_token", "secret": {"env": "X"}},
        {"strategy": "static_secret"},
        {"strategy": "none", "header": "X-Key"},
        {"strategy": "token_exchange"},
        {"strategy": "token_exchange", "endpoint": ENDPOINT, "redeem": ENDPOINT},
        {"strategy": "id_jag", "endpoint": ENDPOINT, "redeem": ENDPOINT},
        {"strategy": "client_credentials", "endpoint": {**ENDPOINT, "url": "http://idp.example/token"}},
        {"strategy": "client_credentials", "endpoint": ENDPOINT, "scope": ["two words"]},
        {"strategy": "client_credentials", "endpoint": ENDPOINT, "resource": "line\nbreak"},
        {"strategy": "magic"},
    ],
)
def test_what_a_strategy_lacks_or_does_not_read_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Credentials.model_validate(said)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mcp:\n  erp: {command: [x], credentials: {strategy: txn_token}}\n", "a child process is sent no headers"),
        ("agents:\n  a: {credentials: {strategy: txn_token}}\n", "never called"),
        ("mcp:\n  erp: {url: 'https://e', headers: {X: {env: X}}, credentials: {strategy: none}}\n", "nothing is shown"),
        ("mcp:\n  erp: {url: 'https://e', credentials: {strategy: txn_token, header: Mcp-Session-Id}}\n", "gateway itself"),
        ("mcp:\n  erp: {url: 'https://e', credentials: {strategy: txn_token, header: Transfer-Encoding}}\n", "gateway itself"),
        (
            "mcp:\n  erp: {url: 'https://e', headers: {txn-token: {env: X}}, credentials: {strategy: txn_token}}\n",
            "stands among headers too",
        ),
        (
            "agents:\n  a: {url: 'https://a', credentials: {strategy: static_secret, secret: {env: X}}}\n",
            "the delegation token stands in authorization too",
        ),
        (
            SECOND_ISSUER + "mcp:\n  erp: {url: 'https://e', credentials: " + EXCHANGE + "}\n",
            "whose people's tokens",
        ),
    ],
)
def test_what_the_settings_around_a_strategy_contradict_is_told_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "bailiwick.yaml"
    file.write_text(BASE + text)
    with pytest.raises(ProblemError) as raised:
        load(file, {})
    (problem,) = raised.value.problems
    assert why in problem.message
    assert problem.location.startswith(f"{file}:")
    assert problem.help


def test_a_secret_in_the_place_of_its_reference_is_refused_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "bailiwick.yaml"
    file.write_text(BASE + "mcp:\n  erp: {url: 'https://e', credentials: {strategy: static_secret, secret: hunter2}}\n")
    with pytest.raises(ProblemError) as raised:
        load(file, {})
    assert "inline-secret" in {problem.code for problem in raised.value.problems}
    assert "hunter2" not in "".join(problem.render() for problem in raised.value.problems)


def test_bearer_stands_before_a_token_in_authorization_alone() -> None:
    assert token_line("Authorization", "t") == (b"authorization", b"Bearer t")
    assert token_line("X-Token", "t") == (b"x-token", b"t")


def _command(program: str) -> Secret:
    return Secret(command=(sys.executable, "-c", program))


def test_a_command_prints_a_secret_and_sees_hardly_any_environment() -> None:
    environ = {"PATH": os.environ["PATH"], "OTHER_SECRET": "leak", "LD_PRELOAD": "", "HOME": "/nowhere"}
    printed = resolve(_command("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"), environ)
    assert printed == "['HOME', 'PATH']"


def test_no_shell_reads_a_command(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    secret = Secret(command=(sys.executable, "-c", "import sys; print(sys.argv[1])", f"$(touch {witness})`touch {witness}`; x"))
    assert resolve(secret, {}) == f"$(touch {witness})`touch {witness}`; x"
    assert not witness.exists()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise SystemExit(3)", "status 3"),
        ("print('x' * 70_000)", "more than a secret is long"),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", "not text"),
        ("pass", "not set or empty"),
    ],
)
def test_a_command_that_fails_or_says_too_much_gives_no_secret(program: str, why: str) -> None:
    with pytest.raises(ProblemError) as raised:
        resolve(_command(program), {})
    (problem,) = raised.value.problems
    assert why in problem.message
    assert program not in problem.render()  # an argument could be a secret


def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(ProblemError, match="cannot be run"):
        resolve(Secret(command=("/nowhere/at-all",)), {})


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = f"import os, signal; open({str(pid)!r}, 'w').write(str(os.getpid())); signal.pause()"
    with pytest.raises(ProblemError, match="too long"):
        printed((sys.executable, "-c", program), {}, seconds=1.0)
    if pid.exists():  # on a slow machine it may not have come so far
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


class _Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_file_is_followed_through_symbolic_links_as_mounted_secrets_change(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "secret").write_text(version)
        (tmp_path / version / "secret").chmod(0o640)
    data = tmp_path / "..data"
    data.symlink_to("one")
    followed = Followed(Secret(file=data / "secret"), {})
    assert await followed.value() == "one"
    aside = tmp_path / "..new"
    aside.symlink_to("two")
    aside.replace(data)
    assert await followed.value() == "two"
    data.unlink()
    with pytest.raises(ProblemError):
        await followed.value()


async def test_a_command_is_run_again_when_its_secret_is_refused_but_not_over_and_over(tmp_path: Path) -> None:
    file, time = tmp_path / "runs", _Time()
    file.write_text("")
    program = f"f = open({str(file)!r}, 'a+'); f.write('x'); f.seek(0); print(len(f.read()))"
    followed = Followed(_command(program), {}, monotonic=time)
    assert await followed.value() == "1"
    assert await followed.refused("1") is False  # it was run a moment ago
    time.now += AGAIN_SECONDS
    assert await followed.refused("1") is True
    assert await followed.value() == "2"
    time.now += AGAIN_SECONDS
    assert await followed.refused("1") is True  # somebody else's news: there is another one already
    assert file.read_text() == "xx"


TOOLS = "tenants: [acme]\ntools:\n  erp.pay: {args: {}, labels: [writes:finance], risk: high}\n"


@pytest.mark.parametrize(
    ("credentials", "warned"),
    [
        ("credentials: {strategy: static_secret, secret: {command: [sh]}}", True),
        ("credentials: {strategy: client_credentials, endpoint: {url: 'https://i/', client: {id: c}}}", True),
        ("headers: {X-Key: {command: [sh]}}", True),
        ("headers: {X-Key: {command: [sh]}}, credentials: {strategy: txn_token}", False),
        ("credentials: {strategy: txn_token}", False),
    ],
)
def test_check_warns_of_a_tool_that_writes_behind_a_credential_that_is_everybodys(
    tmp_path: Path, credentials: str, warned: bool
) -> None:
    root = Path(__file__).resolve().parents[2]
    policies = tmp_path / "policies"
    (policies / "grants").mkdir(parents=True)
    (policies / "model.conf").write_text((root / "policies/default/model.conf").read_text())
    (policies / "grants" / "all.csv").write_text("p, role:payer, acme, erp.pay, call, allow, -, -, PAY-1\n")
    (policies / "roles.csv").write_text("g, idp:payers, role:payer, acme\n")
    for name, text in {"tools.yaml": TOOLS, "conditions.yaml": "{}\n", "obligations.yaml": "{}\n"}.items():
        (policies / name).write_text(text)
    file = tmp_path / "bailiwick.yaml"
    file.write_text(f"{BASE}policy: {{require_tests: false}}\nmcp:\n  erp: {{url: 'https://e', {credentials}}}\n")
    found = [each for each in findings(file, os.environ) if each.problem.code == "shared-credential"]
    assert [each.severity for each in found] == (["warning"] if warned else [])


def test_check_tells_of_a_secrets_program_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "bailiwick.yaml"
    file.write_text(BASE + "mcp:\n  erp: {url: 'https://e', headers: {X-Key: {command: [/nowhere/at-all, hunter2]}}}\n")
    found = [each.problem for each in findings(file, {}) if each.problem.code == "unresolved-secret"]
    assert [problem.message for problem in found] == ["there is no program /nowhere/at-all"]
    assert "hunter2" not in "".join(problem.render() for problem in found)
