"""What a denied call lacks: the smallest changes that would allow it, each decided for certain, narrowest first.

For people who may read and change policy; an agent on the wire is never told.  Nothing is suggested that was not tried on the
changed bundle, and a deny line is never taken out in silence: such a change says that it lifts a guardrail, and comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import combinations, product

from msgspec.structs import replace as varied

from policies.bundle import Bundle, BundleError, load_texts
from policies.cases import ABSENT, Path, cases_of, shown
from policies.cells import Cells
from policies.diff import TooLargeError, diff
from policies.engine import Engine
from policies.expression import Expression
from policies.model import AccessRequest, Answer, Decision, Match, Role, Source
from policies.reading import SIGNATURE

MAX_TRIES = 2_000
MAX_ROLES = 5
MAX_COUNTED = 5_000
"""Rules of a bundle up to which is counted what else a change opens; comparing larger ones takes longer than anybody waits."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A line more, or a line less, in one file."""

    file: str
    add: str = ""
    remove: Source | None = None

    def apply(self, texts: Mapping[str, str]) -> dict[str, str]:
        """The texts with this change."""
        text = texts.get(self.file, "")
        if self.remove is not None:
            lines = text.split("\n")
            lines[self.remove.line - 1] = ""
            return dict(texts) | {self.file: "\n".join(lines)}
        return dict(texts) | {self.file: text + ("\n" if text and not text.endswith("\n") else "") + self.add + "\n"}


@dataclass(frozen=True, slots=True)
class Remedy:
    """One way to allow the call.

    principals  whose missing right it gives.
    enough      whether it alone allows the whole call; if not, it gives these principals their yes.
    opens       how many other pairs of a name and a tool it would allow something, too; None where that could not be counted.
    guardrail   whether it takes a deny line out: somebody wrote it to forbid exactly this.
    arguments   the same call with other arguments, where nothing of policy is changed: name → (then, instead).
    """

    principals: tuple[str, ...]
    enough: bool
    opens: int | None
    edits: tuple[Edit, ...] = ()
    guardrail: bool = False
    rules: tuple[str, ...] = ()
    arguments: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def nearest(bundle: Bundle, request: AccessRequest) -> tuple[Remedy, ...]:
    """Ways to allow a denied call, the narrowest first; none for one that is allowed, or whose resource is not registered."""
    return _Search(bundle, request).remedies()


