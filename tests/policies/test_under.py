"""Whether there is anything under a pattern, or of a server, to use: as if each object were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.bundle import load
from policies.engine import Engine
from policies.model import AccessRequest

PAUL = AccessRequest("user:dev/paul", (), "acme", "list", "files", 1_788_955_200_000_000, frozenset({"buyers"}))
Make = Callable[..., Engine]


@pytest.fixture
def make(write: Callable[..., Path]) -> Make:
    def build(*lines: str) -> Engine:
        rules = "".join(f"p, {line}\n" for line in lines)
        return Engine(load(write({"grants/people.csv": rules, "grants/guardrails.csv": None})))

    return build


def lists(engine: Engine, resource: str, **changes: Any) -> bool:
    return engine.decide(replace(PAUL, resource=resource, **changes)).allowed


@pytest.mark.parametrize(
    ("line", "server"),
    [
        ("role:buyer, acme, prompt:files/greet, get, allow, -, -, T-1", "files"),
        ("role:buyer, acme, prompt:files/*, get, allow, -, -, T-1", "files"),
        ("role:buyer, acme, res:files/file:///a/*, read, allow, -, -, T-1", "files"),
        ("role:buyer, acme, res:files/file:///a/b, read, allow, -, -, T-1", "files"),
        ("role:buyer, acme, res:files/*, read, allow, -, -, T-1", "files"),
        ("role:buyer, acme, erp.read, call, allow, -, -, T-1", "erp"),
    ],
)
def test_a_server_is_known_to_whom_anything_of_it_is_granted_and_to_nobody_else(make: Make, line: str, server: str) -> None:
    engine = make(line)
    assert lists(engine, server)
    assert not lists(engine, server, groups=frozenset())
    assert not lists(engine, server, tenant="other")
    assert not lists(engine, "mail")
    assert not lists(make(line.replace("allow", "deny")), server)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("res:files/*", True),
        ("res:files/file:///a/*", True),
        ("res:files/file:///a/b/*", True),
        ("res:files/file:///b/*", False),
        ("res:files/http:*", False),
        ("res:other/*", False),
        ("prompt:files/*", False),
        ("prompt:erp/*", True),
        ("files.*", False),
        ("erp.*", True),
        ("a2a:*", True),  # the directory, which everybody may ask for
        ("*", False),
        ("res:*", False),
        ("res:files/file:///a*", False),
        ("set:reading", False),
    ],
)
def test_a_pattern_is_listed_where_something_under_it_is_granted(make: Make, pattern: str, found: bool) -> None:
    engine = make(
        "role:buyer, acme, res:files/file:///a/*, read, allow, -, -, T-1",
        "role:buyer, acme, prompt:erp/one, get, allow, -, -, T-2",
        "role:buyer, acme, erp.read, call, allow, -, -, T-3",
        "role:buyer, acme, a2a:*, send, allow, -, -, T-4",
    )
    assert lists(engine, pattern) is found
    assert not engine.decide(replace(PAUL, action="read", resource=pattern)).allowed
    assert not engine.decide(replace(PAUL, action="call", resource=pattern)).allowed


def test_the_whole_chain_is_asked_of_what_lies_under_a_pattern(make: Make) -> None:
    lines = ["role:buyer, acme, res:files/*, read, allow, -, -, T-1"]
    assert not lists(make(*lines), "res:files/*", actors=("agent:helper",))
    lines.append("agent:helper, acme, res:files/file:///a/b, read, allow, -, -, T-2")
    assert lists(make(*lines), "res:files/*", actors=("agent:helper",))
    assert not lists(make(*lines), "res:files/file:///b/*", actors=("agent:helper",))


SEGMENTS = ["a", "b", "c"]
OBJECTS = [f"res:files/file:///{one}/{two}" for one in SEGMENTS for two in SEGMENTS]
PATTERNS = ["res:files/*", "res:files/file:///*", *(f"res:files/file:///{one}/*" for one in SEGMENTS)]
LINES = st.lists(st.tuples(st.sampled_from([*OBJECTS, *PATTERNS]), st.sampled_from(["allow", "allow", "deny"])), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_it_is_as_if_every_object_under_it_were_asked_for(make: Make, lines: Sequence[tuple[str, str]]) -> None:
    engine = make(*(f"role:buyer, acme, {cell}, read, {effect}, -, -, T-{n}" for n, (cell, effect) in enumerate(lines)))
    strangers = [f"res:files/file:///{one}/zzz" for one in [*SEGMENTS, "zzz"]] + ["res:files/z:z"]
    for pattern in PATTERNS:
        under = [name for name in (*OBJECTS, *strangers) if name.startswith(pattern[:-1])]
        some = any(engine.decide(replace(PAUL, action="read", resource=name)).allowed for name in under)
        assert lists(engine, pattern) is some, pattern


def test_the_lines_of_the_page_about_what_a_server_has_beside_tools_do_what_it_says(make: Make) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/how-to/policy.md").read_text()
    block = page.partition("## What a server has beside tools")[2].partition("```\n")[2].partition("```")[0]
    lines = [line.removeprefix("p, ").replace("role:procurement-manager", "role:buyer") for line in block.splitlines()]
    engine = make(*lines)

    def may(action: str, resource: str) -> bool:
        return engine.decide(replace(PAUL, action=action, resource=resource)).allowed

    assert may("read", "res:files/file:///contracts/a")
    assert may("subscribe", "res:files/file:///contracts/a")
    assert not may("read", "res:files/file:///contracts/drafts/a")
    assert not may("read", "res:files/file:///else")
    assert lists(engine, "files")
    assert lists(engine, "res:files/file:///contracts/*")
    assert not lists(engine, "res:files/file:///contracts/drafts/*")
    assert may("get", "prompt:files/summary")
    assert may("form", "elicitation:files")
    assert not may("url", "elicitation:files")
    assert may("use", "extension:files/io.modelcontextprotocol/ui")
    assert not may("use", "extension:files/io.modelcontextprotocol/tasks")
