"""A bundle is loaded whole or not at all, and every mistake is shown with its place and the next step."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from policies.bundle import Bundle, BundleError, Finding, load

Find = Callable[[dict[str, str | bytes | None]], tuple[Finding, ...]]
GRANT = "grants/people.csv"


def grant(**cells: str) -> dict[str, str | bytes | None]:
    line = {"who": "role:buyer", "tenant": "acme", "tool": "erp.write_po", "action": "call", "effect": "allow"}
    line |= {"when": "-", "must": "-", "rule": "BUY-1"} | cells
    return {GRANT: f"# a comment\np, {', '.join(line.values())}\n"}


def role(line: str) -> dict[str, str | bytes | None]:
    return {"roles.csv": f"g, idp:buyers, role:buyer, acme\n{line}\n"}


MODEL = "model.conf"


def test_a_good_bundle_has_its_rules_in_order_with_their_places(bundle: Bundle) -> None:
    assert [(r.id, str(r.source), r.effect) for r in bundle.rules] == [
        ("SEC-1", "grants/guardrails.csv:1", "require"),
        ("BUY-1", "grants/people.csv:1", "allow"),
    ]
    assert bundle.tools["erp.write_po"].args == {"supplier": "string", "amount": "number"}
    assert bundle.tools["erp.write_po"].labels == ("writes:finance",)
    assert bundle.tools["mail.send"].risk == "high"
    assert bundle.tools["mail.send"].tenants == {"acme"}
    assert bundle.tenants == {"acme", "other"}
    assert bundle.obligations["full-audit"].params == {"arguments": "full"}
    assert bundle.conditions["small"].say == "small orders"


def test_a_bundle_cannot_be_changed(bundle: Bundle) -> None:
    with pytest.raises(FrozenInstanceError):
        bundle.digest = "x"  # type: ignore[misc]
    for mapping in (bundle.tools, bundle.conditions, bundle.obligations, bundle.sets, bundle.tools["erp.read"].args):
        with pytest.raises(TypeError):
            mapping["x"] = 1  # type: ignore[index]


def test_the_digest_names_what_decides_and_nothing_else(write: Any) -> None:
    digest = load(write()).digest
    assert digest.startswith("sha256:")
    assert len(digest) == 71
    tests = {"tests/x.yaml": "anything: [", "README.md": "words"}
    assert load(write(tests)).digest == digest
    assert load(write({"grants/more.csv": ""})).digest != digest
    assert load(write({"grants/more.csv": None, "roles.csv": "g, idp:buyers, role:buyer, acme\n"})).digest != digest


def test_the_digest_tells_files_apart_that_read_alike_when_joined(write: Any) -> None:
    one = load(write({"grants/a.csv": "# x\n", "grants/b.csv": ""})).digest
    assert load(write({"grants/a.csv": "", "grants/b.csv": "# x\n"})).digest != one


def test_line_ends_of_other_systems_are_read_and_change_nothing(write: Any) -> None:
    digest = load(write()).digest
    assert (
        load(write({"roles.csv": b"g, idp:buyers, role:buyer, acme\r\ng, agent:helper, agents:crew, acme\r\n"})).digest == digest
    )


def test_all_findings_are_shown_and_not_the_first(findings: Find) -> None:
    found = findings(grant(effect="alow", tool="erp.wriite_po") | role("g, idp:x, buyer, acme") | {"obligations.yaml": "a: {}\n"})
    assert {f.code for f in found} >= {"unknown-effect", "unknown-tool", "unknown-kind", "missing-key"}
    assert [f.file for f in found] == sorted(f.file for f in found)


def test_a_finding_has_its_line_and_points_at_the_cell(findings: Find) -> None:
    (found,) = findings(grant(effect="Deny"))
    assert (found.code, found.file, found.line, found.column) == ("unknown-effect", GRANT, 2, 42)
    assert found.text == "p, role:buyer, acme, erp.write_po, call, Deny, -, -, BUY-1"
    assert found.text[found.column - 1 :].startswith("Deny")
    assert found.help == "did you mean 'deny'?"


CELLS: list[tuple[dict[str, str | bytes | None], str, str]] = [
    (grant(effect="dney"), "unknown-effect", "did you mean 'deny'?"),
    (grant(action="cal"), "unknown-action", "did you mean 'call'?"),
    (grant(action="list"), "unknown-action", "known are call, relay, *"),
    (grant(action="read"), "unknown-action", ""),
    (grant(who="role:buyr"), "unknown-role", "did you mean 'role:buyer'?"),
    (grant(who="role:buyer", tenant="other"), "unknown-role", ""),
    (grant(who="agents:crw"), "unknown-role", "did you mean 'agents:crew'?"),
    (grant(who="buyer"), "unknown-kind", ""),
    (grant(who="user:paul"), "unknown-kind", ""),
    (grant(who="user:*"), "unknown-kind", ""),
    (grant(who="user:dev/*"), "unknown-kind", ""),
    (grant(who="idp:team-*"), "unknown-kind", ""),
    (grant(who="agnt:x"), "unknown-kind", "did you mean 'agent:'?"),
    (grant(who="agent:A"), "unknown-kind", ""),
    (grant(tenant="acne"), "unknown-tenant", "did you mean 'acme'?"),
    (grant(tool="erp.write_p"), "unknown-tool", "did you mean 'erp.write_po'?"),
    (grant(tool="erpp.*"), "unknown-tool", "did you mean 'erp.*'?"),
    (grant(tool="*.read"), "odd-tool", "a '*' stands at the end"),
    (grant(tool="erp.re*"), "odd-tool", "a '*' stands at the end"),
    (grant(tool="erp*"), "odd-tool", ""),
    (grant(tool="erp.*.x"), "odd-tool", ""),
    (grant(tool="*"), "odd-tool", "write <server>.*"),
    (grant(tool="a2a:*x", action="send"), "odd-tool", ""),
    (grant(tool="a2a:Helper", action="send"), "odd-tool", ""),
    (grant(tool="a2a:helper", action="call"), "unknown-action", "write 'send'"),
    (grant(tool="erp.read", action="send"), "unknown-action", "write 'call'"),
    (grant(tool="set:readin"), "unknown-set", "did you mean 'set:reading'?"),
    (grant(tool="mail.send", tenant="other", who="*"), "unknown-tool", "name the tenant"),
    (grant(when="smal"), "unknown-condition", "did you mean 'small'?"),
    (grant(tool="erp.read", when="small"), "bad-condition", ""),
    (grant(tool="erp.*", when="small"), "bad-condition", ""),
    (grant(tool="a2a:helper", action="send", when="small"), "unknown-argument", "name the tools"),
    (grant(tool="*", effect="deny", action="*", when="small"), "unknown-argument", ""),
    (grant(must="full-audit"), "odd-duty", "a 'require' line"),
    (grant(effect="require"), "odd-duty", ""),
    (grant(effect="require", must="full-audt"), "unknown-duty", "did you mean 'full-audit'?"),
    (grant(rule="SEC-1"), "duplicate-id", "an id of its own"),
    (grant(rule="a b"), "odd-name", ""),
    (grant(rule='"x"'), "odd-character", ""),
    (grant(who=""), "empty-cell", ""),
    (grant(rule=""), "empty-cell", "an id of its own"),
    (grant(when="# later"), "odd-character", "a line of its own"),
    ({GRANT: "P, role:buyer, acme, erp.write_po, call, deny, -, -, BUY-1\n"}, "unknown-line", "starts with 'p'"),
    ({GRANT: "p2, role:buyer, acme, erp.write_po, call, deny, -, -, BUY-1\n"}, "unknown-line", ""),
    ({GRANT: "p, role:buyer, acme, erp.write_po, call, deny, -, -\n"}, "wrong-column-count", "the columns are"),
    ({GRANT: "p, role:buyer, acme, erp.write_po, call, deny, -, -, BUY-1,\n"}, "wrong-column-count", ""),
    ({GRANT: 'p, role:buyer, acme, "erp.read, erp.write_po", call, deny, -, -, BUY-1\n'}, "wrong-column-count", ""),
    ({GRANT: "p, " + "x" * 2000}, "too-large", ""),
    (role("g, idp:x, role:buyer, *"), "unknown-tenant", ""),
    (role("g, idp:x, idp:y, acme"), "odd-role", ""),
    (role("g, user:dev/x, agents:crew, acme"), "odd-role", "members are agent, agents"),
    (role("g, agents:crew, role:buyer, acme"), "odd-role", ""),
    (role("g, role:buyer, role:boss, acme\ng, role:boss, role:buyer, acme"), "role-circle", "take one of the lines out"),
    (role("g, role:buyer, role:buyer, acme"), "role-circle", ""),
    (role("p, idp:x, role:buyer, acme"), "unknown-line", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "code", "help_"), CELLS, ids=lambda case: next(iter(case.values()))[:70] if isinstance(case, dict) else ""
)
def test_a_line_that_does_not_say_what_it_seems_to_say_is_a_finding(findings: Find, changes: Any, code: str, help_: str) -> None:
    found = [f for f in findings(changes) if f.code == code]
    assert found, findings(changes)
    assert help_ in found[0].help


FILES_WRONG: list[tuple[dict[str, str | bytes | None], str, str]] = [
    ({"model.conf": None}, "missing-file", "model.conf"),
    ({"conditions.yaml": None}, "missing-file", "conditions.yaml"),
    ({"grants/x.txt": "x"}, "stray-file", "grants/x.txt"),
    ({"grants/deny.CSV": "x"}, "stray-file", "grants/deny.CSV"),
    ({"grants/.people.csv.swp": "x"}, "stray-file", "grants/.people.csv.swp"),
    ({"policy.csv": "x"}, "stray-file", "policy.csv"),
    ({"workflows/po.yaml": "workflow: x"}, "empty-workflow", "workflows/po.yaml"),
    ({"workflows/po.yml": "workflow: x"}, "stray-file", "workflows/po.yml"),
    ({"grants/people.csv": b"\xef\xbb\xbfp, *, acme, erp.read, call, deny, -, -, X-1\n"}, "byte-order-mark", GRANT),
    ({"grants/people.csv": b"p, *, acme, \xff, call, deny, -, -, X-1\n"}, "not-utf8", GRANT),
    ({"grants/people.csv": "p, *, acme, erp.read, call, deny, -, -, X-1\u200b\n"}, "invisible-character", GRANT),
    ({"grants/people.csv": "p, *, acme, erp.read, call, allow, -, -, X-1 # \u202e\n"}, "invisible-character", GRANT),
    ({"grants/people.csv": b"p, *\x00"}, "invisible-character", GRANT),
    ({"grants/people.csv": b"# x\rp, *, acme, erp.read, call, deny, -, -, X-1\n"}, "invisible-character", GRANT),
    ({"tools.yaml": "tenants: [acme\n"}, "not-yaml", "tools.yaml"),
    ({"tools.yaml": "[" * 5_000}, "not-yaml", "tools.yaml"),
    ({"tools.yaml": "x" * 1_100_000}, "too-large", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme, other]\ntenants: [x]\n"}, "duplicate-key", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\ntools:\n  a.b: &x {args: {}}\n  c.d: *x\n"}, "alias", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\ntools: !!python/object:os.system {}\n"}, "wrong-type", "tools.yaml"),
    ({"tools.yaml": "- a\n"}, "wrong-type", "tools.yaml"),
    ({"tools.yaml": "tools: {}\n"}, "missing-key", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\ntols: {}\n"}, "unknown-key", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\ntools:\n  erp: {}\n"}, "odd-name", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\ntools:\n  'erp.*': {}\n"}, "odd-name", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\ntools:\n  erp.x: {args: {a: text}}\n"}, "unknown-type", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\ntools:\n  erp.x: {risk: hihg}\n"}, "unknown-risk", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\ntools:\n  erp.x: {tenants: [acne]}\n"}, "unknown-tenant", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\nsets:\n  'set:x': [erp.x]\n"}, "unknown-tool", "tools.yaml"),
    ({"tools.yaml": "tenants: [acme]\nsets:\n  x: []\n"}, "odd-name", "tools.yaml"),
    ({"conditions.yaml": "small: {if: args.amount < 1}\n"}, "missing-key", "conditions.yaml"),
    ({"conditions.yaml": "small: {if: args.amount < 1, say: x, then: y}\n"}, "unknown-key", "conditions.yaml"),
    ({"conditions.yaml": "small: {if: true, say: x}\n"}, "wrong-type", "conditions.yaml"),
    ({"conditions.yaml": "small: {if: args.amount = 1, say: x}\n"}, "bad-condition", "conditions.yaml"),
    ({"conditions.yaml": "small: {if: args.amuont <= 100, say: x}\n"}, "bad-condition", "conditions.yaml"),
    ({"conditions.yaml": "small: {if: 'args.amount <= \"100\"', say: x}\n"}, "bad-condition", "conditions.yaml"),
    ({"obligations.yaml": "full-audit: {arguments: full}\n"}, "missing-key", "obligations.yaml"),
    ({"obligations.yaml": "full-audit: audit\n"}, "wrong-type", "obligations.yaml"),
]


@pytest.mark.parametrize(("changes", "code", "file"), FILES_WRONG, ids=lambda case: case if isinstance(case, str) else "")
def test_a_file_that_is_wrong_missing_or_stray_is_a_finding(findings: Find, changes: Any, code: str, file: str) -> None:
    assert (code, file) in [(f.code, f.file) for f in findings(changes)]


def test_a_condition_that_names_an_unknown_argument_says_which_tool_and_suggests_the_right_name(findings: Find) -> None:
    (found,) = findings({"conditions.yaml": "small:\n  if: args.amuont <= 100\n  say: x\n"})
    assert (found.file, found.line, found.column) == ("conditions.yaml", 2, 7)
    assert "erp.write_po (rule BUY-1): there is no argument 'amuont'" in found.message
    assert found.help == "did you mean 'amount'?"


def matcher(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


MODELS: list[tuple[str, Callable[[str], str]]] = [
    ("an effect that allows what nothing denies", matcher("some(where (p.eft == allow)) && !some", "!some")),
    ("an effect in which an allow overrides", matcher(" && !some(where (p.eft == deny))", "")),
    ("priority", matcher("some(where (p.eft == allow)) && !some(where (p.eft == deny))", "priority(p.eft) || deny")),
    ("roles without tenants", matcher("g = _, _, _", "g = _, _")),
    ("conditional roles", matcher("g = _, _, _", "g = _, _, _, (_, _)")),
    ("roles asked without the tenant", matcher("g(r.sub, p.sub, r.dom)", "g(r.sub, p.sub)")),
    ("a second effect", lambda text: text.replace("[matchers]", "e2 = some(where (p.eft == allow))\n[matchers]")),
    ("a second matcher", lambda text: text + "\nm2 = r.sub == p.sub\n"),
    ("the same matcher twice", lambda text: text + "\nm = r.sub == p.sub\n"),
    ("an unknown section", lambda text: text + "\n[constraint_definition]\nc = x\n"),
    ("eval", matcher("when(p.cond, p.eft, r.ctx)", "eval(p.cond)")),
    ("a regular expression", matcher("keyMatch(r.obj, p.obj)", "regexMatch(r.obj, p.obj)")),
    ("a pattern with wildcards in the middle", matcher("keyMatch(r.obj, p.obj)", "keyMatch2(r.obj, p.obj)")),
    ("attributes of the request", matcher("hit(p.id)", 'r.ctx.admin == "x" && hit(p.id)')),
    ("negation", matcher("g2(r.obj, p.obj)", "!(g2(r.obj, p.obj))")),
    ("conditions that are never asked", matcher(" && when(p.cond, p.eft, r.ctx)", "")),
    ("rules that are never heard", matcher(" && hit(p.id)", "")),
    ("rules that are heard too early", lambda t: t.replace(" && hit(p.id)", "").replace("m = ", "m = hit(p.id) && ")),
    ("a tenant that is never compared", matcher(' && (r.dom == p.dom || p.dom == "*")', "")),
    ("a subject that is never compared", matcher(' && (p.sub == "*" || g(r.sub, p.sub, r.dom))', "")),
    ("a comment within the matcher", matcher(" && when(", " # && when(")),
    ("a continued line", matcher("m = ", "m = \\\n")),
    ("more fields of a rule", matcher("eft, id", "eft, id, extra")),
    ("no text", lambda _text: ""),
    ("an unknown key", lambda text: text + "\nx = 1\n"),
    ("everything allowed", lambda text: text[: text.index("m = ")] + "m = True\n"),
]


@pytest.mark.parametrize("change", [change for _, change in MODELS], ids=[name for name, _ in MODELS])
def test_a_model_that_could_fail_open_is_a_finding(findings: Find, write: Any, change: Callable[[str], str]) -> None:
    text = (write() / MODEL).read_text()
    assert change(text) != text
    assert "odd-model" in [f.code for f in findings({MODEL: change(text)})]


def test_a_missing_folder_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        load(tmp_path / "nowhere")
    assert caught.value.findings[0].code == "no-bundle"


@pytest.mark.parametrize(("named", "meant"), [("shop", "shop/policies"), ("shop/policies/grants", "shop/policies")])
def test_a_folder_above_or_inside_a_bundle_is_one_finding_that_names_the_bundle(
    write: Any, tmp_path: Path, named: str, meant: str
) -> None:
    shutil.copytree(write(), tmp_path / "shop/policies", ignore=shutil.ignore_patterns("shop"))
    with pytest.raises(BundleError) as caught:
        load(tmp_path / named)
    (found,) = caught.value.findings
    assert (found.code, found.help) == ("no-bundle", f"did you mean {tmp_path / meant}?")


def test_lines_for_a_tenant_are_told_where_tenants_are_named_when_none_is(findings: Find) -> None:
    found = [each.help for each in findings({"tools.yaml": "tools: {}\n"}) if each.code == "unknown-tenant"]
    assert set(found) == {"tools.yaml must name the tenants"}


def test_the_names_with_which_kubernetes_swaps_a_mounted_folder_are_read_over(write: Any) -> None:
    folder = write()
    real = folder / "..2026_09_09"
    real.mkdir()
    (folder / "roles.csv").rename(real / "roles.csv")
    (folder / "..data").symlink_to(real)
    (folder / "roles.csv").symlink_to(folder / "..data" / "roles.csv")
    assert len(load(folder).roles) == 2


def test_the_number_of_findings_is_bounded(findings: Find) -> None:
    assert len(findings({GRANT: "x\n" * 5000})) == 200
    wrong = "".join(f"p, rule:buyer, acne, erp.wriite_po{n}, cal, alow, smal, -, X-{n}\n" for n in range(20_000))
    assert len(findings({GRANT: wrong})) == 200


def test_a_damaged_bundle_is_refused_with_findings_or_loads_and_never_fails_otherwise(write: Any) -> None:
    rng = random.Random(11)
    texts = {path.name: path.read_bytes() for path in write().rglob("*") if path.is_file()}
    refused = 0
    for _ in range(150):
        name = rng.choice(["roles.csv", "tools.yaml", "conditions.yaml", "obligations.yaml", "model.conf", GRANT])
        data = bytearray(texts[name.rsplit("/", maxsplit=1)[-1]])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice(
                [b"", b"\x00", b"*", b"{", b"\xff", b",", b"\n", b"'", b": ", b"- ", b"&a "]
            )
        try:
            load(write({name: bytes(data)}))
        except BundleError as error:
            refused += len(error.findings) > 0
        write({name: texts[name.rsplit("/", maxsplit=1)[-1]]})
    assert refused > 75
