"""What is governed has one table, one form for each name, and the documentation shows that table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from policies import names, uri
from policies.bundle import load
from policies.engine import Engine
from policies.finding import Finding
from policies.model import AccessRequest, Reason

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/names.md"
ASKED = {"chain": "the chain", "acting": "the acting principal"}
Find = Callable[[dict[str, str | bytes | None]], tuple[Finding, ...]]
PAUL = AccessRequest("user:dev/paul", (), "acme", "call", "erp.read", 1_788_955_200_000_000, frozenset({"buyers"}))


def line(tool: str, action: str, **cells: str) -> dict[str, str | bytes | None]:
    row = {"who": "role:buyer", "tenant": "acme", "effect": "allow", "when": "-", "must": "-", "id": "T-1"} | cells
    text = ", ".join([row["who"], row["tenant"], tool, action, row["effect"], row["when"], row["must"], row["id"]])
    return {"grants/people.csv": f"p, {text}\n"}


def test_the_documentation_shows_the_table_of_the_code_both_ways() -> None:
    shown = {
        tuple(cell.strip() for cell in found.strip("|\n").split("|"))
        for found in re.findall(r"^\|(?: [^|]+\|){6}$", PAGE.read_text(), re.MULTILINE)
        if not found.startswith(("| kind |", "|---"))
    }
    said = {
        (k.name, k.written, ", ".join(k.patterns) or "–", f"`{action}`", "not yet" if k.instead else ASKED[k.asks], operations)
        for k in names.KINDS
        for action, operations in k.actions.items()
    }
    assert shown == said
    assert len(shown) > 15
    assert all(f"`{word}`" in PAGE.read_text() for word in (*names.AREAS, *names.SCREENS))


OBJECTS = {
    "tool": "erp.read",
    "resource": "res:files/file:///data/report.txt",
    "prompt": "prompt:erp/order-summary",
    "extension": "extension:erp/io.modelcontextprotocol/ui",
    "sampling": "sampling:erp",
    "elicitation": "elicitation:erp",
    "roots": "roots:erp",
    "task": "task:erp",
    "agent": "a2a:helper",
    "skill": "skill:helper/pay",
    "profile": "profile:analysis",
    "host": "host:api.example.com:443",
    "approval": "approval:erp.read",
    "administration": "admin:policy",
    "console": "console:calls",
    "audit": "audit:ledger",
}


@pytest.mark.parametrize("kind", [k for k in names.KINDS if k.ruled and not k.instead], ids=lambda k: k.name)
def test_a_right_to_each_action_of_each_kind_is_granted_by_a_line_that_names_it_and_by_no_other(
    write: Any, kind: names.Kind
) -> None:
    name = OBJECTS[kind.name]
    for action in kind.actions:
        engine = Engine(load(write(line(name, action))))
        assert engine.decide(replace(PAUL, action=action, resource=name)).allowed
        for other in names.ACTIONS:
            decision = engine.decide(replace(PAUL, action=other, resource=name))
            assert decision.allowed == (other == action)
            assert other in kind.actions or decision.reason is Reason.UNKNOWN_RESOURCE
        assert not engine.decide(replace(PAUL, action=action, resource=name, actors=("agent:helper",))).allowed


@pytest.mark.parametrize("kind", [k for k in names.KINDS if k.ruled and not k.instead], ids=lambda k: k.name)
def test_every_kind_has_patterns_with_a_star_at_the_end(write: Any, kind: names.Kind) -> None:
    pattern = {
        "tool": "erp.*",
        "resource": "res:files/file:///data/*",
        "prompt": "prompt:erp/*",
        "skill": "skill:helper/*",
        "extension": "extension:erp/*",
    }.get(kind.name, kind.prefix + "*")
    action = next(iter(kind.actions))
    engine = Engine(load(write(line(pattern, action))))
    assert engine.decide(replace(PAUL, action=action, resource=OBJECTS[kind.name])).allowed


def test_only_a_right_to_call_or_to_send_includes_the_right_to_relay(write: Any) -> None:
    for kind in (k for k in names.KINDS if k.ruled and not k.instead):
        for action in kind.actions:
            lines = [f"p, {who}, acme, {OBJECTS[kind.name]}, {action}, allow, -, -, T-{n}" for n, who in enumerate(
                ("role:buyer", "agent:helper", "agent:last"))]  # fmt: skip
            engine = Engine(load(write({"grants/people.csv": "\n".join(lines)})))
            request = replace(PAUL, action=action, resource=OBJECTS[kind.name], actors=("agent:helper", "agent:last"))
            assert engine.decide(request).allowed == (action in ("call", "send"))
            lines.append(f"p, agent:helper, acme, {OBJECTS[kind.name]}, relay, allow, -, -, T-9")
            assert Engine(load(write({"grants/people.csv": "\n".join(lines)}))).decide(request).allowed


@pytest.mark.parametrize(
    ("tool", "action", "code", "help_"),
    [
        ("rse:files/file:///a", "read", "unknown-object", "did you mean 'res:'?"),
        ("nothing:x", "read", "unknown-object", "known are res:"),
        ("res:files/FILE:///a", "read", "odd-tool", "write 'res:files/file:///a'"),
        ("res:web/http://h:80/%7Ex", "read", "odd-tool", "write 'res:web/http://h/~x'"),
        ("res:files/file:///a/../b", "read", "odd-tool", "write res:<server>/<uri>"),
        ("res:files/file:///data*", "read", "odd-tool", "beginning of a uri"),
        ("res:*", "read", "odd-tool", ""),
        ("res:files/file:///a", "call", "unknown-action", "write 'read' or write 'subscribe'"),
        ("res:files/file:///a", "rea", "unknown-action", "did you mean 'read'?"),
        ("prompt:erp", "get", "odd-tool", "prompt:<server>/<name>"),
        ("sampling:Erp", "create", "odd-tool", "sampling:<server>"),
        ("admin:polcy", "read", "odd-tool", "admin:<area>"),
        ("audit:everything", "read", "odd-tool", "audit:<log>"),
        ("a2a-task:helper", "read", "unknown-object", "write 'send' on a2a:<agent>"),
        ("profile:strict", "call", "unknown-action", "write 'use'"),
        ("host:api.example.com", "connect", "odd-tool", "host:<name>:<port>"),
        ("host:*.example.com:443", "connect", "odd-tool", "host:<name>:*"),
        ("host:10.0.0.1:443", "connect", "odd-tool", "host:<name>:<port>"),
        ("erp", "list", "unknown-tool", ""),
    ],
)
def test_an_object_or_action_that_is_not_in_the_table_is_a_finding_at_its_cell(
    findings: Find, tool: str, action: str, code: str, help_: str
) -> None:
    (found,) = [f for f in findings(line(tool, action)) if f.code == code]
    assert help_ in found.help
    assert (found.file, found.line) == ("grants/people.csv", 1)
    assert found.text[found.column - 1 :].startswith(action if code == "unknown-action" else tool)


def test_a_condition_on_arguments_fits_tools_alone(findings: Find) -> None:
    for tool, action in (("res:files/file:///a", "read"), ("admin:policy", "read"), ("prompt:erp/x", "get")):
        assert "unknown-argument" in {f.code for f in findings(line(tool, action, when="small"))}


@pytest.mark.parametrize(
    "name",
    [
        "res:files/FILE:///data/report.txt", "res:files/file:///data/./report.txt", "res:files/file:///data/%72eport.txt",
        "res:files/file:///data/../data/report.txt", "res:files/file:///data//report.txt", "res:files/file:///data/report.txt#x",
        "res:files/file://localhost/data/report.txt", "res:files/file:///data/report.txt\n", "res:Files/file:///data/report.txt",
        "res:files", "res:files/", "res:files/*", "res:", "a2a-task:helper", "admin:*", "admin:Policy", "audit:ledger ",
        "console:", "set:reading", "prompt:erp/a b",
        "host:API.example.com:443", "host:api.example.com.:443", "host:api.example.com:0443",
        "host:api.example.com:65536", "host:api.example.com:", "host:127.0.0.1:443", "host:0x7f.0x1:443", "host:[::1]:443",
        "host:api..example.com:443", "host:-a.example.com:443", "host:" + "a" * 64 + ".example.com:443",
        "host:ａpi.example.com:443",
        "host:a_b.example.com:443",
        "x" * 2000, "res:files/file:///" + "a" * 2000,
    ],
)  # fmt: skip
def test_an_object_that_is_not_in_its_one_form_is_unknown_to_the_engine(write: Any, name: str) -> None:
    lines = "\n".join(
        f"p, *, *, {pattern}, *, allow, -, -, T-{n}"
        for n, pattern in enumerate(
            ("res:files/*", "admin:*", "audit:*", "console:*", "a2a:*", "prompt:erp/*", "erp.*", "host:*")
        )
    )
    engine = Engine(load(write({"grants/people.csv": lines})))
    assert engine.decide(replace(PAUL, action="read", resource="res:files/file:///data/report.txt")).allowed
    for action in ("read", "get", "send", "call"):
        decision = engine.decide(replace(PAUL, action=action, resource=name))
        assert (decision.reason, decision.visible) == (Reason.UNKNOWN_RESOURCE, False)


# --- one form for each URI

FORMS = [
    ("HTTP://Example.COM:80/a", "http://example.com/a"),
    ("https://example.com:443", "https://example.com/"),
    ("https://example.com:8443/x?q=1", "https://example.com:8443/x?q=1"),
    ("http://example.com/%7ea/%c3%a9", "http://example.com/~a/%C3%A9"),
    ("http://example.com/é(1)", "http://example.com/%C3%A9%281%29"),
    ("file:///a/b.txt", "file:///a/b.txt"),
    ("memo://insights", "memo://insights"),
    ("urn:isbn:1", "urn:isbn:1"),
]
FORMLESS = [
    "", "x", "/a", "a b:c", "http:", "http://", "http:a", "file:a", "file://host/a", "file://localhost/a", "http://h/a#f", "http://h/a#",
    "http://u@h/", "http://u:p@h/", "http://h/../x", "http://h/a/./b", "http://h/%2e%2e/x", "http://h/.%2E/x", "http://h/...",
    "http://h//x", "http://h/a//b", "http://h/a%2Fb", "http://h/a%5cb", "http://h/a\\b", "http://h/a%252e", "http://h/%C0%AE",
    "http://h/%", "http://h/%4", "http://h/%00", "http://h/a\n", "http://h/a b", "http://h:/x", "http://h:080/x", "http://h:99999/x",
    "http://h./x", "http://0x7f.1/", "http://2130706433/", "http://[::1]/", "http://h?x", "http://h/x?", "http://h/\u202ex", "http://ex\u0430mple.com/",
    "http://h/" + "a" * 1000, "http://h/%28", "http://h/%2c",
]  # fmt: skip


@pytest.mark.parametrize(("address", "form"), FORMS)
def test_an_address_has_one_form(address: str, form: str) -> None:
    assert uri.canonical(address) == form
    assert uri.is_canonical(form)
    assert names.kind_of(f"res:web/{form}") is not None


@pytest.mark.parametrize("address", FORMLESS)
def test_an_address_that_two_readers_could_read_differently_has_no_form(address: str) -> None:
    assert uri.canonical(address) is None
    form_itself = uri.is_canonical(address)  # as rules write it, and as servers list it that escape what need not be
    assert names.resource("web", address) == (f"res:web/{address}" if form_itself else None)


PIECES = st.sampled_from(["http", "file", "memo", "urn", ":", "/", "//", "///", "h", "H", ".", "..",
                          "%2e", "%2F", "%41", "%28", "(", ",",
                          "é", "%C3%A9", "80", "@", "?", "#", "*", " ", "\\", "a", "-", "_", "%", "[", "]", "'"])  # fmt: skip


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20).map("http://h/".__add__) | st.text(max_size=30))
def test_any_text_has_no_form_or_one_that_is_its_own_and_a_plain_word(address: str) -> None:
    form = uri.canonical(address)
    if form is None:
        return
    assert uri.is_canonical(form)
    assert not re.search(r"[\s,()'\"*#\\\x00-\x1f\x7f-\uffff]", form)
    assert ".." not in form.split("/")
    assert names.kind_of_cell(f"res:web/{form}") is names.kind_of(f"res:web/{form}")


def test_addresses_that_differ_in_more_than_spelling_have_different_forms() -> None:
    pool = ["http://h/a", "http://h/a/", "http://h/A", "http://h/a?b", "http://h:81/a", "https://h/a", "http://h/a%20", "http://h/a+",
            "http://h/a;x", "http://h/a,x", "http://h/a%3Bx", "http://h/a%3Fx", "memo://h/a", "file:///h/a"]  # fmt: skip
    forms = [uri.canonical(address) for address in pool]
    assert None not in forms
    assert len(set(forms)) == len(pool)


def test_a_star_stands_only_where_names_cannot_begin_alike() -> None:
    good = ["file:///", "file:///a/", "http://h/", "urn:isbn:", "https:", "memo://a/"]
    bad = ["file:///a", "http://h", "http://h:", "http://H/", "http://h/../", "http://h/a//", "", "/", "x", "http://h/%2e/"]
    assert [uri.prefix(text) for text in (*good, *bad)] == [True] * len(good) + [False] * len(bad)
