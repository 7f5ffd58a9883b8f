"""`never:` rows, decided for all questions at once: whatever the arguments, the time, the facts and the chain.

The judge itself is asked, by the loosest policy that any facts could make of the rules: an allow line speaks unless it never can,
a deny line only if it always does.  Who could ask is a short list: one way of being each name that a rule knows, and a stranger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from policies import names
from policies.bundle import Bundle, Condition, Rule
from policies.casbinmodel import literals_of
from policies.engine import Engine
from policies.membership import Closure
from policies.model import AccessRequest, Match, Role
from policies.objects import Objects
from policies.testsuite import Invariant
from policies.values import Facts

MAX_VIOLATIONS: Final = 20
"""Ways that are told of one invariant."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which an invariant could be broken.

    sentence  who could do what, by which rules.
    help      what to do about it.
    matches   the allow lines that would grant it.
    """

    sentence: str
    help: str
    matches: tuple[Match, ...] = ()


def violations(bundle: Bundle, invariants: Sequence[Invariant]) -> tuple[tuple[Violation, ...], ...]:
    """For each invariant the ways in which it could be broken; none means that no question of its shape is ever allowed."""
    if not invariants:
        return ()
    world = _World(bundle)
    return tuple(_found(world, bundle, invariant) for invariant in invariants)


def _found(world: _World, bundle: Bundle, invariant: Invariant) -> tuple[Violation, ...]:
    found: list[Violation] = []
    try:
        for tenant in sorted(bundle.tenants if invariant.tenant is None else {invariant.tenant}):
            for name, kind in world.objects.covered(invariant.tool, tenant):
                violation = next(_broken(world, invariant, tenant, name, kind), None)
                if violation is not None:
                    found.append(violation)
                    if len(found) >= MAX_VIOLATIONS:
                        return tuple(found)
    except ValueError as unproven:  # what cannot be tried is not proven to hold
        found.append(Violation(f"{unproven}, so nothing is proven", "name fewer things at a time"))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Place:
    """What could be asked for."""

    tenant: str
    name: str
    action: str

    def __str__(self) -> str:
        return f"{self.action} {self.name} in tenant {self.tenant}"


@dataclass(frozen=True, slots=True)
class _Way:
    """Somebody who could ask: a person (None: anybody) with at least these groups; `open`: perhaps with others beside them."""

    subject: str | None
    groups: frozenset[str] = frozenset()
    open: bool = True


Granted = tuple[tuple[str, tuple[Match, ...]], ...]
"""Who would be granted it, as said to people, and by which lines."""


def _broken(world: _World, invariant: Invariant, tenant: str, name: str, kind: names.Kind) -> Iterator[Violation]:
    """The ways for one object, the plainest first."""
    people, agents = world.holders(invariant, tenant)
    relaying = invariant.action == names.RELAY
    for action in kind.actions:
        if invariant.action is not None and not relaying and action != invariant.action:
            continue
        place = _Place(tenant, name, action)
        through = world.through(place, invariant.via or ())
        if through is None:
            continue
        for way in people:
            granted = world.subject(place, way)
            if granted is not None:
                yield _violation(place, (granted, *through), "open" if way.open else "")
        for agent in agents if invariant.via is None else ():
            granted = world.agent(place, agent, Role.RELAY if relaying else Role.ACTOR)
            somebody = world.somebody(place) if granted is not None else None
            actor = world.some_actor(place) if relaying and somebody is not None else ("", ())
            if granted is not None and somebody is not None and actor is not None:
                others = (granted, somebody, actor) if relaying else (granted, somebody)
                yield _violation(replace(place, action=names.RELAY) if relaying else place, others, "")


def _violation(place: _Place, granted: Granted, open_: str) -> Violation:
    who = ", and ".join(f"{name} by {_lines(matches)}" for name, matches in granted)
    help_ = "take a line away, narrow it to other tools, or forbid it with a deny line that has no condition"
    if open_:
        help_ += "; 'alone: true' asks for nobody with further groups"
    return Violation(f"{place}: {who}", help_, tuple(dict.fromkeys(m for _, matches in granted for m in matches)))


def _lines(matches: tuple[Match, ...]) -> str:
    shown = [f"{m.rule} ({m.source})" + (f" [{m.condition}]" if m.condition else "") for m in matches[:5]]
    return " or ".join(shown) + (f" or {len(matches) - 5} more" if len(matches) > 5 else "")


class _World:
    """A bundle as loose as it can get, and everybody who could be somebody in it."""

    def __init__(self, bundle: Bundle) -> None:
        loosest = tuple(_loosened(bundle))
        self._bundle = bundle
        self._judge = Engine(replace(bundle, rules=loosest, shadow=()))
        self._allows = tuple(rule for rule in loosest if rule.effect == "allow")
        self._who = {rule.id: rule.who for rule in self._allows}
        self._says = {
            rule.id: Match(rule.id, rule.effect, rule.source, bundle.conditions[rule.when].say if rule.when else None)
            for rule in bundle.rules
        }
        literals = literals_of(bundle.model)  # a matcher may name somebody outright
        named = {rule.who for rule in loosest} | {each for m in bundle.roles for each in (m.member, m.role)} | set(literals)
        self._named = tuple(sorted(named))
        self._closure = Closure(bundle.roles, named)
        self._literal = tuple(sorted(set(literals)))
        self.objects = Objects(bundle.tools, bundle.sets, (rule.tool for rule in loosest), literals)
        self.stranger = _unused("user:any/stranger", named)
        self._agent = _unused("agent:stranger", named)
        self._members: dict[str, Mapping[str, tuple[str, ...]]] = {}
        self._candidates: dict[_Place, tuple[str, ...]] = {}
        self._somebody: dict[_Place, tuple[str, tuple[Match, ...]] | None] = {}

    @cached_property
    def _prober(self) -> tuple[Engine, str] | None:
        """A judge for whom every allow line is about one agent: which lines cover a place?  None where no index proves it."""
        if self._judge.path != "indexed":
            return None
        probe = _unused("agent:probe", self._named)
        rules = tuple(replace(rule, who=probe) for rule in self._allows)
        return Engine(replace(self._bundle, rules=rules, shadow=(), roles=())), probe

    # --- who there is

    def members(self, tenant: str) -> Mapping[str, tuple[str, ...]]:
        """For each name everybody who is it, itself included."""
        if tenant not in self._members:
            found: dict[str, list[str]] = defaultdict(list)
            for name in self._named:
                for role in self._closure.of(name, tenant):
                    found[role].append(name)
            self._members[tenant] = {role: tuple(names) for role, names in found.items()}
        return self._members[tenant]

    def holders(self, invariant: Invariant, tenant: str) -> tuple[list[_Way], list[str]]:
        """The people and the agents that an invariant is about."""
        open_ = not invariant.alone
        if invariant.kind == "who":
            known = invariant.groups is not None
            return [_Way(invariant.principal, invariant.groups or frozenset(), open_ and not known)], []
        if invariant.kind == "agent":
            return [], [invariant.principal]
        names = (invariant.principal,) if invariant.kind == "group" else self.members(tenant).get(invariant.principal, ())
        people = [_Way(None, frozenset((n[4:],)), open_) for n in names if n.startswith("idp:")]
        people += [_Way(n, frozenset(), open_) for n in names if n.startswith(("user:", "svc:"))]
        return people, [n for n in names if n.startswith("agent:")]

    def _candidates_for(self, place: _Place) -> tuple[str, ...]:
        """Whoever could be allowed it by being somebody: members of the names that the lines in question speak of."""
        if place not in self._candidates:
            names: Iterable[str] = self._named
            if self._prober is not None:
                judge, probe = self._prober
                (_, *answers) = judge.decide(self._request(place, actors=(probe,))).answers or (None,)
                members = self.members(place.tenant)
                whos = dict.fromkeys(self._who[m.rule] for answer in answers for m in answer.matched)
                names = dict.fromkeys([each for who in whos for each in members.get(who, ())] + list(self._literal))
            self._candidates[place] = tuple(names)
        return self._candidates[place]

    # --- what they could do

    def _request(
        self, place: _Place, subject: str | None = None, groups: frozenset[str] = frozenset(), actors: tuple[str, ...] = ()
    ) -> AccessRequest:
        return AccessRequest(subject or self.stranger, actors, place.tenant, place.action, place.name, 0, groups)

    def _granted(self, request: AccessRequest, at: int) -> tuple[Match, ...] | None:
        """The allow lines by which the principal at this place of the chain could be let through; None: never."""
        answers = self._judge.decide(request).answers
        if not answers or not answers[at].allowed:
            return None
        return tuple(self._says[m.rule] for m in answers[at].matched if m.effect == "allow")

    def subject(self, place: _Place, way: _Way) -> tuple[str, tuple[Match, ...]] | None:
        """The first in whose name it could be asked."""
        for subject, groups in self._subjects(place, way):
            matches = self._granted(self._request(place, subject, groups), 0)
            if matches is not None:
                return self._said(subject, groups), matches
        return None

    def _subjects(self, place: _Place, way: _Way) -> Iterator[tuple[str, frozenset[str]]]:
        """One line is enough to be granted, so one name beyond those that are given is enough to try at a time."""
        person = way.subject or self.stranger
        yield person, way.groups
        if way.open:
            for name in self._candidates_for(place):
                if name.startswith("idp:"):
                    yield person, way.groups | {name[4:]}
                elif way.subject is None and name.startswith(("user:", "svc:")):
                    yield name, way.groups

    def _said(self, subject: str, groups: frozenset[str]) -> str:
        who = "anybody" if subject == self.stranger else subject
        return f"{who} with group{'s' if len(groups) > 1 else ''} {', '.join(sorted(groups))}" if groups else who

    def agent(self, place: _Place, agent: str, role: Role) -> tuple[str, tuple[Match, ...]] | None:
        """An agent that makes the call, or relays it."""
        chain = (agent, self._agent) if role is Role.RELAY else (agent,)
        matches = self._granted(self._request(place, actors=chain), 1)
        said = "an agent that no rule names" if agent == self._agent else agent
        return None if matches is None else (f"{said}{' as a relay' if role is Role.RELAY else ''}", matches)

    def through(self, place: _Place, chain: tuple[str, ...]) -> Granted | None:
        """A chain of agents that could pass it on; None if one of them never could."""
        found = [self.agent(place, f"agent:{name}", Role.RELAY) for name in chain[:-1]]
        found += [self.agent(place, f"agent:{name}", Role.ACTOR) for name in chain[-1:]]
        granted = tuple(each for each in found if each is not None)
        return granted if len(granted) == len(found) else None

    def somebody(self, place: _Place) -> tuple[str, tuple[Match, ...]] | None:
        """Anybody at all in whose name it could be asked."""
        if place not in self._somebody:
            self._somebody[place] = self.subject(place, _Way(None))
        return self._somebody[place]

    def some_actor(self, place: _Place) -> tuple[str, tuple[Match, ...]] | None:
        """Any agent at all that could make the call."""
        names = [self._agent, *(name for name in self._candidates_for(place) if name.startswith("agent:"))]
        return next((found for name in names if (found := self.agent(place, name, Role.ACTOR)) is not None), None)


def _loosened(bundle: Bundle) -> Iterator[Rule]:
    """Every line that could let something through, and the deny lines that nothing can silence; without conditions and duties."""
    for rule in bundle.rules:
        always = None if rule.when is None else _certain(bundle.conditions[rule.when])
        if (rule.effect == "allow" and always is not False) or (rule.effect == "deny" and (rule.when is None or always is True)):
            yield replace(rule, when=None)


def _certain(condition: Condition) -> bool | None:
    """What a condition comes to whatever the facts are; None: that depends.

    Nothing of a call is given, and what is not given is unknown; Kleene's logic says True or False only where no fact could
    change it.  The time and the person are always given, so a condition that reads them depends.
    """
    if any(name.startswith(("time.", "user.")) for name in condition.expression.reads):  # hour() reads time.now, unwritten
        return None
    value = condition.expression(Facts(arguments=None))
    return value if isinstance(value, bool) else None


def _unused(name: str, taken: Iterable[str]) -> str:
    """The name, made longer until nobody has it."""
    names = set(taken)
    while name in names:
        name += "-x"
    return name
