"""A bundle: a folder of policy, loaded whole or not at all, immutable, named by the hash of what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from policies.casbinmodel import check_model
from policies.finding import BundleError, Finding, Report
from policies.labels import Labels
from policies.membership import Membership, read_roles
from policies.model import Obligation
from policies.pinning import Pinning
from policies.reading import REQUIRED, SIGNATURE, check_text, known_file, read_folder
from policies.registry import Condition, ToolSpec, read_registry
from policies.rules import Rule, read_grants
from policies.workflows.model import Workflow, Workflows, taints
from policies.workflows.reading import read_workflows

__all__ = ["Bundle", "BundleError", "Condition", "Finding", "Membership", "Rule", "ToolSpec", "Workflow", "load", "load_texts"]


@dataclass(frozen=True, slots=True, repr=False)
class Bundle:
    """What a folder of policy says.

    digest       `sha256:<hex>` over the names and texts of all files that decide: not of tests/, README.md and the signature.
    texts        every file that was read, tests included, by its name: `load_texts` makes the same bundle of them.
    tools        by full name, `erp.write_po`.
    sets         `set:<name>` → tool names.
    obligations  by name; conditions likewise.
    rules        in the order of files and lines.
    shadow       rules that are watched and decide nothing.
    roles        who is a member of what.
    model        the text of model.conf.
    pinning      which definitions of servers were approved (tools.lock), and who must.
    workflows    by name.
    labels       of everything that can be a step; `flows` those that some rule looks for.
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
    shadow: tuple[Rule, ...]
    texts: Mapping[str, str]
    pinning: Pinning = field(default_factory=Pinning)
    workflows: Workflows = field(default_factory=lambda: MappingProxyType({}))
    labels: Labels = field(default_factory=Labels)
    flows: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Bundle({self.digest}, {len(self.rules)} rules, {len(self.tools)} tools)"


def load(folder: Path) -> Bundle:
    """Read a folder of policy.  Raises BundleError with everything that is wrong with it; never returns a part of it."""
    report = Report()
    texts = read_folder(Path(folder), report)
    if not texts:
        raise report.error()
    return _load(texts, report)


def load_texts(texts: Mapping[str, str]) -> Bundle:
    """The bundle that these files are: a revision of a repository, an archive.  BundleError as `load`."""
    report = Report()
    for name in texts:
        if not known_file(name):
            report.add("stray-file", (name[:200], 0, 0), "this file is not part of a bundle")
    for name in REQUIRED:
        if name not in texts:
            report.add("missing-file", (name, 0, 0), "this file is missing", "a bundle is never used in part")
    checked = {name: text for name in sorted(texts) if (text := check_text(name, texts[name].encode(), report)) is not None}
    if report:
        raise report.error()
    return _load(checked, report)


def _load(texts: Mapping[str, str], report: Report) -> Bundle:
    if "model.conf" in texts:
        check_model(texts["model.conf"], report)
    registry = read_registry(texts, report)
    if "tools.yaml" not in texts:  # every line would be a finding of its own
        raise report.error()
    roles = read_roles(texts, registry, report)
    rules, shadow = read_grants(texts, registry, roles, report)
    workflows = read_workflows(texts, registry, roles, rules, report)
    if report:
        raise report.error()
    return Bundle(
        digest=digest_of(texts),
        model=texts["model.conf"],
        tenants=registry.tenants,
        tools=registry.tools,
        sets=registry.sets,
        conditions=registry.conditions,
        obligations=registry.obligations,
        roles=roles,
        rules=rules,
        shadow=shadow,
        texts=MappingProxyType(dict(texts)),
        pinning=registry.pinning,
        workflows=workflows,
        labels=registry.labels,
        flows=frozenset(label for rule in taints(workflows.values()) for label in rule.after),
    )


def digest_of(texts: Mapping[str, str]) -> str:
    """Of names and contents, each with its length before it, so that no two bundles read alike."""
    state = hashlib.sha256(b"bailiwick-bundle-v1\n")
    for name in sorted(texts):
        if name.startswith("tests/") or name in SIGNATURE:
            continue
        data = texts[name].encode()
        state.update(f"{name}\n{len(data)}\n".encode())
        state.update(data)
    return f"sha256:{state.hexdigest()}"
