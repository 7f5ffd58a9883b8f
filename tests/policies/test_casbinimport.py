"""An imported bundle answers as stock Casbin does on what could be said; what could not be said is told, line by line."""

from __future__ import annotations

import random
from pathlib import Path

import casbin
import pytest

from policies.bundle import BundleError, load_texts
from policies.casbinimport import Import, _Importer, _Line, import_casbin
from policies.engine import Engine
from policies.model import AccessRequest

EFFECT = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"


def model(
    *, columns: str = "sub, obj, act", eft: bool = True, g: str = "_, _", g2: str = "", effect: str = EFFECT, matcher: str = ""
) -> str:
    request = columns
    policy = columns + (", eft" if eft else "")
    roles = (f"g = {g}\n" if g else "") + (f"g2 = {g2}\n" if g2 else "")
    return (
        f"[request_definition]\nr = {request}\n[policy_definition]\np = {policy}\n[role_definition]\n{roles}"
        f"[policy_effect]\ne = {effect}\n[matchers]\nm = {matcher}\n"
    )


PLAIN = model(matcher='(g(r.sub, p.sub) || p.sub == "*") && r.obj == p.obj && (r.act == p.act || p.act == "*")')
PATTERNS = model(matcher='g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && (r.act == p.act || p.act == "*")')
DOMAINS = model(
    columns="sub, dom, obj, act", g="_, _, _",
    matcher='g(r.sub, p.sub, r.dom) && (r.dom == p.dom || p.dom == "*") && r.obj == p.obj && r.act == p.act',
)  # fmt: skip
GROUPS = model(g2="_, _", matcher="g(r.sub, p.sub) && g2(r.obj, p.obj) && r.act == p.act")
NO_EFFECT = model(
    eft=False, effect="some(where (p.eft == allow))", matcher="r.sub == p.sub && r.obj == p.obj && r.act == p.act", g=""
)
PEOPLE = ("alice", "bob", "carol", "dave")
ROLES = ("admin", "staff", "audit")
OBJECTS = ("data1", "data_2", "Reports")
ACTIONS = ("read", "write")


def lines(chance: random.Random, kind: str) -> list[str]:
    """A policy of a model's shape, with roles, stars, deny lines and domains where the model has them."""
    found = []
    doms = ("t1", "t2") if kind == "domains" else ("",)
    for role in ROLES if kind != "no-effect" else ():
        for dom in doms:
            found += [f"g, {person}, {role}" + (f", {dom}" if dom else "") for person in chance.sample(PEOPLE, 2)]
    if kind in ("plain", "patterns") and chance.random() < 0.7:
        found.append("g, staff, admin")
    if kind == "groups":
        found += ["g2, data1, all", "g2, data_2, all", "g2, data1, some", "g2, some, more"]
    subjects = (*PEOPLE, *(ROLES if kind != "no-effect" else ()), *(("*",) if kind == "plain" else ()))
    for _ in range(chance.randint(3, 12)):
        objects = (
            *OBJECTS,
            *(("data*", "*", "Rep*") if kind == "patterns" else ()),
            *(("all", "more") if kind == "groups" else ()),
        )
        actions = (*ACTIONS, *(("*",) if kind in ("plain", "patterns") else ()))
        dom = [chance.choice((*doms, "*"))] if kind == "domains" else []
        eft = [chance.choice(("allow", "allow", "deny"))] if kind != "no-effect" else []
        found.append(", ".join(["p", chance.choice(subjects), *dom, chance.choice(objects), chance.choice(actions), *eft]))
    chance.shuffle(found)
    return found


MODELS = {"plain": PLAIN, "patterns": PATTERNS, "domains": DOMAINS, "groups": GROUPS, "no-effect": NO_EFFECT}


def stock(folder: Path, text: str, policy: str) -> casbin.Enforcer:
    (folder / "model.conf").write_text(text)
    (folder / "policy.csv").write_text(policy)
    return casbin.Enforcer(str(folder / "model.conf"), str(folder / "policy.csv"))


def differences(made: Import, judge: casbin.Enforcer, *, domains: bool) -> tuple[int, int, list[object]]:
    """(questions, allowed, those answered otherwise) over every person, tenant and tool of the bundle."""
    engine = Engine(load_texts(made.texts))
    asked = allowed = 0
    wrong: list[object] = []
    for person in PEOPLE:
        subject = made.names.get(person, f"user:corp/{person}")
        for tenant in ("t1", "t2") if domains else ("acme",):
            for (obj, act), tool in made.tools.items():
                question = (person, tenant, obj, act) if domains else (person, obj, act)
                expected = bool(judge.enforce(*question))
                got = engine.decide(AccessRequest(subject, (), tenant, "call", tool, at=0)).allowed
                asked += 1
                allowed += got
                if got != expected:
                    wrong.append((question, expected, got))
    return asked, allowed, wrong


