"""The laws of delegation hold, their cases are not empty, and every bug that is planted here breaks one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import scope
from gateway.identity import delegation, exchange, killed
from policies.engine import Engine
from policies.model import AccessRequest
from tests.identity.delegation_laws import LAWS, Modules, Seen, held


@pytest.mark.parametrize("name", LAWS)
def test_a_law_of_delegation_holds(name: str) -> None:
    held(name, Modules())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(1, 2**32), name=st.sampled_from(sorted(LAWS)))
def test_the_laws_hold_in_other_cases_too(seed: int, name: str) -> None:
    for number in range(5):
        LAWS[name][0](Random(f"{seed}.{number}"), Modules(), Seen())


def test_the_cases_are_not_empty() -> None:
    seen = {name: held(name, Modules()) for name in LAWS}
    assert min(seen["scope"]["inside"], seen["scope"]["outside"]) > 400
    assert min(seen["meet"]["inside"], seen["meet"]["outside"], seen["meet"]["partly"] * 10) > 400
    for what in ("minted", "deep", "renewed", "not renewed", "narrower", "kept", "delegation-loop", "delegation-too-deep"):
        assert seen["child"][what] > 20, what
    assert seen["child"]["invalid-credential"] > 5  # the person's time was over
    for kind in ("user", "workflow", "tenant", "branch", "agent", "grant"):
        assert seen["kill"][f"killed by {kind}"] > 20, kind
    assert seen["kill"]["of another branch"] > 50
    rate = seen["rights"]["allowed"] / (seen["rights"]["allowed"] + seen["rights"]["denied"])
    assert 0.3 < rate < 0.8
    assert seen["rights"]["longer"] > 100


# --- planted bugs


@contextmanager
def bent(module: ModuleType, old: str, new: str) -> Iterator[ModuleType]:
    """The module with one line changed, beside the real one."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(old) == 1, f"{source.count(old)} places say {old!r}"
    made = ModuleType("bent_" + module.__name__.replace(".", "_"))
    made.__file__ = module.__file__
    sys.modules[made.__name__] = made
    try:
        exec(compile(source.replace(old, new), "bent", "exec"), made.__dict__)
        yield made
    finally:
        del sys.modules[made.__name__]


