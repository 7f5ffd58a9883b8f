"""Conditions are total and three-valued, mean what they say on well-typed values, and cannot be talked into anything else."""

from __future__ import annotations

import copy
import random
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.expression import ExpressionError, parse
from policies.model import Source
from policies.registry import ToolSpec
from policies.values import UNKNOWN, Facts

TYPES = {
    "amount": "number", "count": "integer", "currency": "string", "path": "string", "url": "string", "ip": "string",
    "network": "boolean", "tags": "array", "filter": "object",
}  # fmt: skip
AT = 1_788_955_200_000_000  # Wednesday 2026-09-09T12:00:00Z
YES, NO = True, False


def ask(text: str, arguments: dict[str, object] | None = None, **changes: Any) -> object:
    fields: dict[str, Any] = {
        "arguments": {} if arguments is None else arguments,
        "types": TYPES,
        "subject": "user:dev/paul",
        "groups": frozenset({"buyers"}),
        "context": {"agent": {"assurance": "pop"}, "ctx": {"protocol": "mcp", "risk": 3}},
        "at": AT,
        "tool": ToolSpec("erp.write_po", "erp", {}, ("writes:finance",), "high", frozenset({"acme"}), Source("tools.yaml", 3)),
    }
    return parse(text, TYPES)(Facts(**(fields | changes)))


