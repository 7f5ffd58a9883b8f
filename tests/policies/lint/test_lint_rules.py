"""Each lint rule finds its planted mistake at its line, and says nothing of what is in order."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from policies import bundle as bundle_module
from policies.bundle import Bundle, load, load_texts
from policies.canonical import digest_of
from policies.lint import RULES, Facts, Result, lint
from policies.lock import Approved, Lock, render
from policies.reading import Item

ROOT = Path(bundle_module.__file__).resolve().parents[1]
MODEL = (ROOT / "policies/default/model.conf").read_text()

BASE = {
    "model.conf": MODEL,
    "roles.csv": "g, idp:buyers, role:buyer, acme\ng, agent:helper, agents:crew, acme\n",
    "tools.yaml": """\
tenants: [acme]
tools:
  erp.read: {args: {id: string}, risk: low}
  erp.write_po: {args: {supplier: string, amount: number, lines: integer}, labels: [writes:finance], risk: high}
  mail.send: {args: {to: string}}
sets:
  "set:reading": [erp.read]
""",
    "conditions.yaml": "small: {if: args.amount <= 100, say: small orders}\n",
    "obligations.yaml": "full-audit: {type: audit, arguments: full}\n",
    "grants/people.csv": """\
p, role:buyer, acme, erp.write_po, call, allow, small, -, BUY-1
p, role:buyer, acme, set:reading, call, allow, -, -, BUY-2
p, agents:crew, acme, mail.send, call, allow, -, -, CREW-1
""",
    "grants/guardrails.csv": "p, *, acme, erp.write_po, call, require, -, full-audit, SEC-1\n",
}


def bundle(changes: dict[str, str] | None = None, *, more: str = "", conditions: str = "", roles: str = "") -> Bundle:
    texts = BASE | (changes or {})
    texts["grants/more.csv"] = more
    texts["conditions.yaml"] += conditions
    texts["roles.csv"] += roles
    return load_texts(texts)


def found(result: Result, code: str) -> list[tuple[str, int, int]]:
    return [(c.finding.file, c.finding.line, c.finding.column) for c in result.complaints if c.finding.code == code]


def codes(result: Result) -> set[str]:
    return {c.finding.code for c in result.complaints}


def test_a_bundle_in_order_gets_no_finding() -> None:
    assert lint(bundle()).complaints == ()


@pytest.mark.parametrize("folder", ["examples/procurement/policies", "policies/default"])
def test_the_bundles_that_are_shipped_get_no_finding(folder: str) -> None:
    result = lint(
        load(ROOT / folder),
        Facts(duties=frozenset({"audit", "human-approval", "redact-result", "sandbox"}), now=datetime.now(UTC)),
    )
    assert [str(each.finding) for each in result.complaints] == []
    assert all(each.why for each in result.suppressed)


def test_what_rules_about_labels_name_is_used_and_what_they_guard_is_guarded() -> None:
    rule = "{after: source:books, deny: [writes:finance, sink:external], unless: large, must: hide}"
    changes = {
        "tools.yaml": BASE["tools.yaml"].replace("{to: string}}", "{to: string}, labels: [sink:external]}")
        + "labels: {'res:books/*': [source:books]}\n",
        "obligations.yaml": BASE["obligations.yaml"] + "hide: {type: redact-result, fields: [iban]}\n",
        "workflows/w.yaml": f"workflow: w\nmode: shadow\ntaint: [{rule}]\n",
    }
    assert lint(bundle(changes, conditions="large: {if: args.amount > 5, say: s}\n")).complaints == ()


@pytest.mark.parametrize(
    ("code", "changes", "place"),
    [
        ("shadowed-line", {"more": "p, idp:buyers, acme, erp.read, call, allow, -, -, X-1\n"}, ("grants/more.csv", 1, 51)),
        ("shadowed-line", {"more": "p, role:buyer, acme, erp.read, relay, allow, -, -, X-1\n"}, ("grants/more.csv", 1, 52)),
        (
            "shadowed-line",
            {
                "more": "p, role:buyer, acme, erp.write_po, call, allow, tiny, -, X-1\n",
                "conditions": "tiny: {if: args.amount < 50 and args.supplier == 'S-1', say: s}\n",
            },
            ("grants/more.csv", 1, 58),
        ),
        (
            "shadowed-line",
            {"more": "p, role:buyer, acme, erp.write_po, call, require, small, full-audit, X-1\n"},
            ("grants/more.csv", 1, 70),
        ),
        (
            "denied-allow",
            {"more": "p, *, acme, mail.*, call, deny, -, -, NO-1\np, role:buyer, acme, mail.send, call, allow, -, -, X-1\n"},
            ("grants/more.csv", 2, 52),
        ),
        ("everyone", {"more": "p, *, acme, mail.send, call, allow, -, -, X-1\n"}, ("grants/more.csv", 1, 4)),
        (
            "empty-role",
            {
                "roles": "g, role:ghost, role:phantom, acme\n",
                "more": "p, role:phantom, acme, mail.send, call, allow, -, -, X-1\n",
            },
            ("grants/more.csv", 1, 4),
        ),
        ("never-asked", {"more": "p, role:buyer, acme, mail.send, relay, allow, -, -, X-1\n"}, ("grants/more.csv", 1, 33)),
        ("unused-condition", {"conditions": "large: {if: args.amount > 5, say: s}\n"}, ("conditions.yaml", 2, 1)),
        (
            "unused-duty",
            {"changes": {"obligations.yaml": BASE["obligations.yaml"] + "hide: {type: redact-result, fields: [iban]}\n"}},
            ("obligations.yaml", 2, 1),
        ),
        (
            "unused-set",
            {"changes": {"tools.yaml": BASE["tools.yaml"] + '  "set:writing": [erp.write_po]\n'}},
            ("tools.yaml", 8, 3),
        ),
        (
            "unused-tool",
            {"changes": {"tools.yaml": BASE["tools.yaml"].replace("sets:", "  files.write: {}\nsets:")}},
            ("tools.yaml", 6, 3),
        ),
        (
            "unset-label",
            {"changes": {"workflows/w.yaml": "workflow: w\ntaint:\n  - {after: source:orders, deny: writes:finance}\n"}},
            ("workflows/w.yaml", 3, 5),
        ),
        (
            "unset-label",
            {
                "changes": {
                    "workflows/w.yaml": "workflow: w\ntaint:\n  - {after: writes:finance, deny: [writes:finance, sink:x]}\n"
                }
            },
            ("workflows/w.yaml", 3, 5),
        ),
        (
            "idle-exemption",
            {
                "changes": {
                    "workflows/w.yaml": "workflow: w\ntaint:\n  - {after: writes:finance, deny: writes:finance, unless: inside}\n"
                },
                "conditions": "inside: {if: args.to == 'me', say: s}\n",
            },
            ("workflows/w.yaml", 3, 5),
        ),
        *(
            (code, {"changes": {"workflows/w.yaml": f"workflow: w\n{text}\n"}}, ("workflows/w.yaml", 3, column))
            for code, text, column in (
                # nobody may read as that agent; nobody may send to it; nobody's grant covers the end of the lock
                ("unreachable-step", "before:\n  - {tool: mail.send, needs: erp.read, by: agent:helper}", 5),
                ("unreachable-step", "chain:\n  - {steps: ['a2a:helper', mail.send]}", 5),
                ("unreachable-step", "distinct:\n  - {steps: [mail.send, 'res:books/file:///x']}", 5),
                ("unbound-step", "binds: [{agent: agent:helper}]\nonce: [{tool: mail.send}]", 8),
                ("unbound-step", "binds: [{tool: mail.send, agent: agent:helper}]\nbudget: [{tool: mail.send, count: 1}]", 10),
            )
        ),
        (
            "unmeetable-budget",
            {
                "changes": {
                    "workflows/w.yaml": "workflow: w\nbudget:\n  - {tool: erp.write_po, sum: amount, max: 500}\n",
                    "grants/people.csv": BASE["grants/people.csv"].replace("small", "large"),
                },
                "conditions": "large: {if: args.amount >= 1000, say: large orders}\n",
            },
            ("workflows/w.yaml", 3, 5),
        ),
        (
            "unmeetable-budget",
            {"changes": {"workflows/w.yaml": "workflow: w\nbudget:\n  - {tool: erp.write_po, by: agent:helper, count: 3}\n"}},
            ("workflows/w.yaml", 3, 5),
        ),
        (
            "uncounted-budget",
            {
                "changes": {"obligations.yaml": BASE["obligations.yaml"] + "few: {type: budget, sum: amount, max: 9}\n"},
                "more": "p, *, acme, erp.write_po, call, require, -, few, X-1\n"
                "p, *, acme, mail.send, call, require, -, few, X-2\n",
            },
            ("grants/more.csv", 2, 1),
        ),
        (
            "unguarded-sink",
            {"changes": {"tools.yaml": BASE["tools.yaml"].replace("{to: string}}", "{to: string}, labels: [sink:external]}")}},
            ("tools.yaml", 5, 3),
        ),
        (
            "unguarded-sink",
            {"changes": {"tools.yaml": BASE["tools.yaml"] + "labels: {'a2a:*': [sink:external]}\n"}},
            ("tools.yaml", 8, 10),
        ),
        ("unused-role", {"roles": "g, idp:guests, role:guest, acme\n"}, ("roles.csv", 3, 4)),
        ("repeated-membership", {"roles": "g, idp:buyers, role:buyer, acme\n"}, ("roles.csv", 3, 4)),
        ("named-person", {"more": "p, user:corp/eve, acme, mail.send, call, allow, -, -, X-1\n"}, ("grants/more.csv", 1, 4)),
        ("named-person", {"roles": "g, user:corp/eve, role:buyer, acme\n"}, ("roles.csv", 3, 4)),
        (
            "constant-condition",
            {
                "conditions": "odd: {if: args.amount > 100 and args.amount < 50, say: s}\n",
                "more": "p, role:buyer, acme, erp.write_po, call, deny, odd, -, X-1\n",
            },
            ("conditions.yaml", 2, 11),
        ),
        (
            "constant-condition",
            {
                "conditions": "odd: {if: args.lines > 1 and args.lines < 2, say: s}\n",
                "more": "p, role:buyer, acme, erp.write_po, call, deny, odd, -, X-1\n",
            },
            ("conditions.yaml", 2, 11),
        ),
        (
            "constant-condition",
            {
                "conditions": "odd: {if: time.hour < 24, say: s}\n",
                "more": "p, role:buyer, acme, mail.send, call, deny, odd, -, X-1\n",
            },
            ("conditions.yaml", 2, 11),
        ),
        (
            "undecidable-condition",
            {
                "conditions": "odd: {if: user.id, say: s}\n",
                "more": "p, role:buyer, acme, mail.send, call, deny, odd, -, X-1\n",
            },
            None,
        ),
    ],
)
def test_the_planted_mistake_is_found_at_its_place(
    code: str, changes: dict[str, object], place: tuple[str, int, int] | None
) -> None:
    if place is None:  # the language itself refuses it
        with pytest.raises(bundle_module.BundleError):
            bundle(**changes)  # type: ignore[arg-type]
        return
    result = lint(bundle(**changes))  # type: ignore[arg-type]
    assert place in found(result, code)
    complaint = next(each for each in result.complaints if each.finding.code == code)
    assert complaint.finding.help
    assert complaint.finding.text
    assert complaint.severity == RULES[code].severity


@pytest.mark.parametrize(
    "text",
    [
        "before: [{tool: mail.send, needs: erp.read}]",
        "before: [{tool: erp.read, needs: mail.send, by: agent:helper}]",
        "before: [{tool: erp.read, needs: mail.send, by: 'agents:crew'}]",
        "distinct: [{steps: [erp.read, mail.send]}]",
        "binds: []\nonce: [{tool: mail.send}]",
        "binds: [{tool: mail.send}, {agent: agent:helper}]\nonce: [{tool: mail.send}]\nbudget: [{tool: '*', count: 9}]",
        "mode: shadow\nbinds: [{agent: agent:helper}]\nonce: [{tool: mail.send}]",
    ],
)
def test_a_step_that_somebody_may_make_and_that_is_bound_is_in_order(text: str) -> None:
    assert codes(lint(bundle({"workflows/w.yaml": f"workflow: w\n{text}\n"}))) == set()


def test_a_line_about_an_empty_set_is_found() -> None:
    tools = BASE["tools.yaml"] + '  "set:none": []\n'
    made = bundle({"tools.yaml": tools}, more="p, role:buyer, acme, set:none, call, deny, -, -, X-1\n")
    assert found(lint(made), "empty-set") == [("grants/more.csv", 1, 22)]


@pytest.mark.parametrize(
    "line",
    [
        "p, role:buyer, acme, erp.write_po, call, allow, other, -, X-1",  # neither condition covers the other
        "p, role:buyer, acme, erp.*, call, allow, -, -, X-1",  # wider than what is there
        "p, agents:crew, acme, erp.read, call, allow, -, -, X-1",  # somebody else
        "p, role:buyer, acme, mail.send, call, deny, -, -, X-1",  # another effect
    ],
)
def test_a_line_that_adds_something_is_not_called_shadowed(line: str) -> None:
    made = bundle(more=line + "\n", conditions="other: {if: args.amount <= 100.5, say: s}\n")
    shadowed = [
        c.finding.message for c in lint(made).complaints if c.finding.code == "shadowed-line" and "'X-1'" in c.finding.message
    ]
    assert shadowed == [m for m in shadowed if m.startswith("'BUY")]


def test_of_two_lines_that_say_the_same_the_later_one_is_told() -> None:
    line = "p, agents:crew, acme, erp.read, call, allow, -, -, {}\n"
    result = lint(bundle(more=line.format("X-1") + line.format("X-2")))
    assert [c.finding.message.split("'")[1] for c in result.complaints if c.finding.code == "shadowed-line"] == ["X-2"]


def test_roles_ten_levels_deep_are_told_once() -> None:
    chain = "".join(f"g, role:r{n}, role:r{n + 1}, acme\n" for n in range(12))
    made = bundle(roles=f"g, idp:deep, role:r0, acme\n{chain}", more="p, role:r12, acme, mail.send, call, allow, -, -, X-1\n")
    assert len(found(lint(made), "deep-role")) == 1
    flat = "".join(f"g, role:r{n}, role:r{n + 1}, acme\n" for n in range(8))
    made = bundle(roles=f"g, idp:deep, role:r0, acme\n{flat}", more="p, role:r8, acme, mail.send, call, allow, -, -, X-1\n")
    assert found(lint(made), "deep-role") == []


# --- emergencies

SHORT = 'time.now >= date("2026-12-01T08:00:00+00:00") and time.now < date("2026-12-01T12:00:00+00:00")'
LONG = 'time.now >= date("2026-12-01T08:00:00+00:00") and time.now < date("2026-12-01T12:00:01+00:00")'
OPEN = 'time.now >= date("2026-12-01T08:00:00+00:00")'
ESCAPED = f'{SHORT} or user.id == "user:corp/eve"'
DUTIES = (
    "full-audit: {type: audit, arguments: full}\ntell: {type: notify, to: security}\nask: {type: approve, by: 'role:buyer'}\n"
)
LOUD = "".join(
    f"p, *, acme, mail.send, call, require, -, {duty}, D-{n}\n" for n, duty in enumerate(("full-audit", "tell", "ask"))
)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (SHORT, None),
        (LONG, "holds for 4:00:01"),
        (OPEN, "no end"),
        (ESCAPED, "no beginning and no end"),
        ("", "no beginning and no end"),
    ],
)
def test_an_emergency_line_ends_within_four_hours(condition: str, message: str | None) -> None:
    conditions = f"bg: {{if: '{condition}', say: s}}\n" if condition else ""
    line = f"p, user:corp/eve, acme, mail.send, call, allow, {'bg' if condition else '-'}, -, BG-1\n"
    result = lint(bundle({"obligations.yaml": DUTIES}, more=line + LOUD, conditions=conditions))
    said = [c.finding.message for c in result.complaints if c.finding.code == "break-glass"]
    assert [message in each for each in said] == ([True] if message else [])  # type: ignore[operator]


@pytest.mark.parametrize("left_out", ["full-audit", "tell", "ask"])
def test_an_emergency_line_is_audited_told_and_approved(left_out: str) -> None:
    loud = "".join(line for line in LOUD.splitlines(keepends=True) if left_out not in line)
    line = "p, user:corp/eve, acme, mail.send, call, allow, bg, -, BG-1\n"
    result = lint(bundle({"obligations.yaml": DUTIES}, more=line + loud, conditions=f"bg: {{if: '{SHORT}', say: s}}\n"))
    assert len(found(result, "break-glass")) == 1


def test_a_duty_under_a_narrower_condition_does_not_count_for_an_emergency() -> None:
    loud = LOUD.replace("require, -, ask", "require, narrow, ask")
    narrow = "narrow: {if: 'args.to == \"a\"', say: s}\n"
    line = "p, user:corp/eve, acme, mail.send, call, allow, bg, -, BG-1\n"
    result = lint(bundle({"obligations.yaml": DUTIES}, more=line + loud, conditions=f"bg: {{if: '{SHORT}', say: s}}\n{narrow}"))
    assert len(found(result, "break-glass")) == 1


# --- what needs facts


def test_what_is_not_known_of_the_world_is_not_complained_about() -> None:
    made = bundle(
        {"obligations.yaml": "full-audit: {type: no-such-duty}\n"},
        more="p, agent:nobody, acme, mail.send, call, allow, -, -, X\n",
    )
    assert lint(made).complaints == ()


@pytest.mark.parametrize(
    ("code", "facts", "place"),
    [
        ("unfulfillable-duty", Facts(duties=frozenset({"audti"})), ("obligations.yaml", 1, 14)),
        ("unknown-agent", Facts(agents=frozenset({"helpers"})), ("roles.csv", 2, 4)),
        ("unknown-server", Facts(servers=frozenset({"erp", "mails"})), ("tools.yaml", 5, 3)),
        ("shared-credential", Facts(servers=frozenset({"erp", "mail"}), shared=frozenset({"erp"})), ("tools.yaml", 4, 3)),
        ("silent-server", Facts(silent={"mail": "no answer"}), ("tools.yaml", 5, 3)),
        ("missing-tool", Facts(live={"mail": {"sent": {}}}), ("tools.yaml", 5, 3)),
        ("unregistered-tool", Facts(live={"mail": {"send": {"to": "string"}, "drop": {}}}), ("tools.yaml", 5, 3)),
        ("differing-tool", Facts(live={"mail": {"send": {"to": "array"}}}), ("tools.yaml", 5, 22)),
        ("differing-tool", Facts(live={"mail": {"send": {}}}), ("tools.yaml", 5, 22)),
        ("differing-tool", Facts(live={"mail": {"send": {"to": "string", "cc": "string"}}}), ("tools.yaml", 5, 3)),
    ],
)
def test_what_is_known_of_the_world_is_held_against_the_bundle(code: str, facts: Facts, place: tuple[str, int, int]) -> None:
    assert found(lint(bundle(), facts), code) == [place]


def test_a_name_that_the_gateway_never_fills_in_is_told_with_the_one_that_was_meant() -> None:
    made = bundle(
        conditions="sure: {if: 'agent.asurance == \"bearer\"', say: s}\n",
        more="p, *, acme, mail.send, call, deny, sure, -, X-1\n",
    )
    (complaint,) = lint(made, Facts(context=frozenset({"agent.assurance"}))).complaints
    assert complaint.finding.code == "undecidable-condition"
    assert "did you mean 'agent.assurance'" in complaint.finding.help
    assert (complaint.finding.line, complaint.finding.column) == (2, 12)


def test_a_line_whose_time_is_over_is_told() -> None:
    made = bundle(conditions=f"bg: {{if: '{SHORT}', say: s}}\n", more="p, agents:crew, acme, erp.read, call, allow, bg, -, X-1\n")
    assert found(lint(made, Facts(now=datetime(2026, 12, 2, tzinfo=UTC))), "ended-line") == [("grants/more.csv", 1, 46)]
    assert found(lint(made, Facts(now=datetime(2026, 12, 1, 9, tzinfo=UTC))), "ended-line") == []


# --- the model


@pytest.mark.parametrize(
    ("old", "new", "wide"),
    [
        ('p.dom == "*"', 'p.dom == "*" || r.dom == "acme"', True),
        ("g2(r.obj, p.obj)", 'g2(r.obj, p.obj) || p.obj == "*"', True),
        ('r.act == p.act || p.act == "*"', 'r.act == p.act || r.act == "*"', True),
        (' || p.act == "*"', "", False),
    ],
)
def test_a_stray_constant_in_the_matcher_is_an_error(old: str, new: str, wide: bool) -> None:
    assert old in MODEL
    result = lint(bundle({"model.conf": MODEL.replace(old, new)}))
    assert codes(result) == ({"own-model", "wide-model"} if wide else {"own-model"})


# --- approved definitions


def approving(schema: dict[str, object], tool: str = "write_po", server: str = "erp") -> dict[str, str]:
    """A lock that approves one tool."""
    definition = {"name": tool, "inputSchema": schema}
    approved = Approved(definition, digest_of(definition), "anna", "2026-11-22T18:00:00Z")
    return {"tools.lock": render(Lock({server: {("tool", tool): approved}}))}


def test_arguments_that_differ_from_the_approved_definition_are_told_each_at_its_place() -> None:
    kinds = {"supplier": "string", "amount": "string", "urgent": "boolean"}
    lock = approving({"type": "object", "properties": {name: {"type": kind} for name, kind in kinds.items()}})
    result = lint(bundle(lock))
    assert found(result, "differing-schema") == [("tools.yaml", 4, 18), ("tools.yaml", 4, 43), ("tools.yaml", 4, 59)]


def test_arguments_that_agree_with_the_approved_definition_or_are_left_to_it_are_fine() -> None:
    kinds = {"supplier": "string", "amount": "number", "lines": "integer"}
    lock = approving({"type": "object", "properties": {name: {"type": kind} for name, kind in kinds.items()}})
    written = "args: {supplier: string, amount: number, lines: integer}, "
    assert written in BASE["tools.yaml"]
    for changes in (lock, lock | {"tools.yaml": BASE["tools.yaml"].replace(written, "")}):
        made = bundle(changes)
        assert codes(lint(made)) == set()
        assert dict(made.tools["erp.write_po"].args) == kinds


def test_a_lock_that_nothing_is_compared_with_is_told() -> None:
    off = {"tools.yaml": BASE["tools.yaml"] + "servers:\n  erp: {definitions: off}\n"}
    three = {"supplier": {"type": "string"}, "amount": {"type": "number"}, "lines": {"type": "integer"}}
    assert found(lint(bundle(approving({"properties": three}) | off)), "idle-lock") == [("tools.yaml", 9, 3)]
    assert found(lint(bundle(approving({}, server="erpp"))), "idle-lock") == [("tools.lock", 0, 0)]


def test_a_misspelt_server_whose_definitions_should_wait_is_told() -> None:
    entries = 'servers:\n  "*": {definitions: quarantine}\n  erpp: {definitions: quarantine}\n  mail: {suspicious: low}\n'
    result = lint(bundle({"tools.yaml": BASE["tools.yaml"] + entries}), Facts(servers=frozenset({"erp", "mail"})))
    assert found(result, "unknown-server") == [("tools.yaml", 10, 3)]


def test_every_rule_has_a_planted_mistake_here() -> None:
    text = Path(__file__).read_text()
    assert [code for code in RULES if f'"{code}"' not in text] == []


def test_each_part_of_a_file_is_gone_through_once_however_many_tools_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = "".join(f"  echo.tool-{number}:\n    args: {{amount: number}}\n" for number in range(300))
    made = bundle({"tools.yaml": BASE["tools.yaml"].replace("sets:", f"{tools}sets:")})
    walked: list[object] = []
    entries = Item.entries

    def counted(item: Item) -> list[tuple[str, Item, Item]]:
        found = entries(item)
        walked.extend(found)
        return found

    monkeypatch.setattr(Item, "entries", counted)
    lint(made)
    assert 300 < len(walked) < 3000, "of each tool its own part, of none the others'"


def demanding(terms: str, who: str = "*", *, roles: str = "", more: str = "") -> Result:
    duties = BASE["obligations.yaml"] + f"yes: {{type: human-approval, {terms}}}\n"
    line = f"p, {who}, acme, mail.send, call, require, -, yes, SEC-2\n"
    return lint(bundle({"obligations.yaml": duties}, roles=roles, more=line + more))


BOSS = "g, idp:bosses, role:boss, acme\n"
SENDS = "p, role:buyer, acme, mail.send, call, allow, -, -, BUY-9\n"


@pytest.mark.parametrize(
    ("terms", "who", "roles", "more", "wanted"),
    [
        ("by: role:boss", "*", BOSS, "", set()),
        ("by: [role:nobody, role:boss]", "*", BOSS, "", set()),
        ("by: 'user:dev/ann'", "*", "", "", set()),
        ("within: 4h", "*", "", "p, role:buyer, acme, approval:mail.send, approve, allow, -, -, BUY-8\n", set()),
        ("by: role:nobody", "*", "", "", {"unapprovable"}),
        ("by: role:robots", "*", "g, agent:helper, role:robots, acme\n", "", {"unapprovable"}),
        ("within: 4h", "*", "", "", {"unapprovable"}),
        ("by: 'user:dev/ann'", "user:dev/ann", "", "", {"unapprovable"}),
        ("by: role:buyer", "*", "", SENDS, {"own-approval"}),
        ("by: role:boss, not_same_user: false", "*", BOSS, SENDS, {"own-approval"}),
    ],
)
def test_an_approval_that_nobody_can_give_or_that_is_none_is_found(
    terms: str, who: str, roles: str, more: str, wanted: set[str]
) -> None:
    result = demanding(terms, who, roles=roles, more=more)
    told = {c.finding.code: c.finding for c in result.complaints if c.finding.code in {"unapprovable", "own-approval"}}
    assert set(told) == wanted
    assert {(each.file, each.line) for each in told.values()} <= {("obligations.yaml", 2)}
