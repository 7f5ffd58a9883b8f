"""The settings' file and the environment: what is accepted, and how each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import located_yaml
from gateway.cli.adopted_text import quoted
from gateway.configuration import MAX_BYTES, load, read
from gateway.problem import Problem, ProblemError


@pytest.fixture
def write(tmp_path: Path):
    def to_file(text: str | bytes) -> Path:
        path = tmp_path / "bailiwick.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to_file


def problems(path: Path, **environ: str) -> dict[str, Problem]:
    """By `line:column` (or the variable), so that each place stands once."""
    with pytest.raises(ProblemError) as raised:
        load(path, environ)
    return {p.location.removeprefix(f"{path}:").removeprefix("environment variable "): p for p in raised.value.problems}


def test_an_empty_file_is_all_defaults_below_its_own_folder(write, tmp_path) -> None:
    settings = load(write(""), {})
    assert settings.server.port == 8080
    assert (settings.data, settings.policies) == (tmp_path / "data", tmp_path / "policies")


def test_a_folder_in_the_settings_place_is_told_which_file_was_meant(write, tmp_path) -> None:
    assert problems(tmp_path)[str(tmp_path)].help == "`bailiwick init` writes a commented one"
    path = write("")
    assert problems(tmp_path)[str(tmp_path)].help == f"did you mean {path}?"


def test_every_mistake_is_reported_at_once_with_its_place(write) -> None:
    path = write(
        "server:\n  prot: 1\n  port: '80'\nlimits: {body_bytes: 1}\n"
        "mcp:\n  erp: {}\n  Bad: {url: http://x/}\nissuers:\n  - alias: a\n"
    )
    found = problems(path)
    assert found["2:3"].code == "unknown-key"
    assert found["2:3"].help == "did you mean 'port'?"
    assert found["3:9"].code == "wrong-type"
    assert found["4:22"].code == "invalid-value"
    assert found["6:8"].message == "mcp.erp: give exactly one of url and command"
    assert found["7:3"].code == "invalid-name"
    assert "missing" in found["9:5"].message
    assert [p.code for p in found.values()].count("unknown-key") == 1


def test_the_caret_stands_below_the_mistake(write) -> None:
    text = problems(write("server:\n  prot: 1\n"))["2:3"].render()
    assert "      prot: 1\n      ^" in text


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("a: 1\na: 2\n", "duplicate-key", "2:1"),
        ("server: {port: 1, port: 2}\n", "duplicate-key", "1:19"),
        ("server: &s {port: 1}\n", "yaml-alias", "1:9"),
        ("server: *s\n", "yaml-alias", "1:9"),
        ("server: !!python/object:os.system x\n", "yaml-tag", "1:9"),
        ("server:\n\tport: 1\n", "yaml-syntax", "2:1"),
        ("a: 1\n---\nb: 2\n", "yaml-documents", "2:1"),
        ("? {a: 1}\n: 2\n", "yaml-key", "1:3"),
        ("a: " + "[" * 60 + "]" * 60, "yaml-too-deep", "1:36"),
        ("a: \x00\n", "yaml-syntax", "1:1"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(text: str, code: str, place: str, write) -> None:
    assert problems(write(text))[place].code == code


def test_a_file_that_is_no_mapping_too_large_not_utf8_or_not_there_is_refused(write, tmp_path) -> None:
    for text in ("- 1\n", "just text", b"\xff\xfe", b"#" * (MAX_BYTES + 1)):
        with pytest.raises(ProblemError):
            load(write(text), {})
    with pytest.raises(ProblemError):
        load(tmp_path / "none.yaml", {})


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"mcp: {{erp: {{url: 'http://x/', headers: {{Authorization: Bearer {SECRET}}}}}}}",
        f"mcp:\n  erp:\n    url: http://x/\n    headers:\n      Authorization: Bearer {SECRET}\n",
        f"mcp:\n  erp:\n    command: [x]\n    env:\n      TOKEN: {SECRET}\n",
        f"mcp:\n  erp:\n    command: [x]\n    env:\n      TOKEN:\n        - {SECRET}\n",
        f"mcp:\n  erp:\n    command: [x]\n    env:\n      TOKEN: |\n        {SECRET}\n",
        f"ledger: {{key: {SECRET}}}",
        f"ledger:\n  key: {{env: A, file: b, value: {SECRET}}}",
        f"state: {{url: 'postgresql://me:{SECRET}@db/x'}}",
        f"mcp: {{erp: {{url: 'https://me:{SECRET}@erp.example/'}}}}",
        f"api_key: {SECRET}",
        f"server: {{password: {SECRET}}}",
        f"password: {SECRET}\npassword: {SECRET}",
        f"token: '{SECRET}\n",
        f"ledger: {{key: {SECRET}: }}",
        f"a: [{SECRET}",
    ],
)
def test_a_secret_in_the_file_is_refused_and_never_shown(text: str, write) -> None:
    with pytest.raises(ProblemError) as raised:
        load(write(text), {})
    assert SECRET not in str(raised.value)
    assert all(SECRET not in str(p.to_dict()) + p.text for p in raised.value.problems)


def test_an_inline_secret_is_told_how_to_become_a_reference(write) -> None:
    found = problems(write("mcp:\n  erp:\n    url: http://x/\n    headers:\n      Authorization: Bearer abc\n"))
    assert found["5:7"].code == "inline-secret"
    assert "{env: " in found["5:7"].help
    assert "{file: " in found["5:7"].help


def test_a_database_password_may_come_from_the_environment(write) -> None:
    assert load(write(""), {"BAILIWICK_STATE__URL": "postgresql://me:pw@db/x"}).state.url == "postgresql://me:pw@db/x"


def test_the_environment_overrides_the_file(write) -> None:
    path = write(
        "server: {port: 1}\nagents: {erp-integration: {url: 'http://a/'}}\n"
        "issuers: [{alias: a, issuer: i, audience: b, jwks: {file: k}}]\n"
    )
    settings = load(
        path,
        {
            "BAILIWICK_SERVER__PORT": "2",
            "BAILIWICK_SERVER__ALLOWED_HOSTS": "[a.example, b.example]",
            "BAILIWICK_AGENTS__ERP_INTEGRATION__URL": "http://b/",
            "BAILIWICK_MCP__NEW_ONE__COMMAND": "[x, y]",
            "BAILIWICK_ISSUERS__0__AUDIENCE": "c",
            "BAILIWICK_DEBUG": "1",
            "PATH": "/bin",
        },
    )
    assert settings.server.port == 2
    assert settings.server.allowed_hosts == ("a.example", "b.example")
    assert str(settings.agents["erp-integration"].url) == "http://b/"
    assert settings.mcp["new-one"].command == ("x", "y")
    assert settings.issuers[0].audience == "c"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("BAILIWICK_SERVER__PROT", "1", "unknown-variable"),
        ("BAILIWICK_SERVER_PORT", "1", "unknown-variable"),
        ("BAILIWICK_PORT", "1", "unknown-variable"),
        ("BAILIWICK_", "1", "unknown-variable"),
        ("BAILIWICK_ISSUERS__7__AUDIENCE", "1", "unknown-variable"),
        ("BAILIWICK_SERVER__PORT", "eighty", "wrong-type"),
        ("BAILIWICK_SERVER__PORT", "70000", "invalid-value"),
        ("BAILIWICK_SERVER__HOST", "&a x", "yaml-syntax"),
        ("BAILIWICK_SERVER__PORT__DEEPER", "1", "unknown-variable"),
    ],
)
def test_a_variable_that_says_nothing_sensible_is_refused(name: str, value: str, code: str, write) -> None:
    found = problems(write("server:\n  host: 127.0.0.1\n"), **{name: value})
    assert found[name].code == code


def test_a_misspelt_variable_is_offered_the_right_one(write) -> None:
    assert "BAILIWICK_SERVER__PORT" in problems(write(""), BAILIWICK_SERVER__PROT="1")["BAILIWICK_SERVER__PROT"].help


def test_a_variable_that_the_file_refers_to_may_have_any_name(write) -> None:
    path = write("ledger: {key: {env: BAILIWICK_MY_KEY}}\n")
    key = load(path, {"BAILIWICK_MY_KEY": "x"}).ledger.key
    assert key is not None
    assert key.env == "BAILIWICK_MY_KEY"


def test_a_variable_cannot_put_a_secret_where_a_reference_belongs(write) -> None:
    found = problems(write(""), BAILIWICK_LEDGER__KEY=SECRET)
    assert found["BAILIWICK_LEDGER__KEY"].code == "inline-secret"
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            "server: {host: 0.0.0.0}\nissuers: [{alias: d, issuer: i, audience: a, jwks: {file: k}, development: true}]",
            "development-issuer",
        ),
        (
            "issuers: [{alias: d, issuer: i, audience: a, jwks: {file: k}}, {alias: d, issuer: j, audience: a, jwks: {file: k}}]",
            "duplicate-issuer",
        ),
        (
            "issuers: [{alias: d, issuer: i, audience: a, jwks: {file: k}}, {alias: e, issuer: i, audience: a, jwks: {file: k}}]",
            "duplicate-issuer",
        ),
        ("agents: {a: {client_ids: [x]}, b: {client_ids: [x]}}", "duplicate-client"),
        ("sandbox: {enabled: true}\nmcp: {sandbox: {url: 'http://x/'}}", "reserved-name"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(text: str, code: str, write) -> None:
    assert code in {p.code for p in problems(write(text)).values()}


def test_a_development_issuer_serves_loopback_addresses(write) -> None:
    for host in ("127.0.0.1", "'::1'", "localhost"):
        text = f"server: {{host: {host}}}\nissuers: [{{alias: d, issuer: i, audience: a, jwks: {{file: k}}, development: true}}]"
        assert load(write(text), {}).issuers[0].development


def test_a_later_check_can_point_at_the_place_of_a_setting(write) -> None:
    path = write("mcp:\n  erp:\n    url: http://x/\n")
    problem = read(path, {}).problem("x", "y", ("mcp", "erp"))
    assert problem.location == f"{path}:2:3"


@given(st.text(max_size=60))
def test_quoted_text_is_read_back_as_it_was(text: str) -> None:
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        return  # not text that a file could hold
    document = located_yaml.parse(f"{quoted('k' + text)}: {quoted(text)}\n")
    assert document.faults == []
    assert document.value == {"k" + text: text}


@given(st.text(alphabet="abc:{}[],-&*!|>'\"%@#?\n\t 0123", max_size=80))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    document = located_yaml.parse(text)
    assert document.faults or document.value is not None


def test_numbers_are_numbers_and_their_impostors_are_text() -> None:
    for text, value in (
        ("10", 10),
        ("-1.5", -1.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
    ):
        assert located_yaml.scalar(text) == value
    assert [located_yaml.scalar(text) for text in ("yes", "no", "on", "true", "~", "null")] == [
        "yes",
        "no",
        "on",
        True,
        None,
        None,
    ]
