"""A bundle: a folder of policy, loaded whole or not at all, immutable, named by the hash of what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from policies.casbinmodel import check_model
from policies.finding import BundleError, Finding, Report
from policies.membership import Membership, read_roles
from policies.model import Obligation
from policies.reading import read_folder
from policies.registry import Condition, Registry, ToolSpec, read_registry
from policies.rules import Rule, read_grants

__all__ = ["Bundle", "BundleError", "Condition", "Finding", "Membership", "Rule", "ToolSpec", "load"]


@dataclass(frozen=True, slots=True, repr=False)
class Bundle:
    """What a folder of policy says.

    digest       `sha256:<hex>` over the names and texts of all files that decide: not of tests/ and README.md.
    tools        by full name, `erp.write_po`.
    sets         `set:<name>` → tool names.
    obligations  by name; conditions likewise.
    rules        in the order of files and lines.
    roles        who is a member of what.
    model        the text of model.conf.
    """

    digest: str
    model: str
    tenants: frozenset[str]
    tools: Mapping[str, ToolSpec]
    sets: Mapping[str, tuple[str, ...]]
    conditions: Mapping[str, Condition]
    obligations: Mapping[str, Obligation]
    roles: tuple[Membership, ...]
    rules: tuple[Rule, ...]

    def __repr__(self) -> str:
        return f"Bundle({self.digest}, {len(self.rules)} rules, {len(self.tools)} tools)"


def load(folder: Path) -> Bundle:
    """Read a folder of policy.  Raises BundleError with everything that is wrong with it; never returns a part of it."""
    report = Report()
    texts = read_folder(Path(folder), report)
    if not texts:
        raise report.error()
    if "model.conf" in texts:
        check_model(texts["model.conf"], report)
    registry = read_registry(texts, report)
    if "tools.yaml" not in texts:  # every line would be a finding of its own
        raise report.error()
    roles = read_roles(texts, registry, report)
    rules = read_grants(texts, registry, roles, report)
    if report:
        raise report.error()
    return _bundle(texts, registry, roles, rules)


def _bundle(texts: Mapping[str, str], registry: Registry, roles: tuple[Membership, ...], rules: tuple[Rule, ...]) -> Bundle:
    return Bundle(
        digest=_digest(texts),
        model=texts["model.conf"],
        tenants=registry.tenants,
        tools=registry.tools,
        sets=registry.sets,
        conditions=registry.conditions,
        obligations=registry.obligations,
        roles=roles,
        rules=rules,
    )


def _digest(texts: Mapping[str, str]) -> str:
    """Names and contents, each with its length before it, so that no two bundles read alike."""
    state = hashlib.sha256(b"bailiwick-bundle-v1\n")
    for name in sorted(texts):
        data = texts[name].encode()
        state.update(f"{name}\n{len(data)}\n".encode())
        state.update(data)
    return f"sha256:{state.hexdigest()}"
