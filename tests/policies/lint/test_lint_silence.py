"""A rule is silenced for one line, by name and for a reason, and the summary says so; a comment that silences nothing is told."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from policies import bundle as bundle_module
from policies.bundle import Bundle, BundleError, load_texts
from policies.lint import PAGES, RULES, Facts, lint, refused
from policies.lint.run import NAMES

POLICIES = Path(bundle_module.__file__).parent
TEXTS = {
    "model.conf": (POLICIES / "default/model.conf").read_text(),
    "roles.csv": "g, idp:buyers, role:buyer, acme\n",
    "tools.yaml": "tenants: [acme]\ntools:\n  mail.send: {}\n",
    "conditions.yaml": "",
    "obligations.yaml": "",
}
WIDE = "p, *, acme, mail.send, call, allow, -, -, X-1\n"
ROLE = "p, role:buyer, acme, mail.send, call, allow, always, -, B-1\n"


def bundle(grants: str, **more: str) -> Bundle:
    return load_texts(
        TEXTS | {"conditions.yaml": "always: {if: time.hour < 12, say: s}\n"} | more | {"grants/g.csv": grants + ROLE}
    )


def told(made: Bundle) -> list[tuple[str, int]]:
    return [(c.finding.code, c.finding.line) for c in lint(made).complaints]


def test_a_comment_with_a_reason_silences_the_line_below_it() -> None:
    result = lint(bundle(f"# lint: allow everyone because mail is open to all\n# lint: allow shadowed-line because of\n{WIDE}"))
    assert [each.finding.code for each in result.suppressed] == ["everyone"]
    assert result.suppressed[0].why == "mail is open to all"
    assert "everyone" not in [each.finding.code for each in result.complaints]


@pytest.mark.parametrize(
    "above",
    [
        "# lint: allow everyone because it is far away\n\n",
        "# lint: allow shadowed-line because this is another rule\n",
        "# lint: allow everyone\n",
        "# lint: allow\n",
        "# lint: allow everyon because of a slip\n",
        "# allow everyone because it lacks the word\n",
    ],
)
def test_any_other_comment_silences_nothing(above: str) -> None:
    assert "everyone" in [code for code, _ in told(bundle(above + WIDE))]


@pytest.mark.parametrize(
    ("above", "help_"),
    [
        ("# lint: allow everyone\n", "write '# lint: allow everyone because …'"),
        ("# lint: allow everyon because of a slip\n", "did you mean 'everyone'?"),
        ("# lint: allow unknown-tool because it cannot be silenced\n", ""),
    ],
)
def test_a_comment_that_is_meant_to_silence_and_does_not_is_an_error(above: str, help_: str) -> None:
    odd = [c for c in lint(bundle(above + WIDE)).complaints if c.finding.code == "odd-suppression"]
    assert [(c.severity, c.finding.line) for c in odd] == [("error", 1)]
    assert help_ in odd[0].finding.help


def test_a_comment_that_silences_nothing_is_told() -> None:
    assert ("idle-suppression", 1) in told(bundle("# lint: allow everyone because it was once needed\n"))


def test_a_comment_for_a_rule_that_had_no_facts_is_not_idle() -> None:
    made = bundle(
        "", **{"tools.yaml": "tenants: [acme]\ntools:\n  # lint: allow missing-tool because it comes\n  mail.send: {}\n"}
    )
    assert told(made) == []
    assert [c.finding.code for c in lint(made, Facts(live={"mail": {"send": {}}})).complaints] == ["idle-suppression"]


def test_what_keeps_a_bundle_from_loading_is_an_error_in_the_same_form() -> None:
    with pytest.raises(BundleError) as caught:
        bundle("# lint: allow unknown-tool because I say so\np, role:buyer, acme, mail.sned, call, allow, -, -, X-1\n")
    (complaint,) = refused(caught.value).complaints
    assert (complaint.severity, complaint.finding.code, complaint.finding.line) == ("error", "unknown-tool", 2)
    assert complaint.finding.help == "did you mean 'mail.send'?"


def test_every_rule_is_one_file_with_its_help_page() -> None:
    files = {path.stem.replace("_", "-") for path in (POLICIES / "lint/rules").glob("*.py")} - {"--init--"}
    assert files == set(NAMES) == set(RULES)
    assert [code for code, rule in RULES.items() if rule.page.count("\n\n") < 2] == []
    assert len({page.split("\n")[0] for page in PAGES.values()}) == len(PAGES)


def test_every_finding_that_keeps_a_bundle_from_loading_has_a_help_page() -> None:
    codes = {"unknown-effect", "unknown-action"}  # made of the column's name
    files = ("bundle", "reading", "rules", "registry", "membership", "casbinmodel", "workflows/reading", "workflows/terms")
    for name in files:
        for node in ast.walk(ast.parse((POLICIES / f"{name}.py").read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name) and node.args:
                called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                first = node.args[0]
                if called in ("add", "wrong", "_wrong") and isinstance(first, ast.Constant) and isinstance(first.value, str):
                    codes.add(first.value)
    codes = {code for code in codes if "-" in code or code in PAGES}
    assert len(codes) > 30
    assert sorted(codes - set(PAGES)) == []