SAYS: list[tuple[str, dict[str, object], object]] = [
    ("args.amount <= 250000", {"amount": 250000}, YES),
    ("args.amount <= 250000", {"amount": 250001}, NO),
    ("args.amount <= 0.3", {"amount": Decimal("0.30")}, YES),
    ("args.amount <= 0.3", {"amount": Decimal("0.30000000000000000000000000001")}, NO),
    ("args.amount == 9007199254740993", {"amount": 9007199254740992}, NO),
    ("args.amount > -5", {"amount": -4}, YES),
    ("args.count == 3", {"count": 3}, YES),
    ("args.count == 3", {"count": Decimal(3)}, UNKNOWN),
    # what is no number is unknown
    ("args.amount > 10000", {"amount": "500"}, UNKNOWN),
    ("args.amount > 10000", {"amount": Decimal("NaN")}, UNKNOWN),
    ("args.amount > 10000", {"amount": Decimal("Infinity")}, UNKNOWN),
    ("args.amount > 10000", {"amount": float("nan")}, UNKNOWN),
    ("args.amount > 10000", {"amount": 20000.0}, UNKNOWN),
    ("args.amount == 1", {"amount": True}, UNKNOWN),
    ("args.amount > 0", {"amount": [1]}, UNKNOWN),
    ("args.amount > 0", {"amount": None}, UNKNOWN),
    ("args.amount > 0", {}, UNKNOWN),
    ("args.amount > 0", {"amount": 10**400}, UNKNOWN),
    ("args.network == False", {"network": 0}, UNKNOWN),
    ("args.network == False", {"network": "false"}, UNKNOWN),
    ("args.network == false", {"network": False}, YES),
    ("not args.network", {"network": True}, NO),
    ("not args.network", {}, UNKNOWN),
    # Kleene
    ("args.amount > 0 and args.network", {"network": False}, NO),
    ("args.amount > 0 and args.network", {"network": True}, UNKNOWN),
    ("args.amount > 0 or args.network", {"network": True}, YES),
    ("args.amount > 0 or args.network", {"network": False}, UNKNOWN),
    ("not (args.amount > 0 and args.network)", {"network": False}, YES),
    # lists and texts
    ('args.currency in ["EUR", "USD"]', {"currency": "EUR"}, YES),
    ('args.currency in ["EUR", "USD"]', {"currency": "eur"}, NO),
    ('args.currency in ["EUR", "USD"]', {"currency": ["EUR"]}, UNKNOWN),
    ('args.currency not in ["EUR"]', {"currency": "USD"}, YES),
    ('lower(args.currency) == "eur"', {"currency": "EuR"}, YES),
    ('args.currency != "EUR"', {"currency": "EUR"}, NO),
    ("args.amount in [1, 2.5]", {"amount": Decimal("2.5")}, YES),
    ("args.amount in []", {"amount": 1}, NO),
    ('"a" in args.tags', {"tags": ["b", "a"]}, YES),
    ('"a" in args.tags', {"tags": ["b", 1]}, UNKNOWN),
    ('"a" in args.tags', {"tags": "a"}, UNKNOWN),
    ("len(args.tags) <= 2", {"tags": [1, 2, 3]}, NO),
    ("len(args.currency) == 3", {"currency": "EUR"}, YES),
    ("len(args.currency) == 3", {"currency": ["E", "U", "R"]}, UNKNOWN),
    ('args.filter.country == "DE"', {"filter": {"country": "DE"}}, YES),
    ('args.filter.country == "DE"', {"filter": {"country": None}}, UNKNOWN),
    ('args.filter.a.b == "DE"', {"filter": {"a": "DE"}}, UNKNOWN),
    ("has(args.amount)", {"amount": 1}, YES),
    ("has(args.amount)", {}, NO),
    ("has(args.amount)", {"amount": None}, UNKNOWN),
    ("has(args.amount)", {"amount": "1"}, UNKNOWN),
    # who, what else, when
    ('user.id == "user:dev/paul"', {}, YES),
    ('"buyers" in user.groups and not ("bosses" in user.groups)', {}, YES),
    ("len(user.groups) == 1", {}, YES),
    ('agent.assurance == "pop"', {}, YES),
    ('agent.name == "x"', {}, UNKNOWN),
    ('ctx.protocol == "mcp" and ctx.risk < 4', {}, YES),
    ('ctx.risk == "3"', {}, UNKNOWN),
    ("time.hour == 12 and time.weekday == 3", {}, YES),
    ('time.now < date("2026-12-01T00:00:00+00:00")', {}, YES),
    ('time.now < date("2026-09-09T13:00:00+02:00")', {}, NO),
    ('time.now >= date("2026-09-09")', {}, YES),
    # paths
    ('under(args.path, "/data/contracts")', {"path": "/data/contracts/a.txt"}, YES),
    ('under(args.path, "/data/contracts")', {"path": "/data//./contracts"}, YES),
    ('under(args.path, "/data/contracts")', {"path": "/data/contracts2/a.txt"}, NO),
    ('under(args.path, "/data/contracts")', {"path": "/data/contracts/../secret"}, UNKNOWN),
    ('under(args.path, "/data/contracts")', {"path": "/data/contracts/.. /secret"}, UNKNOWN),
    ('under(args.path, "/data/contracts")', {"path": "/data/contracts/%2e%2e/secret"}, UNKNOWN),
    ('under(args.path, "/data/contracts")', {"path": "/data/contracts/..\\secret"}, UNKNOWN),
    ('under(args.path, "/data/contracts")', {"path": "/data/contracts/\x00"}, UNKNOWN),
    ('under(args.path, "/data/contracts")', {"path": "data/contracts/a"}, UNKNOWN),
    ('under(args.path, "/data/contracts")', {"path": "~/data"}, UNKNOWN),
    ('under(args.path, "/data/contracts")', {"path": "file:///data/contracts"}, UNKNOWN),
    ('under(args.path, "/data/contracts")', {"path": ""}, UNKNOWN),
    ('under(args.path, "/")', {"path": "/anything"}, YES),
    ('under(args.path, "reports")', {"path": "reports/q3"}, YES),
    # hosts
    ('host_in(args.url, ["example.com"])', {"url": "https://example.com/x"}, YES),
    ('host_in(args.url, ["example.com"])', {"url": "https://EXAMPLE.com:8443"}, YES),
    ('host_in(args.url, ["example.com"])', {"url": "example.com"}, YES),
    ('host_in(args.url, ["example.com"])', {"url": "https://example.com.evil.net"}, NO),
    ('host_in(args.url, ["example.com"])', {"url": "https://example.com@evil.net/"}, UNKNOWN),
    ('host_in(args.url, ["example.com"])', {"url": "https://evil.net\\@example.com/"}, UNKNOWN),
    ('host_in(args.url, ["example.com"])', {"url": "https://evil.net#@example.com/"}, UNKNOWN),
    ('host_in(args.url, ["example.com"])', {"url": "https://example.com./"}, UNKNOWN),
    ('host_in(args.url, ["example.com"])', {"url": "https://exam\tple.com/"}, UNKNOWN),
    ('host_in(args.url, ["example.com"])', {"url": "https://ex\u00e4mple.com/"}, UNKNOWN),
    ('host_in(args.url, ["example.com"])', {"url": "//example.com/"}, UNKNOWN),
    ('host_in(args.url, ["example.com"])', {"url": "ftp://example.com/"}, UNKNOWN),
    ('host_in(args.url, ["127.0.0.1"])', {"url": "http://127.0.0.1/"}, YES),
    ('host_in(args.url, ["127.0.0.1"])', {"url": "http://2130706433/"}, UNKNOWN),
    ('host_in(args.url, ["127.0.0.1"])', {"url": "http://0x7f.1/"}, UNKNOWN),
    ('host_in(args.url, ["127.0.0.1"])', {"url": "http://127.1/"}, UNKNOWN),
    ('host_in(args.url, ["*.example.com"])', {"url": "https://a.b.example.com"}, YES),
    ('host_in(args.url, ["*.example.com"])', {"url": "https://example.com"}, NO),
    ('host_in(args.url, ["*.example.com"])', {"url": "https://notexample.com"}, NO),
    # addresses
    ('ip_in(args.ip, ["10.0.0.0/8"])', {"ip": "10.1.2.3"}, YES),
    ('ip_in(args.ip, ["10.0.0.0/8"])', {"ip": "::ffff:10.1.2.3"}, YES),
    ('ip_in(args.ip, ["10.0.0.0/8"])', {"ip": "11.0.0.1"}, NO),
    ('ip_in(args.ip, ["10.0.0.0/8"])', {"ip": "010.0.0.1"}, UNKNOWN),
    ('ip_in(args.ip, ["10.0.0.0/8"])', {"ip": "10.1"}, UNKNOWN),
    ('ip_in(args.ip, ["fe80::/10"])', {"ip": "fe80::1%eth0"}, UNKNOWN),
    ('ip_in(args.ip, ["fe80::/10", "10.0.0.0/8"])', {"ip": "fe80::1"}, YES),
    # patterns
    ('like(args.currency, "E*R")', {"currency": "EUR"}, YES),
    ('like(args.currency, "E*R")', {"currency": "EURO"}, NO),
    ('like(args.currency, "E*R")', {"currency": "EUR\n"}, NO),
    ('like(args.currency, "EUR")', {"currency": "EUR"}, YES),
    ('like(args.currency, "a*a")', {"currency": "a"}, NO),
    ('like(args.currency, "*b*")', {"currency": "abc"}, YES),
    ('like(args.currency, "*b*b*")', {"currency": "abc"}, NO),
    ('like(args.currency, "E.R")', {"currency": "EUR"}, NO),
    ('like(args.currency, "*")', {"currency": ""}, YES),
    # lists, whole
    ('all_in(args.tags, ["a", "b"])', {"tags": ["b", "a", "b"]}, YES),
    ('all_in(args.tags, ["a", "b"])', {"tags": ["a", "c"]}, NO),
    ('all_in(args.tags, ["a", "b"])', {"tags": []}, YES),
    ('all_in(args.tags, ["a", "b"])', {"tags": ["a", 1]}, UNKNOWN),
    ('all_in(args.tags, ["a", "b"])', {"tags": [1, "c"]}, NO),
    ('all_in(args.tags, ["a", "b"])', {"tags": "a"}, UNKNOWN),
    ('all_in(args.tags, ["a", "b"])', {}, UNKNOWN),
    ("all_in(args.tags, [1, 2.5])", {"tags": [1, Decimal("2.50")]}, YES),
    ("all_in(args.tags, [1])", {"tags": [Decimal("NaN")]}, UNKNOWN),
    ('all_in(args.tags, ["a"])', {"tags": ["a"] * 10_001}, UNKNOWN),
    ('all_in(user.groups, ["buyers", "bosses"])', {}, YES),
    # clocks somewhere: 12:00 UTC is 14:00 in Berlin and 05:00 in Los Angeles, and already tomorrow on Kiritimati
    ('hour("Europe/Berlin") == 14 and weekday("Europe/Berlin") == 3', {}, YES),
    ('hour("America/Los_Angeles") == 5', {}, YES),
    ('hour("Pacific/Kiritimati") == 2 and weekday("Pacific/Kiritimati") == 4', {}, YES),
    ('hour("UTC") == time.hour', {}, YES),
    # the tool
    ('tool.name == "erp.write_po" and tool.server == "erp" and tool.risk != "low"', {}, YES),
    ('"writes:finance" in tool.labels and not ("sink:external" in tool.labels)', {}, YES),
    ('all_in(tool.labels, ["writes:finance"]) and len(tool.labels) == 1', {}, YES),
]  # fmt: skip