class _Search:
    def __init__(self, bundle: Bundle, request: AccessRequest) -> None:
        self._bundle = bundle
        self._request = request
        self._engine = Engine(bundle)
        self._decision = self._engine.decide(request)
        self._texts = {name: text for name, text in bundle.texts.items() if name not in SIGNATURE}
        self._cells = Cells(bundle)

    def remedies(self) -> tuple[Remedy, ...]:
        """All that were found and hold, narrowest first, guardrails last."""
        failing = [answer for answer in self._decision.answers if not answer.allowed]
        if self._decision.allowed or not failing or self._request.action == "list":
            return ()
        found = list(self._arguments())
        chosen: list[Remedy] = []
        for number, answer in enumerate(failing):
            singles = sorted(self._singles(answer, number), key=_order)
            found += singles
            chosen += singles[:1]
        if len(chosen) == len(failing) > 1:
            found += self._tried(
                tuple(dict.fromkeys(p for each in chosen for p in each.principals)),
                tuple(dict.fromkeys(edit for each in chosen for edit in each.edits)),
                guardrail=any(each.guardrail for each in chosen),
                rules=tuple(dict.fromkeys(rule for each in chosen for rule in each.rules)),
            )
        once: dict[object, Remedy] = {}
        for each in sorted(found, key=_order):  # one change may give several principals their yes
            known = once.setdefault((each.edits, *each.arguments.items()), each)
            once[each.edits, *each.arguments.items()] = replace(
                known, principals=tuple(dict.fromkeys((*known.principals, *each.principals)))
            )
        return tuple(once.values())

    # --- policy

    def _singles(self, answer: Answer, number: int) -> Iterator[Remedy]:
        """Single changes that give one principal its yes."""
        who, action, tenant = answer.question.principal, answer.question.action, self._request.tenant
        denials = [match for match in answer.matched if match.effect == "deny"]
        lifted = tuple(Edit(match.source.file, remove=match.source) for match in denials)
        grants: list[Edit | None] = [None]
        if not any(match.effect == "allow" for match in answer.matched):
            cell = f"p, {who}, {tenant}, {self._request.resource}, {action}, allow, -, -, {self._free_id(number)}"
            grants = [Edit(self._file(answer.question.role), add=cell)]
            grants += [Edit("roles.csv", add=f"g, {who}, {role}, {tenant}") for role in self._roles(answer)]
        for grant in grants:
            edits = (*lifted, *([grant] if grant is not None else ()))
            yield from self._tried((who,), edits, guardrail=bool(lifted), rules=tuple(match.rule for match in denials))

    def _tried(
        self, principals: tuple[str, ...], edits: tuple[Edit, ...], *, guardrail: bool, rules: tuple[str, ...]
    ) -> Iterator[Remedy]:
        """The remedy of these edits, if the changed bundle loads and really says yes to these principals."""
        texts: Mapping[str, str] = self._texts
        for edit in edits:
            texts = edit.apply(texts)
        try:
            changed = load_texts(texts)
        except BundleError:  # a name that cannot stand in a line, say: then this is no way
            return
        decision = Engine(changed).decide(self._request)
        if all(answer.allowed for answer in decision.answers if answer.question.principal in principals):
            yield Remedy(principals, decision.allowed, self._opens(changed, principals), edits, guardrail, rules)

    def _opens(self, changed: Bundle, principals: tuple[str, ...]) -> int | None:
        """How many pairs of a name and a resource may do more under the changed bundle, beside those asked about."""
        if len(self._bundle.rules) > MAX_COUNTED:
            return None
        try:
            found = diff(self._bundle, changed)
        except (TooLargeError, ValueError):
            return None
        pairs = {(who, tool) for c in found.granting for who in (c.felt_by or c.who) for tool in c.tools}
        return len(pairs - {(who, self._request.resource) for who in principals})

    def _roles(self, answer: Answer) -> list[str]:
        """Roles (for agents: groups of agents) that have this right and that the principal may be made a member of."""
        tenant, resource, action = self._request.tenant, self._request.resource, answer.question.action
        kinds = ("role:", "agents:") if answer.question.role is not Role.SUBJECT else ("role:",)
        names = {rule.who for rule in self._bundle.rules} | {each.role for each in self._bundle.roles}
        found = []
        for name in sorted(each for each in names if each.startswith(kinds)):
            lines = self._cells.lines(name, tenant, resource, action)
            if any(line.effect == "allow" and line.who != "*" for line in lines):
                found.append((len(self._cells.names(name, tenant)), name))
        return [name for _, name in sorted(found)[:MAX_ROLES]]

    def _file(self, role: Role) -> str:
        wanted = "grants/people.csv" if role is Role.SUBJECT else "grants/agents.csv"
        files = sorted(name for name in self._texts if name.startswith("grants/"))
        return wanted if wanted in files or not files else files[0]

    def _free_id(self, number: int) -> str:
        """An id that no line has; another one for each number."""
        taken = {rule.id for rule in (*self._bundle.rules, *self._bundle.shadow)}
        return [f"NEW-{n}" for n in range(1, len(taken) + number + 2) if f"NEW-{n}" not in taken][number]

    # --- arguments

    def _arguments(self) -> Iterator[Remedy]:
        """The same call with as few other arguments as possible, if any are allowed; policy stays as it is."""
        known = self._request.arguments
        expressions = tuple(self._conditions(self._decision))
        if known is None or not expressions:
            return
        cases = cases_of(expressions, (self._cells.types(self._request.resource),))
        values = {path: each for path, each in cases.values.items() if path[0] == "args" and len(path) == 2}
        tries = 0
        for size in (1, 2):
            for paths in combinations(values, size):
                for chosen in product(*(_nearby(known, path, values[path]) for path in paths)):
                    tries += 1
                    if tries > MAX_TRIES:
                        return
                    instead = _with(known, dict(zip(paths, chosen, strict=True)))
                    if self._engine.decide(varied(self._request, arguments=instead)).allowed:
                        changed = {path[1]: (_said(known, path[1]), _said(instead, path[1])) for path in paths}
                        said = {name: both for name, both in changed.items() if both[0] != both[1]}
                        yield Remedy(self._decision.missing, enough=True, opens=0, arguments=said)
                        return

    def _conditions(self, decision: Decision) -> Iterator[Expression]:
        """Conditions of the lines that forbid it, and of those that nearly grant it."""
        matches: Iterable[Match] = (m for a in decision.answers for m in (*a.matched, *a.near))
        rules = {match.rule for match in matches if match.effect != "require"}
        names = dict.fromkeys(rule.when for rule in self._bundle.rules if rule.id in rules and rule.when)
        return (self._bundle.conditions[name].expression for name in names)


def _order(remedy: Remedy) -> tuple[object, ...]:
    """Guardrails last, what is not enough after what is, then by how little else it opens, then by how little it changes."""
    opens = remedy.opens if remedy.opens is not None else 1_000_000_000
    return (remedy.guardrail, not remedy.enough, opens, len(remedy.edits), str(remedy.edits))


def _with(arguments: Mapping[str, object], chosen: Mapping[Path, object]) -> dict[str, object]:
    changed = dict(arguments)
    for path, value in chosen.items():
        if value is ABSENT:
            changed.pop(path[1], None)
        else:
            changed[path[1]] = value
    return changed


def _nearby(arguments: Mapping[str, object], path: Path, values: list[object]) -> list[object]:
    """Values to try instead of the one that was given: numbers by their distance from it, no value at all last."""
    given = arguments.get(path[1])

    def far(value: object) -> tuple[bool, Decimal]:
        missing = value is ABSENT or value is None
        if not isinstance(given, int | Decimal) or not isinstance(value, int | Decimal):
            return missing, Decimal(0)
        try:
            distance = abs(Decimal(value) - Decimal(given))
        except ArithmeticError:  # beyond what can be counted with
            return missing, Decimal(0)
        return missing, distance if distance.is_finite() else Decimal(0)

    return sorted(values, key=far)


def _said(arguments: Mapping[str, object], name: str) -> str:
    return shown(arguments[name]) if name in arguments else "not given"
