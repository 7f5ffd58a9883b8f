"""Which of stock Casbin's models can be said in a bundle: read as strictly as Casbin reads them loosely.

A model that is not understood whole is refused: half a matcher would be another policy.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from policies.finding import Report

FILE = "model.conf"
_SECTIONS = {
    "request_definition": ("r",),
    "policy_definition": ("p",),
    "role_definition": ("g", "g2"),
    "policy_effect": ("e",),
    "matchers": ("m",),
}
_FIELDS = {
    "sub": "sub", "subject": "sub", "user": "sub", "dom": "dom", "domain": "dom", "tenant": "dom", "obj": "obj", "object": "obj",
    "resource": "obj", "tool": "obj", "act": "act", "action": "act", "eft": "eft", "effect": "eft",
}  # fmt: skip
_ALLOW = "some(where(p.eft==allow))"
_EFFECTS = {_ALLOW: False, f"{_ALLOW}&&!some(where(p.eft==deny))": True}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a stock model says.

    columns    of a `p` line: sub, dom, obj, act, eft in its order.
    denies     whether a deny line denies; without it Casbin ignores deny lines.
    roles      how many columns a `g` line has; 0: roles are not used.
    groups     whether `g2` groups objects.
    patterns   whether an object with a star is a pattern (keyMatch).
    wide       fields in which a rule's `*` fits everything.
    """

    columns: tuple[str, ...]
    denies: bool
    roles: int = 0
    groups: bool = False
    patterns: bool = False
    wide: frozenset[str] = field(default_factory=frozenset)

    @property
    def domains(self) -> bool:
        """Whether rules name a domain."""
        return "dom" in self.columns


def read_model(text: str) -> Meaning:
    """Understand a model.  BundleError with everything that cannot be said in a bundle."""
    report = Report()
    report.show(FILE, text)
    found = dict(_definitions(text, report))
    for key in ("r", "p", "e", "m"):
        if key not in found:
            report.add("unmapped-model", (FILE, 0, 0), f"'{key}' is missing", "name the model.conf that Casbin loads")
    if report:
        raise report.error()
    reader = _Matcher(found, report)
    meaning = reader.meaning()
    if report:
        raise report.error()
    return meaning


def _definitions(text: str, report: Report) -> Iterator[tuple[str, tuple[str, int]]]:
    section, seen = "", set()
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = line[1:-1]
            if section not in _SECTIONS:
                report.add("unmapped-model", (FILE, number, 1), f"the section {line[:60]} has no counterpart in a bundle")
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if line.endswith("\\"):
            report.add("unmapped-model", (FILE, number, 1), "a line that goes on in the next is not read", "write it in one line")
        elif not equals or key not in _SECTIONS.get(section, ()):
            help_ = "a bundle has one r, p, g, g2, e and m; Casbin itself uses the first alone unless it is told otherwise"
            report.add("unmapped-model", (FILE, number, 1), f"'{key[:60]}' has no counterpart in a bundle", help_)
        elif key in seen:
            report.add(
                "unmapped-model", (FILE, number, 1), f"'{key}' stands here twice", "Casbin uses the last one; keep that one"
            )
        else:
            seen.add(key)
            yield key, (value, number)


