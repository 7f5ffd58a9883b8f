"""What Casbin does without a word, once more by hand; and that none of it can happen through our loader and engine.

Where it is cheap, stock Casbin is shown to have the hazard, so that no test here guards against nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import casbin
import pytest
from casbin.rbac.default_role_manager import DomainManager, RoleManager
from msgspec.structs import replace

from policies import engine as engine_module
from policies.bundle import Bundle, BundleError, load, load_texts
from policies.engine import Engine
from policies.finding import Finding
from policies.model import AccessRequest, Reason

AT = 1_788_955_200_000_000
SHIPPED = (Path(engine_module.__file__).with_name("default") / "model.conf").read_text()
PAUL = AccessRequest(
    "user:dev/paul", (), "acme", "call", "erp.write_po", AT, frozenset({"buyers"}), {"supplier": "S-1", "amount": 50}
)
Find = Callable[[dict[str, str | bytes | None]], tuple[Finding, ...]]
SIMPLE = """\
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act{eft}
[policy_effect]
e = {effect}
[matchers]
m = {matcher}
"""
ALLOW_OVERRIDE = "some(where (p.eft == allow))"
DENY_OVERRIDE = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"


def stock(matcher: str, *rows: list[str], effect: str = ALLOW_OVERRIDE, eft: bool = False, model: str = SIMPLE) -> Any:
    """Casbin as it comes."""
    text = model.format(matcher=matcher, effect=effect, eft=", eft" if eft else "")
    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=text))
    enforcer.model["p"]["p"].policy = [list(row) for row in rows]
    return enforcer


def grants(*lines: str) -> dict[str, str | bytes | None]:
    return {"grants/people.csv": "".join(f"{line}\n" for line in lines), "grants/guardrails.csv": ""}


def model(old: str, new: str) -> dict[str, str | bytes | None]:
    assert old in SHIPPED
    return {"model.conf": SHIPPED.replace(old, new)}


def engine(write: Any, *lines: str, **files: str) -> Engine:
    named: dict[str, str | bytes | None] = {name.replace("__", "."): text for name, text in files.items()}
    return Engine(load(write(grants(*lines) | named)))


def test_01_an_empty_policy_allows_nothing_whatever_the_matcher(write: Any, findings: Find) -> None:
    assert stock("regexMatch(r.obj, p.obj)").enforce("anybody", "erp", "call") is True
    assert stock('r.sub == p.sub || p.sub == ""', effect="!some(where (p.eft == deny))").enforce("anybody", "erp", "call") is True
    empty = load(write(grants()))
    assert not Engine(empty).decide(PAUL).allowed
    assert not Engine(empty, stock=True).decide(PAUL).allowed
    assert findings(model("keyMatch(r.obj, p.obj)", "regexMatch(r.obj, p.obj)"))
    assert findings(model(DENY_OVERRIDE, "!some(where (p.eft == deny))"))


@pytest.mark.parametrize("effect", ["Deny", "dney", "DENY"])
def test_02_a_misspelt_deny_is_not_loaded_as_nothing(findings: Find, effect: str) -> None:
    rows = [["paul", "erp", "call", "allow"], ["paul", "erp", "call", effect]]
    assert stock("r.sub == p.sub && r.obj == p.obj", *rows, effect=DENY_OVERRIDE, eft=True).enforce("paul", "erp", "call") is True
    (found,) = findings(grants(f"p, *, acme, erp.read, call, {effect}, -, -, T-1"))
    assert (found.code, found.line) == ("unknown-effect", 1)


@pytest.mark.parametrize("kind", ["P", "p2", "g", ""])
def test_02_a_deny_line_of_another_type_is_not_skipped(findings: Find, kind: str) -> None:
    assert "unknown-line" in {f.code for f in findings(grants(f"{kind}, *, acme, erp.read, call, deny, -, -, T-1"))}


def test_03_a_line_with_a_column_too_few_or_too_many_stops_the_load_and_not_everybody(findings: Find) -> None:
    broken = stock("r.sub == p.sub && r.obj == p.obj", ["paul", "erp"])
    with pytest.raises(Exception, match="policy"):
        broken.enforce("ann", "erp", "call")
    for line in ("p, *, acme, erp.read, call, deny, -, T-1", "p, *, acme, erp.read, call, deny, -, -, T-1, x"):
        assert [f.code for f in findings(grants(line))] == ["wrong-column-count"]


def test_04_quotes_comments_marks_and_brackets_are_never_read_two_ways(findings: Find, tmp_path: Path) -> None:
    policy = tmp_path / "policy.csv"
    policy.write_text('\ufeffp, paul, erp, call\np, ann, "erp", call\np, eve, (erp, call\n')
    (tmp_path / "model.conf").write_text(SIMPLE.format(matcher="r.sub == p.sub && r.obj == p.obj", effect=ALLOW_OVERRIDE, eft=""))
    with pytest.raises(Exception):  # noqa: B017, PT011  what it raises differs from version to version
        casbin.Enforcer(str(tmp_path / "model.conf"), str(policy)).enforce("paul", "erp", "call")
    row = "p, *, acme, {}, call, deny, -, -, T-1"
    assert "odd-character" in {f.code for f in findings(grants(row.format('"erp.read"')))}
    assert "odd-character" in {f.code for f in findings(grants(row.format("erp.read # all")))}
    assert "odd-tool" in {f.code for f in findings(grants(row.format("res:files/file:///a(1)")))}
    assert "unknown-tool" in {f.code for f in findings(grants(row.format("(erp.read")))}
    assert "byte-order-mark" in {
        f.code for f in findings({"grants/people.csv": b"\xef\xbb\xbfp, *, acme, erp.read, call, deny, -, -, T-1"})
    }


def test_05_a_role_is_of_one_tenant_and_the_model_cannot_say_otherwise(findings: Find, write: Any) -> None:
    text = SIMPLE.replace("r = sub, obj, act", "r = sub, dom, act").replace(
        "[policy_effect]", "[role_definition]\ng = _, _\n[policy_effect]"
    )
    loose = stock("g(r.sub, p.sub)", ["admin", "erp", "call"], model=text)
    loose.model["g"]["g"].policy = [["paul", "admin"]]
    loose.build_role_links()
    assert loose.enforce("paul", "any-tenant", "call") is True
    assert findings(model("g = _, _, _", "g = _, _"))
    judge = engine(write, "p, role:buyer, *, erp.read, call, allow, -, -, T-1",
                   roles__csv="g, idp:buyers, role:buyer, acme\ng, idp:x, role:buyer, other\n")  # fmt: skip
    assert judge.decide(replace(PAUL, resource="erp.read")).allowed
    assert not judge.decide(replace(PAUL, resource="erp.read", tenant="other")).allowed


def test_06_a_role_for_a_time_is_a_condition_of_the_line_and_ends_also_after_a_reload(write: Any) -> None:
    files = {"conditions__yaml": 'week: {if: time.now < date("2026-09-10T00:00:00+00:00"), say: this week}\n'}
    for _ in range(2):  # loaded anew: nothing that ended begins again
        judge = engine(write, "p, role:buyer, acme, erp.read, call, allow, week, -, T-1", **files)
        assert judge.decide(replace(PAUL, resource="erp.read")).allowed
        assert not judge.decide(replace(PAUL, resource="erp.read", at=AT + 86_400_000_000)).allowed


def test_07_sets_of_tools_work_beside_everything_else(write: Any) -> None:
    files = {"conditions__yaml": "early: {if: time.hour < 20, say: by day}\n"}
    judge = engine(write, "p, role:buyer, acme, set:reading, call, allow, early, -, T-1", **files)
    assert judge.decide(replace(PAUL, resource="erp.read")).allowed
    assert judge.decide(replace(PAUL, resource="erp.read", at=AT + 9 * 3_600_000_000)).reason is Reason.USER_LACKS_RIGHT


def deciding_in_threads(decide: Callable[[], bool], meanwhile: Callable[[], None]) -> list[bool]:
    answers: list[bool] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(decide())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        meanwhile()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return answers


def test_08_a_new_bundle_is_built_aside_and_no_call_is_judged_in_between(write: Any) -> None:
    lines = ("p, role:buyer, acme, erp.read, call, allow, -, -, T-1", "p, role:boss, acme, erp.read, call, deny, -, -, T-2")
    roles = {
        "roles__csv": "g, idp:buyers, role:buyer, acme\ng, idp:bosses, role:boss, acme\ng, agent:helper, agents:crew, acme\n"
    }
    bundle = engine(write, *lines, **roles).bundle
    held = {"engine": Engine(bundle)}
    allowed = replace(PAUL, resource="erp.read")
    denied = replace(allowed, groups=frozenset({"buyers", "bosses"}))

    def decide() -> bool:
        now = held["engine"]
        return now.decide(allowed).allowed and not now.decide(denied).allowed

    def swap() -> None:
        for _ in range(40):
            held["engine"] = Engine(bundle)

    answers = deciding_in_threads(decide, swap)
    assert len(answers) > 40
    assert all(answers)


@pytest.mark.parametrize("path", ["indexed", "stock"])
def test_09_threads_that_ask_one_engine_never_get_one_anothers_answers(write: Any, path: str) -> None:
    lines = [f"p, user:dev/u{n}, acme, erp.read, call, allow, -, -, T-{n}" for n in range(20)]
    judge = Engine(load(write(grants(*lines))), stock=path == "stock")
    rng = random.Random(1)

    def decide() -> bool:
        n = rng.randrange(40)
        decision = judge.decide(replace(PAUL, subject=f"user:dev/u{n}", resource="erp.read"))
        return decision.allowed == (n < 20) and [m.rule for m in decision.matched] == ([f"T-{n}"] if n < 20 else [])

    def ask_too() -> None:
        assert all(decide() for _ in range(150))

    answers = deciding_in_threads(decide, ask_too)
    assert answers
    assert all(answers)


def test_10_a_second_effect_is_not_ignored_but_refused(findings: Find) -> None:
    text = SIMPLE.format(matcher="r.sub == p.sub", effect=f"{ALLOW_OVERRIDE}\ne2 = {DENY_OVERRIDE}", eft=", eft")
    two = casbin.Enforcer(casbin.Enforcer.new_model(text=text))
    two.model["p"]["p"].policy = [["paul", "erp", "call", "allow"], ["paul", "erp", "call", "deny"]]
    assert two.enforce("paul", "erp", "call") is True
    assert findings(model(f"e = {DENY_OVERRIDE}", f"e = {DENY_OVERRIDE}\ne2 = {ALLOW_OVERRIDE}"))
    assert findings(model(f"e = {DENY_OVERRIDE}", f"e = {ALLOW_OVERRIDE}"))


def test_11_a_condition_cannot_become_part_of_the_matcher(findings: Find) -> None:
    text = SIMPLE.replace("act{eft}", "act, cond").replace("{eft}", "")
    open_ = stock("eval(p.cond) && r.sub == p.sub", ["paul", "erp", "call", "True) or (True"], model=text)
    assert open_.enforce("eve", "erp", "call") is True
    assert findings(model("when(p.cond, p.eft, r.ctx)", "eval(p.cond)"))
    for condition in (
        "True) or (True",
        "true or true) and hit(1",
        "__import__('os')",
        "args.__class__",
        "().__class__.__bases__",
    ):
        assert findings({"conditions.yaml": f"small:\n  if: {condition!r}\n  say: x\n"})
    assert findings(grants("p, *, acme, erp.read, call, deny, True) or (True, -, T-1"))


@pytest.mark.parametrize("arguments", [{}, {"amount": "50"}, {"amount": None}, {"amount": [50]}, {"amount": {}}], ids=str)
def test_12_a_missing_or_ill_typed_argument_raises_nothing_and_grants_nothing(write: Any, arguments: dict[str, Any]) -> None:
    text = SIMPLE.replace("r = sub, obj, act", "r = sub, args, act")
    raising = stock("r.sub == p.sub && r.args.amount <= 100", ["paul", "erp", "call"], model=text)
    with pytest.raises(Exception):  # noqa: B017, PT011  simpleeval's own, or a TypeError
        raising.enforce("paul", arguments, "call")
    judge = engine(write, "p, role:buyer, acme, erp.write_po, call, allow, small, -, T-1")
    assert judge.decide(replace(PAUL, arguments=arguments)).reason is Reason.USER_LACKS_RIGHT


def test_12_one_condition_that_is_none_is_found_at_load_and_breaks_nobody_at_run_time(findings: Find) -> None:
    assert {f.code for f in findings({"conditions.yaml": "small: {if: args.amount <=, say: x}\n"})} >= {"bad-condition"}


class Order:
    def __init__(self, amount: float) -> None:
        self.amount = amount


@pytest.mark.parametrize(
    "number", [Decimal("NaN"), Decimal("sNaN"), float("nan"), Decimal("Infinity"), Decimal("-Infinity")], ids=str
)
def test_13_what_is_no_number_does_not_slip_under_a_limit(write: Any, number: object) -> None:
    careless = stock("r.sub.amount > 10000", ["x", "y", "z"])
    assert careless.enforce(Order(float("nan")), "erp", "call") is False, "a deny line with this matcher would not speak"
    judge = engine(
        write, "p, role:buyer, acme, erp.write_po, call, allow, -, -, T-1", "p, *, acme, erp.write_po, call, deny, large, -, T-2",
        conditions__yaml="large: {if: args.amount > 10000, say: large}\n",
    )  # fmt: skip
    assert judge.decide(PAUL).allowed
    assert judge.decide(replace(PAUL, arguments={"amount": number})).reason is Reason.GUARDRAIL


def test_14_arguments_are_data_and_their_methods_are_out_of_reach(write: Any, findings: Find) -> None:
    text = SIMPLE.replace("r = sub, obj, act", "r = sub, args, act")
    request: dict[str, Any] = {"amount": 50}
    stock("r.sub == p.sub && r.args.update(amount=1) == None", ["paul", "erp", "call"], model=text).enforce(
        "paul", request, "call"
    )
    assert request == {"amount": 1}, "a matcher changed the request"
    tools = "tenants: [acme, other]\ntools:\n  erp.write_po: {args: {items: string, update: string, amount: number}}\n"
    files = {"tools__yaml": tools, "conditions__yaml": 'named: {if: args.items == "x" and args.update == "y", say: x}\n'}
    judge = engine(write, "p, role:buyer, acme, erp.write_po, call, allow, named, -, T-1", **files)
    assert not judge.decide(replace(PAUL, arguments={"amount": 1})).allowed
    assert judge.decide(replace(PAUL, arguments={"items": "x", "update": "y"})).allowed
    assert findings({"conditions.yaml": "small: {if: args.update(amount=1), say: x}\n"})
    assert findings({"conditions.yaml": "small: {if: args.amount.bit_length() > 1, say: x}\n"})


def test_15_text_within_quotes_is_never_rewritten(write: Any, findings: Find) -> None:
    condition = r"""odd: {if: 'args.supplier == "r.sub && p.obj # ! or"', say: x}"""
    judge = engine(write, "p, role:buyer, acme, erp.write_po, call, allow, odd, -, T-1", conditions__yaml=condition + "\n")
    assert judge.decide(replace(PAUL, arguments={"supplier": "r.sub && p.obj # ! or"})).allowed
    assert not judge.decide(replace(PAUL, arguments={"supplier": "r_sub and p_obj"})).allowed
    for text in ('p.act == "a#b"', 'p.act == "a!b"', 'p.act == "a\\b"', "p.act == 'x'"):
        assert findings(model('p.act == "*"', text))


def test_16_there_is_no_pattern_but_a_star_at_the_end_of_a_name(write: Any, findings: Find) -> None:
    assert stock("regexMatch(r.obj, p.obj)", ["paul", "erp.read", "call"]).enforce("paul", "erp.read_all", "call") is True
    tools = "tenants: [acme, other]\ntools:\n  erp.read: {}\n  erp.read_all: {}\n  erp.write_po: {args: {amount: number}}\n"
    judge = engine(write, "p, role:buyer, acme, erp.read, call, allow, -, -, T-1", tools__yaml=tools)
    assert judge.decide(replace(PAUL, resource="erp.read")).allowed
    assert not judge.decide(replace(PAUL, resource="erp.read_all")).allowed
    for pattern in ("erp.(a+)+", "erp.re?d", "erp.[a-z]*", "^erp.read$", "erp.read|*"):
        assert findings(grants(f"p, *, acme, {pattern}, call, deny, -, -, T-1"))


def test_17_a_star_inside_a_name_is_refused_and_addresses_have_one_form(write: Any, findings: Find) -> None:
    assert stock("keyMatch(r.obj, p.obj)", ["x", "a/*/b", "call"]).enforce("x", "a/1/other", "call") is True
    assert stock("keyMatch2(r.obj, p.obj)", ["x", "/a.b", "call"]).enforce("x", "/aXb", "call") is True
    for pattern in ("res:files/file:///a/*/b", "erp.*.read", "*.read", "res:files/file:///a*", "a2a:*x"):
        assert findings(grants(f"p, *, acme, {pattern}, *, deny, -, -, T-1"))
    judge = engine(write, "p, role:buyer, acme, res:files/file:///open/*, read, allow, -, -, T-1")
    for address in ("../etc", "%2e%2e/etc", "..%2fetc", "./x", "/x", "x\n", "x#y"):
        asked = replace(PAUL, action="read", resource=f"res:files/file:///open/{address}")
        assert judge.decide(asked).reason is Reason.UNKNOWN_RESOURCE
    assert judge.decide(replace(PAUL, action="read", resource="res:files/file:///open/x")).allowed


def test_18_there_are_no_priorities_to_get_wrong(findings: Find, write: Any) -> None:
    assert findings(model("p = sub, dom, obj, act, cond, eft, id", "p = priority, sub, dom, obj, act, cond, eft, id"))
    assert findings(model(f"e = {DENY_OVERRIDE}", "e = priority(p.eft) || deny"))
    for order in (1, -1):
        lines = ["p, role:buyer, acme, erp.read, call, allow, -, -, T-1", "p, *, acme, erp.read, call, deny, -, -, T-2"][::order]
        assert engine(write, *lines).decide(replace(PAUL, resource="erp.read")).reason is Reason.GUARDRAIL


def test_19_roles_reach_as_deep_as_they_are_written(write: Any) -> None:
    manager = RoleManager(10)
    for n in range(20):
        manager.add_link(f"r{n}", f"r{n + 1}")
    assert manager.has_link("r0", "r9") is True
    assert manager.has_link("r0", "r20") is False, "Casbin stops at ten without a word"
    roles = "g, idp:buyers, role:r0, acme\n" + "".join(f"g, role:r{n}, role:r{n + 1}, acme\n" for n in range(20))
    judge = engine(write, "p, role:r20, acme, erp.read, call, allow, -, -, T-1", roles__csv=roles)
    assert judge.decide(replace(PAUL, resource="erp.read")).allowed


def test_20_a_person_or_agent_or_group_named_like_a_role_has_none(write: Any, findings: Find) -> None:
    text = SIMPLE.replace("[policy_effect]", "[role_definition]\ng = _, _\n[policy_effect]")
    assert stock("g(r.sub, p.sub)", ["admin", "erp", "call"], model=text).enforce("admin", "erp", "call") is True
    judge = engine(write, "p, role:buyer, acme, erp.read, call, allow, -, -, T-1")
    for subject in ("role:buyer", "buyer", "user:dev/role:buyer", "user:role:buyer/x", "svc:buyer"):
        for group in ("role:buyer", "buyer", "idp:buyers"):
            asked = replace(PAUL, subject=subject, groups=frozenset({group}), resource="erp.read")
            assert not judge.decide(asked).allowed
    assert findings(grants("p, buyer, acme, erp.read, call, allow, -, -, T-1"))


def bundle_of(grant: str, roles: str) -> Bundle:
    tools = "tenants: [acme]\ntools:\n  erp.read: {}\n"
    empty = {"conditions.yaml": "", "obligations.yaml": ""}
    return load_texts({"model.conf": SHIPPED, "roles.csv": roles, "tools.yaml": tools, "grants/a.csv": f"{grant}\n"} | empty)


def test_21_strangers_are_not_remembered() -> None:
    manager = DomainManager(10)
    manager.add_link("ann", "admin", "acme")
    for n in range(100):
        manager.has_link(f"stranger{n}", "admin", f"tenant{n}")
    assert len(manager.rm_map) >= 100, "Casbin keeps a manager for every tenant that somebody names"
    judge = Engine(bundle_of("p, role:buyer, acme, erp.read, call, allow, -, -, T-1", "g, idp:buyers, role:buyer, acme\n"))
    index: Any = judge._enforcer._index
    sizes = []
    for start in (0, 1000):
        for n in range(start, start + 500):
            judge.decide(replace(PAUL, subject=f"user:dev/{n}", actors=(f"agent:a{n}",), resource="erp.read"))
        sizes.append((len(judge._agents), len(judge._closure._reach["acme"]), len(index._plans), len(index._shared)))
    assert sizes[0] == sizes[1]


def test_22_roles_are_worked_out_at_load_in_linear_time_and_never_by_the_first_question() -> None:
    def built(count: int) -> tuple[float, Engine]:
        roles = "".join(f"g, user:dev/u{n}, role:r{n % 50}, acme\n" for n in range(count))
        bundle = bundle_of("p, role:r1, acme, erp.read, call, allow, -, -, T-1", roles)
        began = time.process_time()
        made = Engine(bundle)
        made.decide(replace(PAUL, resource="erp.read"))
        return time.process_time() - began, made

    small, large = min(built(500)[0] for _ in range(3)), min(built(8000)[0] for _ in range(2))
    assert large < max(small, 0.002) * 100, "sixteen times the roles, sixteen times the work; squared it would be 256 times"
    assert built(4000)[1].decide(replace(PAUL, subject="user:dev/u51", resource="erp.read")).allowed


def test_23_every_rule_that_matched_is_named_and_not_one_of_them(write: Any) -> None:
    rows = [["paul", "erp", "call", "allow"], ["paul", "erp", "call", "allow"]]
    _, explained = stock("r.sub == p.sub", *rows, effect=ALLOW_OVERRIDE, eft=True).enforce_ex("paul", "erp", "call")
    assert explained == rows[0], "Casbin names one"
    judge = engine(write, *[f"p, role:buyer, acme, erp.read, call, allow, -, -, T-{n}" for n in range(5)],
                   "p, *, acme, erp.read, call, require, -, full-audit, T-5")  # fmt: skip
    for path in (judge, Engine(judge.bundle, stock=True)):
        assert [m.rule for m in path.decide(replace(PAUL, resource="erp.read")).matched] == [f"T-{n}" for n in range(6)]


def test_24_deciding_is_a_plain_function_and_does_not_wait_for_anything(write: Any) -> None:
    judge = engine(write, "p, role:buyer, acme, erp.read, call, allow, -, -, T-1")
    decision = judge.decide(replace(PAUL, resource="erp.read"))
    assert not hasattr(decision, "__await__")
    assert not any(name.startswith("async") for name in dir(judge))


def test_25_an_engine_has_no_way_to_load_anything_after_it_was_built(write: Any) -> None:
    judge = engine(write, "p, role:buyer, acme, erp.read, call, allow, -, -, T-1")
    assert {name for name in vars(type(judge)) if not name.startswith("_")} == {"approves", "decide", "tools_of"}
    assert judge._enforcer.watcher is None
    assert judge._enforcer.adapter is None
    with pytest.raises(AttributeError):
        judge.bundle.rules = ()  # type: ignore[misc]  # that it cannot be done is the point


def test_26_a_file_that_is_cut_in_the_middle_is_refused_or_says_less_but_never_more(write: Any) -> None:
    text = "p, role:buyer, acme, erp.read, call, allow, -, -, ALLOW-1\np, *, acme, erp.read, call, deny, -, -, DENY-22\n"
    loaded = []
    for at in range(len(text)):
        try:
            bundle = load(write(grants() | {"grants/people.csv": text[:at]}))
        except BundleError:
            continue
        loaded.append(at)
        assert all("ALLOW-1".startswith(rule.id) or "DENY-22".startswith(rule.id) for rule in bundle.rules)
    assert len(loaded) < 40, "a cut within a line is found"


def test_26_only_the_manifest_or_a_second_reading_finds_a_file_that_ends_between_two_lines(write: Any) -> None:
    whole = load(
        write(grants("p, role:buyer, acme, erp.read, call, allow, -, -, T-1", "p, *, acme, erp.read, call, deny, -, -, T-2"))
    )
    cut = load(write(grants("p, role:buyer, acme, erp.read, call, allow, -, -, T-1")))
    assert whole.digest != cut.digest, "the digest tells them apart: a signed manifest names it, a watcher reads twice"
