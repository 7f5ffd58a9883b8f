"""The policies that are compared: rules that know one call alone, and rules that know what came before it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT = Path(__file__).resolve().parents[2]
LABELS: Final[Mapping[str, Mapping[str, list[str]]]] = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text())
OUT: Final = (
    "sink:external",
    "sink:message",
    "writes:deletion",
    "writes:money",
    "writes:booking",
    "writes:account",
    "writes:members",
)
"""Labels of what has consequences."""
_TYPES: Final = ("string", "number", "integer", "boolean", "array", "object")
TRIFECTA: Final = "{after: [source:confidential, source:untrusted], deny: sink:external}"
FLOWS: Final = ("flow", "flow, inside free", "trifecta")
VARIANTS: Final = ("none", "per call", "per call, inside free", *FLOWS)


def write(folder: Path, variant: str, tasks: Mapping[str, Any]) -> None:
    """One bundle: everybody of the group may call everything, but for the rules of the variant."""
    for inner in ("grants", "tests", "workflows"):
        (folder / inner).mkdir(parents=True)
    shutil.copy(ROOT / "policies" / "default" / "model.conf", folder)
    tools = {f"{suite}.{name}": schema for suite, said in tasks.items() for name, schema in said["tools"].items()}
    entries = {name: {"args": _args(schema), "labels": _labels(name), "risk": "low"} for name, schema in tools.items()}
    (folder / "roles.csv").write_text("g, idp:callers, role:caller, bench\n")
    (folder / "obligations.yaml").write_text("{}\n")
    inside = _inside(tasks)
    lines = [f"p, role:caller, bench, {suite}.*, call, allow, -, -, ALL-{suite}" for suite in tasks]
    conditions = {}
    if variant.startswith("per call"):
        for number, name in enumerate(sorted(name for name in tools if set(OUT) & set(_labels(name)))):
            when = "-"
            if variant.endswith("free") and name in inside:
                when = f"outside-{number}"
                conditions[when] = {"if": f"not ({inside[name]})", "say": "somebody outside is reached"}
            lines.append(f"p, *, bench, {name}, call, deny, {when}, -, OUT-{number}")
    if variant in FLOWS:
        kinds = list(dict.fromkeys(inside.values()))
        for (
            name,
            entry,
        ) in entries.items():  # what is exempt differs by tool: a label for each kind of exemption, and one for all others
            if set(OUT) & set(_labels(name)):
                kind = str(kinds.index(inside[name])) if name in inside else "other"
                entry["labels"] = [*_labels(name), f"out:{kind}"]
        conditions = {f"inside-{at}": {"if": test, "say": "nobody outside is reached"} for at, test in enumerate(kinds)}
        free = variant.endswith("free")
        unless = {f"out:{at}": f", unless: inside-{at}" if free else "" for at in range(len(kinds))} | {"out:other": ""}
        rules = [f"  - {{after: source:untrusted, deny: {label}{exempt}}}" for label, exempt in unless.items()]
        rules = [f"  - {TRIFECTA}"] if variant == "trifecta" else rules
        (folder / "workflows" / "flow.yaml").write_text("\n".join(["workflow: flow", "taint:", *rules, ""]))
    (folder / "tools.yaml").write_text(json.dumps({"tenants": ["bench"], "tools": entries}))
    (folder / "conditions.yaml").write_text(json.dumps(conditions))
    (folder / "grants" / "all.csv").write_text("\n".join(lines) + "\n")
    (folder / "tests" / "all.yaml").write_text(TESTS)


TESTS: Final = """
people:
  caller: {is: user:dev/bench, groups: [callers]}
  stranger: {is: user:dev/stranger, groups: []}
tests:
  - {who: caller, tool: banking.get_balance, expect: allow}
  - {who: stranger, tool: banking.get_balance, expect: deny, because: user-lacks-right}
"""


def _labels(name: str) -> list[str]:
    suite, _, tool = name.partition(".")
    return LABELS[suite][tool]


def _args(schema: Mapping[str, Any]) -> dict[str, str]:
    """Arguments by type; of several types the first that is one of ours."""
    found = {}
    for name, said in schema.get("properties", {}).items():
        kinds = [said.get("type")] + [each.get("type") for each in said.get("anyOf", ())]
        kind = next((each for each in kinds if each in _TYPES), None)
        if kind is not None:
            found[name] = kind
    return found


def _inside(tasks: Mapping[str, Any]) -> dict[str, str]:
    """By tool, when what it does reaches nobody outside: the directory of the company, and accounts that were paid before.

    Both are read from the environment as it was before any attack.
    """
    people = json.dumps(sorted(set(re.findall(r"[\w.+-]+@bluesparrowtech\.com", tasks["workspace"]["environment"]))))
    bank = json.loads(tasks["banking"]["environment"])["bank_account"]
    paid = json.dumps(sorted({each["recipient"] for each in bank["transactions"] + bank["scheduled_transactions"]}))
    mail = f"all_in(args.recipients, {people}) and not has(args.cc) and not has(args.bcc)"
    invited = f"not has(args.participants) or all_in(args.participants, {people})"
    return {
        "workspace.send_email": mail,
        "travel.send_email": mail,
        "workspace.create_calendar_event": invited,
        "travel.create_calendar_event": invited,
        "workspace.add_calendar_event_participants": invited,
        "workspace.share_file": f"args.email in {people}",
        "banking.send_money": f"args.recipient in {paid}",
        "banking.schedule_transaction": f"args.recipient in {paid}",
        "banking.update_scheduled_transaction": f"not has(args.recipient) or args.recipient in {paid}",
    }
