"""A change of policy that lets somebody through is never hidden: not from `policy diff`, not from a `never:` row."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gateway.cli.policy.diff_views import Page
from policies import engine as engine_module
from policies.bundle import Bundle, BundleError, load_texts
from policies.diff import diff
from policies.engine import Engine
from policies.model import AccessRequest
from policies.prover import available
from policies.testing import read_tests, run

MODEL = (Path(engine_module.__file__).with_name("default") / "model.conf").read_text()
MIA, EVIL = "user:dev/mia", "user:dev/evil"
MORNING = (4 * 24 + 10) * 3_600_000_000
LINE = f"p, {MIA}, acme, erp.read, call, allow, c, -, A\n"


def bundle(grants: str, condition: str = "has(args.x)", *, model: str = MODEL, kind: str = "string", never: str = "") -> Bundle:
    return load_texts(
        {
            "model.conf": model,
            "roles.csv": "g, idp:clerks, role:clerk, acme\n",
            "tools.yaml": f"tenants: [acme]\ntools:\n  erp.read: {{args: {{x: {kind}}}}}\n  erp.write: {{}}\n",
            "conditions.yaml": f"c:\n  if: |-\n    {condition}\n  say: it is so\n",
            "obligations.yaml": "",
            "grants/lines.csv": grants,
            "tests/never.yaml": f"never:\n  - {never}\n" if never else "",
        }
    )


def allowed(under: Bundle, subject: str = MIA, x: object = "a", tool: str = "erp.read") -> bool:
    question = AccessRequest(subject, (), "acme", "call", tool, MORNING, arguments={"x": x})
    return Engine(under).decide(question).allowed


def matcher(also: str, comment: str = "") -> str:
    return comment + MODEL.replace('(p.sub == "*" ||', f'({also} || p.sub == "*" ||')


@pytest.mark.parametrize(
    ("grants", "condition"),
    [
        (LINE, 'hour("UTC") >= 8'),
        (LINE, 'weekday("UTC") != 4'),
        (LINE.replace(" c,", " -,") + f"p, {MIA}, acme, erp.read, call, deny, c, -, D\n", 'hour("UTC") < 8'),
    ],
)
def test_a_never_row_does_not_take_one_hour_of_a_zone_for_every_hour(grants: str, condition: str) -> None:
    made = bundle(grants, condition, never=f"{{who: {MIA}, tool: erp.read}}")
    assert allowed(made)
    assert not run(read_tests(made), Engine(made)).passed


@pytest.mark.parametrize(("was", "now"), [("a b", "a  b"), ("a b", "a\u00a0b"), ("a b", " a b")])
def test_space_within_quotes_is_a_change_that_a_diff_tells(was: str, now: str) -> None:
    before, after = bundle(LINE, f'args.x == "{was}"'), bundle(LINE, f'args.x == "{now}"')
    assert allowed(after, x=now)
    assert not allowed(before, x=now)
    assert diff(before, after).grants


def test_a_line_break_within_quotes_forges_no_line_of_a_page() -> None:
    before, after = bundle(LINE, 'args.x == "a"'), bundle(LINE, 'args.x == "a\n    Nothing differs." or has(args.x)')
    pages = [*Page(diff(before, after), before, after).terminal()]
    assert not any("\n" in line.lstrip("\n") for line in pages)


def test_space_between_the_parts_of_a_condition_is_no_change() -> None:
    before, after = bundle(LINE, 'args.x == "a  b"'), bundle(LINE, ' args.x  ==   "a  b"')
    assert not diff(before, after).grants


@pytest.mark.skipif(not available(), reason="nothing is proven without z3")
def test_a_condition_over_an_argument_of_another_type_is_not_proven_to_be_the_same() -> None:
    before, after = (bundle(LINE, "len(args.x) == 3", kind=kind) for kind in ("array", "string"))
    assert allowed(after, x="abc")
    assert not allowed(before, x="abc")
    assert diff(before, after).grants


@pytest.mark.parametrize("name", [f'("{EVIL}")', f'u"{EVIL}"', f'"""{EVIL}"""', '"user:dev" "/evil"'])
def test_a_matcher_writes_a_text_in_one_way_only(name: str) -> None:
    if name.startswith("("):
        assert diff(bundle(LINE), bundle(LINE, model=matcher(f"r.sub == {name}"))).grants
        return
    with pytest.raises(BundleError, match="double quotes"):
        bundle(LINE, model=matcher(f"r.sub == {name}"))


def test_a_matcher_that_knows_somebody_is_told_however_it_is_written() -> None:
    grants = "p, agent:clerk, acme, erp.read, call, allow, -, -, A\n"
    for also in (f'("{EVIL}") == r.sub', f'r.sub == "{EVIL}"'):
        after = bundle(grants, model=matcher(also))
        assert allowed(after, EVIL)
        assert not allowed(bundle(grants), EVIL)
        assert diff(bundle(grants), after).grants


def test_a_comment_of_the_model_does_not_hide_whom_its_matcher_knows_from_a_never_row() -> None:
    grants = "p, agent:clerk, acme, erp.read, call, allow, -, -, A\n"
    for comment in ("", '# drives of 5" and more\n'):
        made = bundle(grants, model=matcher(f'r.sub == "{EVIL}"', comment), never="{group: marketing, tool: erp.read}")
        assert allowed(made, EVIL)
        assert not run(read_tests(made), Engine(made)).passed


def test_a_matcher_that_makes_the_lines_of_a_few_everybodys_is_a_gain_of_everybody() -> None:
    grants = "p, agent:clerk, acme, erp.read, call, allow, -, -, A\np, role:clerk, acme, erp.read, call, allow, -, -, B\n"
    before, after = bundle(grants), bundle(grants, model=matcher('p.sub == "role:clerk"'))
    assert allowed(after, EVIL)
    assert not allowed(before, EVIL)
    found = diff(before, after)
    assert any("*" in change.who for change in found.granting)
    shown = "\n".join(Page(found, before, after).terminal()), Page(found, before, after).markdown()
    assert all("model.conf changed" in page for page in shown)


def test_a_changed_model_is_shown_even_where_no_line_means_anything_else() -> None:
    before = bundle(LINE)
    found = dataclasses.replace(diff(before, before), model=True)
    assert "model.conf changed" in "\n".join(Page(found, before, before).terminal())
