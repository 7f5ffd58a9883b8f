"""The laws of delegation as plain functions of a random generator and of the modules under test, so that bugs can be planted.

Each law draws a case, checks it with bare asserts, and says in a `Seen` what the case was, so that no law passes on empty cases.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from gateway import scope as real_scope
from gateway.identity import delegation as real_delegation
from gateway.identity import exchange as real_exchange
from gateway.identity import killed as real_killed
from gateway.identity.clients import Client
from gateway.model import Assurance, Principal, Refused
from gateway.reasons import Code
from gateway.state.kills import Kill
from policies import engine as engine_module
from policies.bundle import load_texts
from policies.engine import Engine
from policies.model import AccessRequest

NOW = 1_800_000_000
URL = "https://gateway.example"
KEY = ec.generate_private_key(ec.SECP256R1())
AGENTS = [f"a{number}" for number in range(5)]
DEPTH = 3
JKT = "k" * 43
STRENGTH = {"correlated": 0, "bearer": 1, "pop": 2}
ITEMS = (
    "*", "erp.*", "erp.read", "erp.readall", "mail.*", "mail.send", "a2a:*", "a2a:clerk", "res:erp/*", "res:erp/file:///d/*",
    "task:*", "prompt:erp/*", "admin:*",
)  # fmt: skip
OBJECTS = (
    "erp.read", "erp.readall", "erp.write", "mail.send", "a2a:clerk", "a2a:clerks", "res:erp/file:///d/a", "res:erp/file:///e/a",
    "res:erp/mailto:x", "task:erp", "task:mail", "prompt:erp/p", "admin:kills",
)  # fmt: skip
SERVERS = {
    "erp": [name for name in OBJECTS if re.search(r"(^|:)erp([./]|$)", name)],
    "mail": ["mail.send", "task:mail"],
    "clerk": ["task:clerk"],
    "kills": ["task:kills"],
}


@dataclass(frozen=True)
class Modules:
    """What is under test; a planted bug replaces one of them."""

    scope: ModuleType = real_scope
    delegation: ModuleType = real_delegation
    exchange: ModuleType = real_exchange
    killed: ModuleType = real_killed
    decide: Callable[[Engine, AccessRequest], bool] = field(default=lambda engine, request: engine.decide(request).allowed)


Seen = Counter[str]
Law = Callable[[Random, Modules, Seen], None]


# --- scopes


def some_scope(rng: Random, most: int = 4) -> tuple[str, ...]:
    return tuple(rng.sample(ITEMS, rng.randint(0, most)))


def a_bound(rng: Random) -> tuple[str, ...] | None:
    return None if rng.random() < 0.25 else some_scope(rng)


def covered(scope: tuple[str, ...] | None, name: str) -> bool:
    """By the definition alone: `None` and `*` are everything, a star stands for any ending, all else for itself."""
    if scope is None:
        return True
    return any(re.fullmatch(re.escape(item.rstrip("*")) + (".*" if item.endswith("*") else ""), name) for item in scope)


def a_scope_means_what_its_definition_says(rng: Random, modules: Modules, seen: Seen) -> None:
    scope = a_bound(rng)
    for name in OBJECTS:
        assert modules.scope.within(scope, name) == covered(scope, name), (scope, name)
        seen["inside" if covered(scope, name) else "outside"] += 1
    for server, objects in SERVERS.items():
        wanted = scope is None or "*" in scope or any(covered(scope, name) for name in objects)
        assert modules.scope.within(scope, server) == wanted, (scope, server)


def narrowing_is_a_meet(rng: Random, modules: Modules, seen: Seen) -> None:
    one, two, three = (a_bound(rng) for _ in range(3))
    narrowed = modules.scope.narrowed
    meet = narrowed(one, two)
    assert (meet is None) == (one is None and two is None)
    for name in OBJECTS:
        assert covered(meet, name) == (covered(one, name) and covered(two, name)), (one, two, name)
        seen["inside" if covered(meet, name) else "outside"] += 1
    assert meet == narrowed(two, one)
    assert narrowed(meet, one) == narrowed(meet, two) == narrowed(meet, meet) == meet
    assert narrowed(narrowed(one, two), three) == narrowed(one, narrowed(two, three)) == narrowed(one, two, three)
    seen["partly"] += meet not in (one, two, (), None)


# --- tokens


class Clock:
    seconds = NOW

    def __call__(self) -> int:
        return self.seconds * 1_000_000


@dataclass
class Tree:
    """One workflow: its principals in the order in which they came to be, each with the index of its parent."""

    minting: Any
    clock: Clock
    terms: dict[str, Any]
    nodes: list[tuple[Principal, Any, int]] = field(default_factory=list)


def planted(rng: Random, modules: Modules) -> Tree:
    clock = Clock()
    terms = {
        agent: modules.delegation.Terms(rng.choice([None, ("*",), ("erp.*", "a2a:*"), some_scope(rng)]), rng.choice([60, 300]))
        for agent in AGENTS
    }
    minting = modules.delegation.Delegations(KEY, URL, 300, DEPTH, clock, terms=terms)
    start = Principal(
        "user:corp/paul",
        (),
        "acme",
        "wf-" + "0" * 26,
        NOW + rng.choice([40, 400, 3000]),
        "bearer",
        "0" * 64,
        frozenset(rng.sample(["buyers", "leads", "staff"], rng.randint(0, 3))),
        jti="person-jti",
        path=rng.choice([(), ("wf-" + "1" * 26,)]),
        assurance=rng.choice(["pop", "bearer"]),
        scope=rng.choice([None, ("*",), ("erp.*",), some_scope(rng)]),
        issued=NOW - rng.choice([0, 5, 500]),
        acr=rng.choice(["", "mfa"]),
        grant=rng.choice(["", "0" * 8 + "-0000-7000-8000-" + "0" * 12]),
    )
    return Tree(minting, clock, terms, [(start, None, -1)])


def client(rng: Random, agent: str, jkt: str) -> Client:
    assurance: Assurance = rng.choice(["pop", "pop", "bearer", "correlated"])
    return Client(agent, "key", assurance, jkt, "1" * 64)


def minted(tree: Tree, rng: Random, modules: Modules, seen: Seen) -> bool:
    """Mint one child somewhere, check it against its parent; False where the tree is over."""
    number = rng.randrange(max(0, len(tree.nodes) - 2), len(tree.nodes))
    parent, parent_said, _ = tree.nodes[number]
    fresh = [name for name in AGENTS if f"agent:{name}" not in parent.actors]
    agent, most = (
        rng.choice(fresh if rng.random() < 0.7 else AGENTS),
        rng.choice([None, None, ("erp.read", "a2a:*"), some_scope(rng)]),
    )
    lifetime, jkt, now = rng.choice([None, 30, 900]), rng.choice(["", "", JKT]), tree.clock.seconds
    looped, full, over = f"agent:{agent}" in parent.actors, len(parent.actors) >= DEPTH, now >= parent.ends
    try:
        token = tree.minting.mint(parent, agent, "call", most=most, lifetime=lifetime, jkt=jkt)
    except Refused as refusal:
        refused = refusal.code
    else:
        refused = None
    wanted = Code.DELEGATION_LOOP if looped else Code.DELEGATION_TOO_DEEP if full else Code.INVALID_CREDENTIAL if over else None
    assert refused is wanted
    if wanted is not None:
        seen[wanted.value] += 1
        return not over
    child = read(tree, token)
    same = ("subject", "tenant", "workflow", "ends", "groups", "issued", "acr", "grant", "assurance")
    assert [getattr(child, name) for name in same] == [getattr(parent, name) for name in same]
    assert child.chain == (*parent.actors, f"agent:{agent}")
    assert child.path == (*parent.path, child.jti)
    assert child.left == DEPTH - len(child.chain)
    assert parent_said is None or child.left == parent_said.left - 1
    assert now < child.expires <= min(child.ends, now + min(300, tree.terms[agent].seconds, lifetime or 300))
    for name in OBJECTS:
        bounds = (parent.scope, tree.terms[agent].scope, most)
        assert covered(child.scope, name) == all(covered(bound, name) for bound in bounds), (bounds, name)
        seen["narrower"] += covered(parent.scope, name) and not covered(child.scope, name)
        seen["kept"] += covered(child.scope, name)
    assert child.jkt == jkt
    grown(tree, rng, modules, child, number)
    seen["minted"] += 1
    seen["deep"] += len(child.chain) > 2
    return True


def grown(tree: Tree, rng: Random, modules: Modules, said: Any, parent: int) -> None:
    """What the holder is, once it has shown its credential: no stronger than the token, nor than what it showed."""
    shown = client(rng, said.holder, said.jkt)
    principal = modules.exchange._principal(said, shown)
    assert STRENGTH[principal.assurance] == min(STRENGTH[said.assurance], STRENGTH[shown.assurance])
    for name in ("subject", "tenant", "workflow", "ends", "groups", "scope", "issued", "acr", "grant", "path", "jti"):
        assert getattr(principal, name) == getattr(said, name)
    assert principal.actors == said.chain
    tree.nodes.append((principal, said, parent))


def read(tree: Tree, token: str) -> Any:
    try:
        return tree.minting.verify(token)
    except Refused as refusal:
        raise AssertionError(f"what was minted is not good: {refusal.detail}") from None


def renewed(tree: Tree, rng: Random, modules: Modules, seen: Seen) -> None:
    """Renew one token of the tree, by whoever claims more than it says: the token counts."""
    held = [(node, number) for number, node in enumerate(tree.nodes) if node[1] is not None]
    if not held:
        return
    (principal, said, _), number = rng.choice(held)
    now, most = tree.clock.seconds, rng.choice([None, ("erp.*",), some_scope(rng)])
    groups: frozenset[str] = frozenset(rng.sample(["buyers", "new"], 1))
    wanted = replace(
        principal, groups=groups, assurance="pop", ends=principal.ends + 60, scope=rng.choice([None, principal.scope])
    )
    jkt = rng.choice([said.jkt, said.jkt, JKT, "x" * 43, ""])
    try:
        token = tree.minting.renew(said, wanted, "call", most=most, jkt=jkt)
    except Refused:
        assert now >= said.ends or (said.jkt and jkt != said.jkt)
        seen["not renewed"] += 1
        return
    assert now < said.ends
    fresh = read(tree, token)
    same = ("subject", "tenant", "workflow", "ends", "issued", "acr", "grant", "jti", "path", "chain", "left")
    assert [getattr(fresh, name) for name in same] == [getattr(said, name) for name in same]
    assert (fresh.groups, fresh.jkt) == (groups, jkt)
    assert not said.jkt or fresh.jkt == said.jkt
    assert STRENGTH[fresh.assurance] <= STRENGTH[said.assurance]
    assert now < fresh.expires <= min(said.ends, now + min(300, tree.terms[said.holder].seconds))
    for name in OBJECTS:
        assert covered(fresh.scope, name) == all(covered(bound, name) for bound in (said.scope, most)), name
    grown(tree, rng, modules, fresh, tree.nodes[number][2])
    seen["renewed"] += 1


def drawn(rng: Random, modules: Modules, seen: Seen) -> Tree:
    tree = planted(rng, modules)
    for _ in range(rng.randint(3, 9)):
        if not minted(tree, rng, modules, seen):
            break
        if rng.random() < 0.5:
            renewed(tree, rng, modules, seen)
        tree.clock.seconds += rng.choice([0, 0, 1, 20, 100])
    return tree


def a_child_never_says_more_than_its_parent(rng: Random, modules: Modules, seen: Seen) -> None:
    drawn(rng, modules, seen)


def a_kill_of_any_ancestor_kills_and_of_no_other_branch(rng: Random, modules: Modules, seen: Seen) -> None:
    tree = drawn(rng, modules, seen)
    principal, said, _ = rng.choice(tree.nodes)
    line, at = lineage(tree, principal), NOW
    targets = [("user", principal.subject), ("workflow", principal.workflow), ("tenant", principal.tenant)]
    targets += [("branch", each.jti) for each in line if each is not None]
    targets += [("agent", f"agent:{each.holder}") for each in line if each is not None]
    targets += [("grant", principal.grant)] if tree.nodes[0][0].grant else []
    for kind, target in targets:
        kill = Kill("k", kind, target, None, "", "api", "", at)
        assert modules.killed.Killed([kill]).of(principal) is kill, (kind, target)
        seen[f"killed by {kind}"] += 1
    others = {node[1].jti for node in tree.nodes if node[1] is not None} - {each.jti for each in line if each is not None}
    for jti in others:
        assert modules.killed.Killed([Kill("k", "branch", jti, None, "", "api", "", at)]).of(principal) is None
        seen["of another branch"] += 1
    start = tree.nodes[0][0].issued
    for before, dead in ((start - 1, False), (start, True)):  # what was given after the moment goes on, however often renewed
        kill = Kill("k", "user", principal.subject, before, "", "api", "", at)
        assert (modules.killed.Killed([kill]).of(principal) is kill) == dead
    seen["deep"] += said is not None and len(said.chain) > 2


def lineage(tree: Tree, principal: Principal) -> list[Any]:
    """The tokens from the start to this one, by how the tree grew and not by what they say."""
    number = next(at for at, node in enumerate(tree.nodes) if node[0] is principal)
    line = []
    while number >= 0:
        _, said, parent = tree.nodes[number]
        line.append(said)
        number = parent
    return line[::-1]


# --- rights


MODEL = (Path(engine_module.__file__).with_name("default") / "model.conf").read_text()
TOOLS = ("erp.read", "erp.write", "mail.send")


@dataclass(frozen=True)
class Rules:
    """Lines without conditions, so that what they mean can be said in three lines of Python."""

    rows: tuple[tuple[str, str, str, str], ...]  # who, object, action, effect

    def engine(self) -> Engine:
        lines = [
            f"p, {who}, acme, {name}, {action}, {effect}, -, -, R-{n}" for n, (who, name, action, effect) in enumerate(self.rows)
        ]
        tools = "tenants: [acme]\ntools:\n" + "".join(f"  {tool}: {{}}\n" for tool in TOOLS)
        texts = {"model.conf": MODEL, "roles.csv": "g, idp:buyers, role:buyer, acme\n", "tools.yaml": tools}
        texts |= {"conditions.yaml": "{}\n", "obligations.yaml": "{}\n", "grants/all.csv": "\n".join(lines) + "\n"}
        return Engine(load_texts(texts))

    def allows(self, names: set[str], action: str, tool: str) -> bool:
        spoken = {
            effect
            for who, name, asked, effect in self.rows
            if (who == "*" or who in names)
            and (name == "*" or name == tool or (name.endswith(".*") and tool.startswith(name[:-1])))
            and (asked in ("*", action) or (action == "relay" and asked == "call"))
        }
        return spoken == {"allow"}


def planted_rules(rng: Random, chain: list[str], tool: str) -> Rules:
    """What the chain needs, each line of it missing now and then, among lines that speak of others."""
    needed = [("role:buyer", tool, "call", "allow"), (f"agent:{chain[-1]}", tool, "call", "allow")]
    needed += [(f"agent:{agent}", tool, rng.choice(["relay", "relay", "call", "*"]), "allow") for agent in chain[:-1]]
    rows = [row for row in needed if rng.random() < 0.9]
    who = ["role:buyer", *(f"agent:{agent}" for agent in AGENTS)]
    for _ in range(rng.randint(1, 5)):
        name = rng.choice([*TOOLS, "erp.*"])
        rows.append((rng.choice(who), name, rng.choice(["call", "relay"]), rng.choice(["allow", "allow", "allow", "deny"])))
    rng.shuffle(rows)
    return Rules(tuple(dict.fromkeys(rows)))


def nobody_gets_more_through_a_chain(rng: Random, modules: Modules, seen: Seen) -> None:
    chain, tool = rng.sample(AGENTS, rng.randint(1, 3)), rng.choice(TOOLS)
    rules = planted_rules(rng, chain, tool)
    engine = rules.engine()

    def allowed(agents: list[str]) -> bool:
        actors = tuple(f"agent:{agent}" for agent in agents)
        return modules.decide(
            engine, AccessRequest("user:corp/paul", actors, "acme", "call", tool, NOW * 10**6, frozenset({"buyers"}))
        )

    found = allowed(chain)
    seen["allowed" if found else "denied"] += 1
    person = rules.allows({"user:corp/paul", "role:buyer"}, "call", tool)
    agents = [rules.allows({f"agent:{agent}"}, "relay", tool) for agent in chain[:-1]]
    agents.append(rules.allows({f"agent:{chain[-1]}"}, "call", tool))
    assert found == (person and all(agents)), (rules, chain, tool)
    for agent in set(AGENTS) - set(chain):
        for place in range(len(chain)):
            assert found or not allowed([*chain[:place], agent, *chain[place:]])  # an earlier agent more never grants
            seen["longer"] += 1


LAWS: dict[str, tuple[Law, int]] = {
    "scope": (a_scope_means_what_its_definition_says, 150),
    "meet": (narrowing_is_a_meet, 300),
    "child": (a_child_never_says_more_than_its_parent, 120),
    "kill": (a_kill_of_any_ancestor_kills_and_of_no_other_branch, 120),
    "rights": (nobody_gets_more_through_a_chain, 80),
}


def held(name: str, modules: Modules, seed: int = 0) -> Seen:
    """Check one law in all its cases; what was seen."""
    law, cases = LAWS[name]
    seen: Seen = Counter()
    for number in range(cases):
        law(Random(f"{seed}.{number}"), modules, seen)
    return seen