@pytest.mark.parametrize(("text", "arguments", "says"), SAYS)
def test_a_condition_says_what_it_reads_as(text: str, arguments: dict[str, object], says: object) -> None:
    assert ask(text, arguments) is says


@pytest.mark.parametrize("text", sorted({text for text, _, _ in SAYS if "args." in text}))
def test_without_arguments_nothing_that_reads_them_is_decided_by_them(text: str) -> None:
    found = parse(text, TYPES)(Facts(arguments=None, types=TYPES, at=AT))
    assert found is UNKNOWN


REFUSED = [
    ("args.amuont > 1", "did you mean 'amount'?"),
    ("args.amount = 1", "write '==' to compare"),
    ('args.amount > "1"', ""),
    ('args.currency < "EUR"', "use == or !="),
    ("args.currency == 1", ""),
    ("args.network == 1", ""),
    ("args.amount", "compare it"),
    ("args.currency and args.network", "compare it"),
    ("0 < args.amount < 10", "write 'a < b and b < c'"),
    ("args.amount is 1", ""),
    ("args.amount + 1 > 2", ""),
    ("args.amount > 1e3", "write digits"),
    ("args.amount > 0x10", "write digits"),
    ("args.amount > 1_000", "write digits"),
    ("args.amount > 1j", ""),
    ("args.tags == args.tags", "use 'in' or len()"),
    ('"a" in args.currency', "like()"),
    ('args.currency in ["a", 1]', ""),
    ("args.currency in [1]", ""),
    ("args.tags in [1]", ""),
    ("len(args.amount) > 1", ""),
    ("lower(args.amount) == 'x'", ""),
    ("user.mail == 'x'", "did you mean 'user.id'?"),
    ("user == 'x'", ""),
    ("chain == 'x'", "text stands in quotes"),
    ("amount > 1", "an argument is written args.amount"),
    ("args.currency.startswith('E')", "like("),
    ("args.filter.a.b.__class__ == 1 and args.amount.real == 1", ""),
    ("args.amount.real == 1", ""),
    ("args['amount'] == 1", ""),
    ("args == 1", ""),
    ("has(user.id)", "write has(args.name)"),
    ("has(args.filter.a)", "write has(args.name)"),
    ("has(args.nothing)", ""),
    ("date('tomorrow') < time.now", "write date("),
    ("date('2026-12-01T00:00:00') < time.now", "add '+00:00'"),
    ("time.now > 5", ""),
    ("under(args.path, args.path)", ""),
    ("under(args.path, '../x')", ""),
    ("under(args.path, ['/a', '/b'])", ""),
    ("host_in(args.url, ['http://x'])", ""),
    ("host_in(args.url, [])", ""),
    ("ip_in(args.ip, ['10.0.0.1/8'])", ""),
    ("all_in(args.currency, ['a'])", "use 'in'"),
    ("all_in(args.tags, args.tags)", "write all_in("),
    ("all_in(args.tags, 'a')", "write all_in("),
    ("all_in(args.tags, [])", ""),
    ("all_in(user.groups, [1])", "never equal"),
    ("all_in(args.tags)", ""),
    ("hour('Europe/Berlim') > 8", "did you mean 'Europe/Berlin'?"),
    ("hour('../../etc/passwd') > 8", "write hour("),
    ("hour('/etc/localtime') > 8", ""),
    ("hour(args.currency) > 8", "write hour("),
    ("hour() > 8", ""),
    ("weekday('UTC') == 'Monday'", ""),
    ("tool.owner == 'x'", "did you mean 'tool.name'?"),
    ("tool.risk == 3", ""),
    ("like(args.currency)", ""),
    ("like(args.currency, pattern='x')", ""),
    ("open('/etc/passwd')", "known are"),
    ("__import__('os').system('x')", ""),
    ("(lambda: True)()", ""),
    ("[x for x in args.tags]", ""),
    ("(y := True)", ""),
    ("f'{args.amount}' == '1'", ""),
    ("args.currency == b'x'", ""),
    ("args.currency == 'a' 'b' if True else False", ""),
    ("args.currency == None", ""),
    ("args.currency == ...", ""),
    ("args.network # or True", "'say'"),
    ("args.currency == '\\n'", ""),
    ("", ""),
    ("True; True", ""),
    ("import os", ""),
    ("args.network and", ""),
    ("not " * 200 + "args.network", ""),
    ("(" * 500 + "args.network" + ")" * 500, ""),
    (" and ".join(["args.network"] * 300), ""),
    ("args.amount == " + "9" * 100, ""),
    ("x" * 3000, "split it"),
]


