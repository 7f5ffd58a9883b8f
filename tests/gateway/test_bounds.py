"""What holds a call is worked out once for each tool and chain, and is what would be worked out anew each time."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gateway.model import Principal
from gateway.policy.in_force import Pair, Policy
from gateway.workflows import steps
from gateway.workflows.steps import Bounds
from policies.bundle import Bundle, load
from policies.engine import Engine
from policies.workflows.flow import brings
from policies.workflows.ruling import held_by, is_unknown

FOLDER = Path(__file__).parents[2] / "examples" / "procurement" / "policies"
RESOURCES = ("erp.write_po", "erp.pay_invoice", "erp.read", "contracts.search", "risk.score", "nowhere.nothing", "res:erp/a")
CHAINS = ((), ("agent:contract-review",), ("agent:buyer", "agent:supplier-risk"))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load(FOLDER)


def asks(bundle: Bundle) -> list[tuple[Principal, str]]:
    tenants = sorted({tenant for each in bundle.workflows.values() for tenant in each.tenants} | {"elsewhere"})
    definitions = ("", "purchase-order", "unknown")
    return [
        (Principal("user:corp/a", chain, tenant, "wf", 2**31, "bearer", "00", definition=definition), resource)
        for tenant, chain, definition, resource in itertools.product(tenants, CHAINS, definitions, RESOURCES)
    ]


@pytest.mark.parametrize("most", [1, 5, 4096])
def test_what_is_kept_in_mind_is_what_holds_the_call_however_little_of_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, most: int
) -> None:
    monkeypatch.setattr(steps, "MOST_BOUNDS", most)
    bounds = Bounds(Policy(Pair(bundle, Engine(bundle), 0)))
    seen = set()
    for principal, resource in asks(bundle) * 2:
        bound = bounds.of(principal, resource, bundle)
        held = held_by(bundle.workflows.values(), principal.tenant, resource, principal.actors, principal.definition)
        assert bound.held == held
        assert bound.unknown is is_unknown(held, principal.definition)
        assert bound.brings is bool(brings(bundle, resource))
        seen.add((bool(bound.held), bound.unknown, bound.brings))
    assert len(seen) > 3, "the calls are all alike"