class _Matcher:
    """Reads the definitions against one another."""

    def __init__(self, found: dict[str, tuple[str, int]], report: Report) -> None:
        self._found = found
        self._report = report
        self._names: dict[str, str] = {}
        self._wide: set[str] = set()
        self._kinds: dict[str, set[str]] = {"sub": set(), "dom": set(), "obj": set(), "act": set()}

    def _wrong(self, key: str, message: str, help_: str = "") -> None:
        self._report.add("unmapped-model", (FILE, self._found[key][1], 1), message, help_)

    def meaning(self) -> Meaning:
        request, policy = self._columns("r"), self._columns("p")
        if set(request) != set(policy) - {"eft"} or not {"sub", "obj", "act"} <= set(request):
            self._wrong(
                "p", "a request and a rule must both have a subject, an object and an action (and both a domain, or neither)"
            )
        effect = "".join(self._found["e"][0].split())
        if effect not in _EFFECTS:
            help_ = "what nothing allows is denied, and one deny is a no; priorities, and 'allow unless denied', are not sayable"
            self._wrong("e", "this effect has no counterpart in a bundle", help_)
        for conjunct in _parts(self._tree(), ast.And):
            self._conjunct(conjunct)
        self._complete(request)
        roles = self._found["g"][0].count("_") if "g" in self._found and "role" in self._kinds["sub"] else 0
        return Meaning(
            columns=policy,
            denies=_EFFECTS.get(effect, False),
            roles=roles,
            groups="group" in self._kinds["obj"],
            patterns="pattern" in self._kinds["obj"],
            wide=frozenset(self._wide),
        )

    def _columns(self, key: str) -> tuple[str, ...]:
        columns: list[str] = []
        for raw in self._found[key][0].split(","):
            name = raw.strip()
            known = _FIELDS.get(name.lower(), "")
            if not known or known in columns or (known == "eft" and key == "r"):
                self._wrong(key, f"the field '{name[:60]}' has no counterpart in a bundle", "sub, dom, obj, act and eft have one")
            columns.append(known)
            self._names[f"{key}.{name}"] = f"{key}.{known}"
        return tuple(columns)

    def _tree(self) -> ast.expr:
        text = self._found["m"][0]
        for name, known in sorted(self._names.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(name, known) if name != known else text
        try:
            if any(mark in text for mark in "#\\'") or len(text) > 4000:
                raise ValueError
            return ast.parse(text.replace("&&", " and ").replace("||", " or ").strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self._wrong("m", "the matcher is not understood")
            return ast.Constant(value=True)

    def _conjunct(self, node: ast.expr) -> None:
        fields: set[str] = set()
        for part in _parts(node, ast.Or):
            text = ast.unparse(part)
            kind = _atom(text, self._found["g"][0].count("_") if "g" in self._found else 0)
            if kind is None:
                help_ = 'comparisons of a field with itself, keyMatch, g, g2 and p.… == "*" have a counterpart'
                self._wrong("m", f"'{text[:80]}' has no counterpart in a bundle", help_)
                return
            fields.add(kind[0])
            if kind[1] == "wide":
                self._wide.add(kind[0])
            else:
                self._kinds[kind[0]].add(kind[1])
        if len(fields) != 1:
            self._wrong("m", f"'{ast.unparse(node)[:80]}' mixes fields", "join comparisons of different fields by && alone")

    def _complete(self, request: tuple[str, ...]) -> None:
        for key, counts in (("g", (2, 3)), ("g2", (2,))):
            if key in self._found and self._found[key][0].count("_") not in counts:
                self._wrong(key, f"this shape of '{key}' has no counterpart in a bundle", "write '_, _' (for g also '_, _, _')")
        for name in request:
            if name in self._kinds and not self._kinds[name]:
                self._wrong("m", f"the matcher never compares r.{name}", "a field that is not compared matches everything")
        if "dom" not in request and self._kinds["dom"]:
            self._wrong("m", "the matcher compares a domain that a request does not have")
        if "role" in self._kinds["sub"] and ("dom" in request) != (self._found.get("g", ("", 0))[0].count("_") == 3):
            help_ = "with '_, _' or g(r.sub, p.sub) a role in one domain is a role in all; a bundle keeps tenants apart"
            self._wrong("m", "roles and rules do not agree about domains", help_)


def _parts(node: ast.expr, operator: type[ast.boolop]) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, operator):
        return [part for value in node.values for part in _parts(value, operator)]
    return [node]


def _atom(text: str, roles: int) -> tuple[str, str] | None:
    """(field, how it is compared) of one comparison that a bundle can make too."""
    for name in ("sub", "dom", "obj", "act"):
        if text in (f"r.{name} == p.{name}", f"p.{name} == r.{name}"):
            return name, "equal"
        if text in (f"p.{name} == '*'", f"'*' == p.{name}"):
            return name, "wide"
    if (text, roles) in (("g(r.sub, p.sub)", 2), ("g(r.sub, p.sub, r.dom)", 3)):
        return "sub", "role"
    return {"keyMatch(r.obj, p.obj)": ("obj", "pattern"), "g2(r.obj, p.obj)": ("obj", "group")}.get(text)