@pytest.mark.parametrize(("text", "help_"), REFUSED, ids=[text[:60] for text, _ in REFUSED])
def test_what_is_no_condition_is_refused_with_a_next_step(text: str, help_: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, TYPES)
    assert help_ in caught.value.help
    assert caught.value.column >= 1


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from(list("args.mountid ()[]'\"<>=!,-+*019\n\tandornotin:{}@#\\é\u202e")), max_size=60))
def test_any_text_is_a_condition_or_is_refused(text: str) -> None:
    try:
        expression = parse(text, TYPES)
    except ExpressionError:
        return
    assert expression(Facts(arguments={}, types=TYPES)) in (True, False, UNKNOWN)


# --- meaning, against Python's own


def random_text(rng: random.Random, depth: int = 0) -> str:
    """A condition that is also Python with the same meaning."""
    if depth > 3 or rng.random() < 0.3:
        return rng.choice(
            [
                f"args.amount {rng.choice(['<', '<=', '>', '>=', '==', '!='])} {rng.choice([0, 1, 5, -3, 2.5])}",
                f"args.currency {rng.choice(['==', '!='])} {rng.choice(['EUR', 'USD'])!r}",
                f"args.currency {rng.choice(['in', 'not in'])} ['EUR', 'CHF']",
                "args.network",
                f"args.network == {rng.random() < 0.5}",
                f"len(args.tags) {rng.choice(['<', '>='])} {rng.randrange(3)}",
                f"'a' {rng.choice(['in', 'not in'])} args.tags",
                f"args.amount in [1, {rng.randrange(5)}]",
            ]
        )
    if rng.random() < 0.25:
        return f"not ({random_text(rng, depth + 1)})"
    joiner = f" {rng.choice(['and', 'or'])} "
    return joiner.join(f"({random_text(rng, depth + 1)})" for _ in range(rng.randrange(2, 4)))