_BOTH = "scopes.narrowed(scope, terms.scope, most)"
BUGS = {
    "the parent's scope is forgotten": ("child", delegation, _BOTH, "scopes.narrowed(terms.scope, most)"),
    "the agent's own scope is forgotten": ("child", delegation, _BOTH, "scopes.narrowed(scope, most)"),
    "the request's scope is forgotten": ("child", delegation, _BOTH, "scopes.narrowed(scope, terms.scope)"),
    "a token outlives the person's end": (
        "child", delegation,
        "expires = min(now + seconds, principal.ends)",
        "expires = now + seconds",
    ),
    "the end moves": ("child", delegation, '"ends": principal.ends,', '"ends": principal.ends + 60,'),
    "short tokens are long": ("child", delegation, "min(self._lifetime, terms.seconds, ", "min(self._lifetime, "),
    "depth never shrinks": (
        "child", delegation,
        '"left": min(self._max_depth - len(chain), left)',
        '"left": self._max_depth - 1',
    ),
    "a chain may loop": ("child", delegation, "if actor in principal.actors:", "if actor in principal.actors[:-1]:"),
    "a chain may be one longer": (
        "child", delegation,
        "if len(chain) > self._max_depth or left < 0:",
        "if len(chain) > self._max_depth + 1:",
    ),
    "each hop is a workflow of its own": ("child", delegation, '"wf": principal.workflow,', '"wf": "wf-" + "9" * 26,'),
    "groups are lost": ("child", delegation, '"groups": sorted(principal.groups),', '"groups": [],'),
    "assurance rises": ("child", delegation, '"assurance": principal.assurance,', '"assurance": "pop",'),
    "authority is as young as its token": ("child", delegation, '"start": min(principal.issued or now, now),', '"start": now,'),
    "the grant is forgotten": ("child", delegation, '"grant": principal.grant,', '"grant": "",'),
    "a renewal loses the key": ("child", delegation, "if token.jkt and jkt != token.jkt:", "if False:"),
    "a renewal widens": ("child", delegation, "scopes.narrowed(token.scope, principal.scope)", "principal.scope"),
    "a renewal strengthens": (
        "child", delegation,
        "assurance=weaker(token.assurance, principal.assurance)",
        "assurance=principal.assurance",
    ),
    "a renewal lengthens": ("child", delegation, "ends=min(token.ends, principal.ends)", "ends=principal.ends"),
    "a branch forgets its parents": ("kill", delegation, '"path": [*principal.path, jti],', '"path": [jti],'),
    "a hop's own proof counts alone": (
        "child", exchange,
        "assurance=weaker(held.assurance, client.assurance)",
        "assurance=client.assurance",
    ),
    "a holder forgets its scope": ("child", exchange, "scope=held.scope,", "scope=None,"),
    "only the token itself can be killed": (
        "kill", killed, '("branch", attrgetter("path"))', '("branch", lambda principal: principal.path[-1:])'
    ),
    "only the acting agent can be killed": (
        "kill", killed, '("agent", attrgetter("actors"))', '("agent", lambda principal: principal.actors[-1:])'
    ),
    "an item covers what begins with it": (
        "scope", scope,
        'item.endswith("*") and resource.startswith(item[:-1])',
        'resource.startswith(item.rstrip("*"))',
    ),
    "an agent's name is a server's": ("scope", scope, "if not item.startswith(_OF_SERVERS):", 'if ":" not in item:'),
    "the second scope is added": (
        "meet", scope,
        "both |= {item for item in most if any(covers(wide, item) for wide in kept)}",
        "both |= most",
    ),
    "the first scope is kept": (
        "meet", scope,
        "both = {item for item in kept if any(covers(wide, item) for wide in most)}",
        "both = set(kept)",
    ),
    "the second scope alone counts": ("meet", scope, "kept = frozenset(both)", "kept = most"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_breaks_a_law(bug: str) -> None:
    law, module, old, new = BUGS[bug]
    with bent(module, old, new) as made:
        name = module.__name__.rpartition(".")[2]
        modules = replace(Modules(), **{name: made})
        with pytest.raises(AssertionError):
            held(law, modules)


def only_the_person(engine: Engine, request: AccessRequest) -> bool:
    return engine.decide(AccessRequest(request.subject, (), *_rest(request))).allowed


def only_person_and_last(engine: Engine, request: AccessRequest) -> bool:
    return engine.decide(AccessRequest(request.subject, request.actors[-1:], *_rest(request))).allowed


def only_first_and_last(engine: Engine, request: AccessRequest) -> bool:
    actors = tuple(dict.fromkeys((request.actors[0], request.actors[-1])))
    return engine.decide(AccessRequest(request.subject, actors, *_rest(request))).allowed


def anybody_of_the_chain(engine: Engine, request: AccessRequest) -> bool:
    return any(answer.allowed for answer in engine.decide(request).answers)


def agents_without_the_person(engine: Engine, request: AccessRequest) -> bool:
    return all(answer.allowed for answer in engine.decide(request).answers[1:])


def _rest(request: AccessRequest) -> tuple[str, str, str, int, frozenset[str]]:
    return request.tenant, request.action, request.resource, request.at, request.groups


@pytest.mark.parametrize(
    "bug", [only_the_person, only_person_and_last, only_first_and_last, anybody_of_the_chain, agents_without_the_person]
)
def test_a_judge_that_does_not_ask_everybody_breaks_the_law_of_rights(bug: object) -> None:
    with pytest.raises(AssertionError):
        held("rights", Modules(decide=bug))  # type: ignore[arg-type]  # each is one