def compared(folder: Path, kind: str, rounds: int) -> tuple[int, int, int, list[object]]:
    """Over random policies: how many made a bundle, questions, allowed, and those answered otherwise."""
    chance = random.Random(kind)
    used = total = yes = 0
    wrong: list[object] = []
    for _ in range(rounds):
        policy = "\n".join(lines(chance, kind)) + "\n"
        made = import_casbin(MODELS[kind], policy, tenant="acme")
        if not made.usable:
            assert any(each.widens for each in made.unmapped)
            continue
        used += 1
        said = "\n".join(line for n, line in enumerate(policy.split("\n"), 1) if n not in {u.line for u in made.unmapped})
        asked, allowed, other = differences(made, stock(folder, MODELS[kind], said), domains=kind == "domains")
        wrong += other
        total, yes = total + asked, yes + allowed
    return used, total, yes, wrong


@pytest.mark.parametrize("kind", MODELS)
def test_the_imported_bundle_answers_as_casbin_does(tmp_path: Path, kind: str) -> None:
    used, total, yes, wrong = compared(tmp_path, kind, 40)
    assert wrong == []
    assert used > 25
    assert total // 12 < yes < total


def _no_deny(self: _Importer, line: _Line) -> None:
    if line.cells.get("eft") != "deny":
        self.rules.append(line)


def _every_tool(self: _Importer, line: _Line, members: object) -> list[str]:
    return list(dict.fromkeys(self.tools.values()))


def _every_tenant(self: _Importer, line: _Line, *, rule: bool) -> str:
    return "*" if rule else "t1"


def _one_role(self: _Importer, line: _Line) -> tuple[str, str, str]:
    return self.names[line.cells["member"]], "role:admin", self.tenant


@pytest.mark.parametrize(
    ("kind", "name", "bug"),
    [
        ("plain", "_rule", _no_deny),
        ("patterns", "_covered", _every_tool),
        ("groups", "_covered", _every_tool),
        ("domains", "_tenant_of", _every_tenant),
        ("plain", "_membership", _one_role),
    ],
)
def test_the_comparison_catches_a_planted_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, bug: object
) -> None:
    monkeypatch.setattr(_Importer, name, bug)
    assert compared(tmp_path, kind, 15)[3] != []


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_left_out_never_lets_through_what_casbin_denies(tmp_path: Path, kind: str) -> None:
    chance = random.Random(f"{kind} with mistakes")
    mistakes = (
        'p, "alice", data1, read, allow', "P, alice, data1, read, deny", "p, alice, /x/*, read, allow", "g, alice",
        "p, ghost*, data1, read, deny", "p, alice, data1", "p, bob, data_2, read, Deny", "p, bob, data1, read, allow # note",
        "g, carol, role:x/y, z, w",
    )  # fmt: skip
    used = 0
    for _ in range(40):
        rows = lines(chance, kind)
        rows.insert(chance.randrange(len(rows)), chance.choice(mistakes))
        made = import_casbin(MODELS[kind], "\n".join(rows), tenant="acme")
        if not made.usable:
            continue
        used += 1
        said = [row for n, row in enumerate(rows, 1) if n not in {u.line for u in made.unmapped}]
        judge = stock(tmp_path, MODELS[kind], "\n".join(said))
        assert differences(made, judge, domains=kind == "domains")[2] == []
    assert used < 40


DENIES = [
    ("P, bob, data1, read, deny", "dropped without a word"),
    ('p, "bob", data1, read, deny', "part of the name"),
    ("p, bob, data1, read, deny # for now", "part of the column"),
    ("p, bob, (data1, read, deny", "between brackets"),
    ("p, bob, data1, read, Deny", "does nothing"),
    ("p, bob, data1, read", "3 columns where 4 are needed"),
    ("p, bob, data*, read, deny", "object or action"),
    ("p, b b, data1, read, deny", "subject"),
    ("p, bob, , read, deny", "an empty name"),
    ("g, bob, admin, t1", "3 columns where 2 are needed"),
    ("p2, bob, data1, read, deny", "never looked at"),
    ("\ufeffp, bob, data1, read, deny", "these characters"),
]


@pytest.mark.parametrize(("line", "casbin_says"), DENIES)
def test_attack_a_deny_line_that_casbin_misreads_keeps_the_bundle_from_being_made(line: str, casbin_says: str) -> None:
    made = import_casbin(PLAIN, f"p, bob, data1, read, allow\n{line}\n", tenant="acme")
    assert not made.usable
    (lost,) = [each for each in made.unmapped if each.line == 2]
    assert casbin_says in lost.casbin
    assert lost.widens