class Plain:
    """The arguments as attributes, for Python."""

    def __init__(self, values: dict[str, object]) -> None:
        self.__dict__.update(values)


def values(rng: random.Random) -> dict[str, object]:
    return {
        "amount": rng.choice([0, 1, 5, -3, Decimal("2.5")]),
        "currency": rng.choice(["EUR", "USD", "CHF"]),
        "network": rng.random() < 0.5,
        "tags": rng.sample(["a", "b", "c"], rng.randrange(4)),
    }


def test_conditions_mean_what_python_means_on_well_typed_values() -> None:
    rng = random.Random(5)
    seen = set()
    for _ in range(1500):
        text, arguments = random_text(rng), values(rng)
        says = eval(text, {"__builtins__": {}, "len": len}, {"args": Plain(arguments)})
        assert ask(text, arguments) is bool(says), (text, arguments)
        seen.add(bool(says))
    assert seen == {True, False}


def test_removing_or_breaking_a_value_never_turns_an_answer_into_its_opposite() -> None:
    rng = random.Random(6)
    unknown = 0
    for _ in range(2000):
        text, arguments = random_text(rng), values(rng)
        before = ask(text, arguments)
        name = rng.choice(sorted(arguments))
        worse = dict(arguments)
        if rng.random() < 0.5:
            del worse[name]
        else:
            worse[name] = rng.choice([None, Decimal("NaN"), 1.5, {"x": 1}, object()])
        after = ask(text, worse)
        unknown += after is UNKNOWN
        assert after is before or after is UNKNOWN, (text, arguments, worse)
    assert unknown > 300


