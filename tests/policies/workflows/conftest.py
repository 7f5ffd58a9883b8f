"""A bundle whose workflow a test writes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policies.bundle import Bundle, load_texts
from policies.workflows.model import Workflow
from tests.policies.conftest import FILES

TOOLS = """\
tenants: [acme, other]
tools:
  erp.read: {args: {id: string}, risk: low}
  erp.write_po: {args: {supplier: string, amount: number, lines: array}, risk: high}
  erp.approve_po: {args: {supplier: string}, risk: high}
  contracts.search: {args: {supplier: string, query: string}, risk: low}
  risk.score: {args: {vendor: string}, risk: low}
  mail.send: {args: {to: string}, tenants: [other]}
sets:
  "set:reading": [erp.read, contracts.search]
"""
ROLES = """\
g, idp:buyers, role:buyer, acme
g, agent:helper, agents:crew, acme
g, agent:checker, agents:crew, acme
"""
GRANTS = "p, role:buyer, acme, erp.*, call, allow, -, -, BUY-1\np, agents:crew, acme, a2a:reviewer, send, allow, -, -, A-1\n"

Make = Callable[..., Bundle]


def bundle_of(text: str | dict[str, str]) -> Bundle:
    """A bundle with this text as its only workflow (or these, by file)."""
    files = {"workflows/w.yaml": text} if isinstance(text, str) else text
    texts = FILES | {"tools.yaml": TOOLS, "roles.csv": ROLES, "grants/people.csv": GRANTS} | files
    return load_texts({**texts, "conditions.yaml": "small: {if: args.amount <= 100, say: small}\n"})


def workflow_of(text: str) -> Workflow:
    """Its only workflow."""
    (workflow,) = bundle_of(text).workflows.values()
    return workflow


@pytest.fixture
def bundle_with() -> Make:
    """`bundle_of`."""
    return bundle_of
