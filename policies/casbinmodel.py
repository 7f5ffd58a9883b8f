"""model.conf: the one shape of Casbin model that cannot fail open, checked before Casbin reads it.

Casbin ignores second sections, misread definitions and unknown effects without a word; here each of them is a finding.
"""

from __future__ import annotations

import ast
import re

from policies.finding import Report, suggest

FILE = "model.conf"
SECTIONS = {
    "request_definition": ("r",),
    "policy_definition": ("p",),
    "role_definition": ("g", "g2"),
    "policy_effect": ("e",),
    "matchers": ("m",),
}
FIXED = {
    "r": "sub, dom, obj, act, ctx",
    "p": "sub, dom, obj, act, cond, eft, id",
    "g": "_, _, _",
    "g2": "_, _",
    "e": "some(where (p.eft == allow)) && !some(where (p.eft == deny))",
}
CALLS = {
    "g": ("r.sub", "p.sub", "r.dom"),
    "g2": ("r.obj", "p.obj"),
    "keyMatch": ("r.obj", "p.obj"),
    "when": ("p.cond", "p.eft", "r.ctx"),
    "hit": ("p.id",),
}
_FIELDS = frozenset({"r.sub", "r.dom", "r.obj", "r.act", "p.sub", "p.dom", "p.obj", "p.act"})


def check_model(text: str, report: Report) -> None:
    """Find everything that is not the one safe shape."""
    found: dict[str, tuple[str, int]] = {}
    section = ""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line[1:-1] if line.endswith("]") else ""
            if section not in SECTIONS:
                report.add(
                    "odd-model",
                    (FILE, number, 1),
                    f"unknown section {line[:60]}",
                    suggest(section, SECTIONS) or f"known are {', '.join(SECTIONS)}",
                )
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or line.endswith("\\") or key not in SECTIONS.get(section, ()):
            report.add(
                "odd-model",
                (FILE, number, 1),
                f"'{line[:60]}' does not belong here",
                "one 'name = value' a line; r, p, g, g2, e and m, each once",
            )
        elif key in found:
            report.add("odd-model", (FILE, number, 1), f"'{key}' stands here twice", "Casbin would ignore one of them")
        else:
            found[key] = (value, number)
    _fixed(found, report)
    if "m" in found:
        _matcher(*found["m"], report)


def comparisons(model: str) -> tuple[tuple[ast.expr, ast.expr], ...]:
    """Both sides of every comparison of a checked model's matcher."""
    matcher = next((line.partition("=")[2] for line in model.split("\n") if re.match(r"\s*m\s*=", line)), "")
    tree = ast.parse(matcher.replace("&&", " and ").replace("||", " or ").strip(), mode="eval")
    return tuple((node.left, node.comparators[0]) for node in ast.walk(tree) if isinstance(node, ast.Compare))


def literals_of(model: str) -> frozenset[str]:
    """Every text that a checked model's matcher names outright."""
    sides = (side for pair in comparisons(model) for side in pair)
    return frozenset(side.value for side in sides if isinstance(side, ast.Constant) and isinstance(side.value, str))


def knows_somebody(model: str) -> bool:
    """Whether a checked model's matcher compares who asks with anything but the rule's own cell."""
    pairs = ({ast.unparse(side) for side in pair} for pair in comparisons(model))
    return any("r.sub" in pair and pair != {"r.sub", "p.sub"} for pair in pairs)


def _fixed(found: dict[str, tuple[str, int]], report: Report) -> None:
    for key, wanted in [*FIXED.items(), ("m", "")]:
        if key not in found:
            report.add("odd-model", (FILE, 0, 0), f"'{key}' is missing", f"write '{key} = {wanted or '…'}'")
            continue
        value, number = found[key]
        same = re.sub(r"\s+", "", value) == re.sub(r"\s+", "", wanted)
        if wanted and not same:
            report.add(
                "odd-model", (FILE, number, 1), f"'{key}' must be '{wanted}'", "anything else can fail open without a word"
            )


def _matcher(value: str, number: int, report: Report) -> None:
    def wrong(message: str, help_: str = "") -> None:
        report.add("odd-model", (FILE, number, 1), f"the matcher {message}", help_)

    if len(value) > 4000 or re.search(r"[#!\\']|\beval\b", value):
        wrong("is too long, or holds '#', '!', a backslash, a single quote or eval", "Casbin rewrites such text silently")
        return
    try:
        tree = ast.parse(value.replace("&&", " and ").replace("||", " or "), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        wrong("is no expression")
        return
    if sum(1 for _ in ast.walk(tree)) > 400:
        wrong("is too large")
        return
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    written = value.replace("&&", " and ").replace("||", " or ")
    if any(ast.get_source_segment(written, node) != f'"{node.value!s}"' for node in texts):
        wrong("writes a text otherwise than in double quotes", 'write "relay": one way, so that nobody is overlooked')
    for problem in _problems(tree):
        wrong(problem, "use ==, &&, ||, keyMatch, g, g2, when and hit")
    text = ast.unparse(tree)
    missing = sorted(field for field in _FIELDS if field not in text)
    if missing:
        wrong(f"never looks at {', '.join(missing)}", "a field that is not compared matches everything")
    top = [ast.unparse(part) for part in tree.values] if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else []
    if top[-2:] != ["when(p.cond, p.eft, r.ctx)", "hit(p.id)"] or text.count("when(") != 1 or text.count("hit(") != 1:
        wrong("must end with '&& when(p.cond, p.eft, r.ctx) && hit(p.id)'", "hit must be asked last: it notes which rules spoke")


def _problems(tree: ast.expr) -> list[str]:
    """Whatever is not a comparison of fields, a known call, and, or."""
    problems: list[str] = []

    def visit(node: ast.expr) -> None:
        if isinstance(node, ast.BoolOp):
            for part in node.values:
                visit(part)
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            plain = all(ast.unparse(s) in _FIELDS or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides)
            if len(sides) != 2 or not isinstance(node.ops[0], ast.Eq) or not plain:
                problems.append(f"holds '{ast.unparse(node)[:60]}'")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name not in CALLS or node.keywords or tuple(ast.unparse(a) for a in node.args) != CALLS[name]:
                problems.append(f"holds '{ast.unparse(node)[:60]}'")
        else:
            problems.append(f"holds '{ast.unparse(node)[:60]}'")

    visit(tree)
    return problems
