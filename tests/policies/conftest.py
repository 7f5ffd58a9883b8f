"""A small bundle that tests change one file at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from policies import engine as engine_module
from policies.bundle import Bundle, BundleError, Finding, load

SHIPPED = Path(engine_module.__file__).with_name("default")

FILES = {
    "model.conf": (SHIPPED / "model.conf").read_text(),
    "roles.csv": "g, idp:buyers, role:buyer, acme\ng, agent:helper, agents:crew, acme\n",
    "tools.yaml": """\
tenants: [acme, other]
tools:
  erp.read: {args: {id: string}, risk: low}
  erp.write_po: {args: {supplier: string, amount: number}, labels: [writes:finance], risk: high}
  mail.send: {args: {to: string}, tenants: [acme]}
sets:
  "set:reading": [erp.read]
""",
    "conditions.yaml": "small: {if: args.amount <= 100, say: small orders}\n",
    "obligations.yaml": "full-audit: {type: audit, arguments: full}\n",
    "grants/people.csv": "p, role:buyer, acme, erp.write_po, call, allow, small, -, BUY-1\n",
    "grants/guardrails.csv": "p, *, acme, erp.write_po, call, require, -, full-audit, SEC-1\n",
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the small bundle with files changed (`{"roles.csv": text}`), added, or left out (None)."""

    def make(changes: dict[str, str | bytes | None] | None = None) -> Path:
        (tmp_path / "grants").mkdir(exist_ok=True)
        for name, text in (FILES | (changes or {})).items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            if text is None:
                path.unlink(missing_ok=True)
            elif isinstance(text, bytes):
                path.write_bytes(text)
            else:
                path.write_text(text)
        return tmp_path

    return make


@pytest.fixture
def bundle(write: Write) -> Bundle:
    return load(write())


@pytest.fixture
def findings(write: Write) -> Callable[[dict[str, str | bytes | None]], tuple[Finding, ...]]:
    """What is found wrong with the small bundle after changes; none where it loads."""

    def find(changes: dict[str, str | bytes | None]) -> tuple[Finding, ...]:
        try:
            load(write(changes))
        except BundleError as error:
            return error.findings
        return ()

    return find