def test_a_condition_never_changes_what_it_reads() -> None:
    arguments: dict[str, object] = {"tags": ["b", "a"], "filter": {"a": {"b": [1]}}, "currency": "EUR"}
    before = copy.deepcopy(arguments)
    for text in ('"a" in args.tags', "len(args.tags) > 1", 'args.filter.a.b == "x"', 'lower(args.currency) == "eur"'):
        ask(text, arguments)
    assert arguments == before


def test_methods_of_a_dict_are_not_arguments() -> None:
    with pytest.raises(ExpressionError):
        parse("args.items == 1", TYPES)
    assert ask("args.filter.items == 1", {"filter": {"a": 1}}) is UNKNOWN
    assert ask("ctx.keys == 1") is UNKNOWN


def test_a_long_text_against_many_stars_takes_linear_time() -> None:
    pattern = "*a" * 200 + "b"
    assert ask(f'like(args.currency, "{pattern}")', {"currency": "a" * 200_000}) is False


def test_what_a_condition_reads_is_known_without_asking_it() -> None:
    text = 'args.filter.country == "DE" and has(args.amount) and tool.risk == "low" and hour("UTC") > 8 and "a" in user.groups'
    expression = parse(text, TYPES)
    assert expression.arguments == {"filter", "amount"}
    assert expression.reads == {"args.filter.country", "args.amount", "tool.risk", "time.now", "user.groups"}


def test_where_no_tool_is_asked_for_nothing_of_a_tool_is_known() -> None:
    for text in (
        'tool.risk == "low"',
        'tool.name != "x"',
        '"a:b" in tool.labels',
        "len(tool.labels) >= 0",
        'all_in(tool.labels, ["a:b"])',
    ):
        assert parse(text, TYPES)(Facts(arguments={}, types=TYPES)) is UNKNOWN


@pytest.mark.parametrize(
    ("moment", "hour"),
    [
        ("2026-03-29T00:30:00+00:00", 1),
        ("2026-03-29T01:30:00+00:00", 3),
        ("2026-10-25T00:30:00+00:00", 2),
        ("2026-10-25T01:30:00+00:00", 2),
    ],
)
def test_a_clock_follows_its_zone_through_the_change_of_summer_time(moment: str, hour: int) -> None:
    at = int(datetime.fromisoformat(moment).timestamp()) * 1_000_000
    assert parse(f'hour("Europe/Berlin") == {hour}')(Facts(arguments={}, at=at)) is True