def test_a_deny_line_that_the_effect_ignores_is_told_with_both_meanings() -> None:
    made = import_casbin(PLAIN.replace(EFFECT, "some(where (p.eft == allow))"), "p, bob, data1, read, deny\n", tenant="acme")
    assert not made.usable
    assert ("ignored" in made.unmapped[0].casbin, made.unmapped[0].meant) == (True, "a deny")


def test_an_allow_line_that_cannot_be_said_only_narrows_and_is_told() -> None:
    made = import_casbin(PLAIN, "p, bob, data1, read, allow\np, bob, data*, read, allow\n", tenant="acme")
    assert made.usable
    assert [(each.line, each.widens) for each in made.unmapped] == [(2, False)]


def test_names_that_would_become_one_are_not_joined() -> None:
    made = import_casbin(PLAIN, "p, bob, data_1, read, allow\np, eve, data-1, write, allow\n", tenant="acme")
    assert [each.line for each in made.unmapped] == [1, 2]
    assert made.tools == {}
    made = import_casbin(PLAIN, "g, bob, a_b\ng, eve, a-b\np, a_b, data1, read, allow\n", tenant="acme")
    assert not made.usable


@pytest.mark.parametrize("steps", [9, 10])
def test_roles_deeper_than_casbin_looks_are_told(steps: int) -> None:
    chain = "".join(f"g, r{n}, r{n + 1}\n" for n in range(steps))
    made = import_casbin(PLAIN, chain + f"p, r{steps}, data1, read, allow\n", tenant="acme")
    assert made.usable is (steps == 9)
    assert not import_casbin(PLAIN, "g, a, b\ng, b, a\np, a, data1, read, allow\n", tenant="acme").usable


def test_objects_that_are_tools_already_stay_what_they_are() -> None:
    policy = "p, bob, erp.read, call, allow\np, bob, mail.*, call, deny\np, eve, mail.send, call, allow\n"
    made = import_casbin(PATTERNS, policy, tenant="acme")
    assert made.unmapped == ()
    assert set(made.tools.values()) == {"erp.read", "mail.send"}
    assert "p, user:corp/bob, acme, mail.*, call, deny, -, -, L2\n" in made.texts["grants/imported.csv"]


def test_agents_and_typed_names_keep_their_kind() -> None:
    policy = "g, helper, crew\ng, user:okta/eve, crew\np, crew, data1, read, allow\np, svc:batch, data1, read, allow\n"
    made = import_casbin(PLAIN, policy, tenant="acme", issuer="okta", agents={"helper"})
    assert made.names == {
        "helper": "agent:helper",
        "user:okta/eve": "user:okta/eve",
        "crew": "role:crew",
        "svc:batch": "svc:batch",
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (PLAIN.replace("r.obj == p.obj", "keyMatch2(r.obj, p.obj)"), "keyMatch2"),
        (PLAIN.replace("r.obj == p.obj", "regexMatch(r.obj, p.obj)"), "regexMatch"),
        (PLAIN.replace("r.obj == p.obj", 'r.sub == "root" || r.obj == p.obj'), "r.sub == 'root'"),
        (PLAIN.replace("&& r.obj == p.obj", ""), "never compares r.obj"),
        (PLAIN.replace("g(r.sub, p.sub)", "g(r.sub, p.sub) || r.obj == p.obj"), "mixes fields"),
        (PLAIN.replace(EFFECT, "!some(where (p.eft == deny))"), "this effect"),
        (PLAIN.replace(EFFECT, "priority(p.eft) || deny"), "this effect"),
        (PLAIN.replace("p = sub, obj, act, eft", "p = sub, rule, obj, act, eft"), "'rule'"),
        (PLAIN + "m2 = r.sub == p.sub\n", "'m2'"),
        (PLAIN + "[matchers]\nm = r.sub == p.sub\n", "twice"),
        (PLAIN + "[extra]\n", "[extra]"),
        (DOMAINS.replace("g(r.sub, p.sub, r.dom)", "g(r.sub, p.sub)"), "g(r.sub, p.sub)"),
        (DOMAINS.replace("g = _, _, _", "g = _, _").replace("g(r.sub, p.sub, r.dom)", "g(r.sub, p.sub)"), "domains"),
        ("", "missing"),
    ],
)
def test_a_model_that_is_not_understood_whole_is_refused(changed: str, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        import_casbin(changed, "p, bob, data1, read, allow\n", tenant="acme")
    assert any(message in finding.message for finding in caught.value.findings)
    assert {finding.code for finding in caught.value.findings} == {"unmapped-model"}


@pytest.mark.parametrize("names", [{"tenant": "A b"}, {"tenant": "acme", "issuer": "x/y"}, {"tenant": "acme", "agents": {"a b"}}])
def test_options_that_are_no_names_are_refused(names: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is no name"):
        import_casbin(PLAIN, "", **names)  # type: ignore[arg-type]
