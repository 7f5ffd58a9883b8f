"""`bailiwick explain --decision`: a recorded decision, made again under the very bundle that made it.

What the record says stands on top; what is worked out again is held against it, and a difference is said, never smoothed over.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from audit.reader import Ledger, Record
    from gateway.reproduce import Past
    from gateway.settings import Settings
    from policies.engine import Engine
    from policies.model import Decision
    from policies.nearest import Remedy


def explain_recorded(
    decision_id: str, config: Path, log_name: str, ledger: Path | None, *, remedies: bool, as_json: bool
) -> NoReturn:
    """Explain one record; exits as `explain` does: 0 it was allowed, 1 it was not, 2 there is no such decision."""
    from gateway.cli import recorded  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli.which_log import holding  # noqa: PLC0415
    from gateway.reproduce import KINDS, VALUES, Kept, Past, rebuild  # noqa: PLC0415

    settings = holding(config, log_name, ledger, lambda log: log.get(decision_id) is not None)
    log = recorded.opened(settings, ledger, f"decision {decision_id}", "explain")
    with log:
        record = _record(log, decision_id)
        past = next((rebuild(each) for each in log.opened(KINDS, VALUES, start=record.index, stop=record.index + 1)), None)
    said = _said(record)
    if isinstance(past, Past):
        kept = Kept([settings.data / "bundles"])
        _add(kept, settings)
        engine = kept.engine(past.verdict.bundle)
        if engine is not None:
            _again(past, said, engine, _today(settings, past), remedies=remedies, as_json=as_json)
        why = f"the bundle that decided is not at hand: {kept.missing.get(past.verdict.bundle, '')}"
    else:
        why = "policy was not asked" if past is None else f"it cannot be decided again ({past.why.value}) {past.detail}".strip()
    if as_json:
        print_json({"decision": said["allowed"], "context": {"recorded": said, "again": None, "why_not": why}})
    else:
        _tell(said)
        console().print(printable(f"\nNo more than the record can be shown: {why}"))
    raise typer.Exit(0 if said["allowed"] else 1)


def _record(log: Ledger, decision_id: str) -> Record:
    from audit.model import TamperedError  # noqa: PLC0415

    try:
        record = log.get(decision_id)
    except TamperedError as error:
        misuse(f"the ledger was changed: {error}", help="bailiwick audit verify")
    if record is None or ("decision" not in record.leaf and "refused" not in record.leaf):
        misuse(
            f"there is no decision {printable(decision_id[:80])}", help="the id is that of `audit tail`, and what a caller got"
        )
    return record


def _add(kept: Any, settings: Settings) -> None:
    """The bundle that the settings name now, too: it may well be the one that decided."""
    from policies.bundle import BundleError  # noqa: PLC0415

    try:
        kept.add(settings.policies)
    except (BundleError, OSError):
        return  # a broken one did not decide


def _today(settings: Settings, past: Past) -> Decision | None:
    """What the bundle that the settings name now would say; None where it is the same one, or does not load."""
    from policies.bundle import BundleError, load  # noqa: PLC0415
    from policies.engine import Engine  # noqa: PLC0415

    try:
        bundle = load(settings.policies)
    except (BundleError, OSError):
        return None
    return None if bundle.digest == past.verdict.bundle else Engine(bundle).decide(past.request)


def _said(record: Record) -> dict[str, Any]:
    """What stands in the record."""
    from gateway.cli.audit_views import when  # noqa: PLC0415

    leaf = record.leaf
    decision = leaf.get("decision") or {}
    refused = leaf.get("refused") or {}
    return {
        "record": record.id,
        "index": record.index,
        "at": when(record.at),
        "allowed": decision.get("effect") == "allow" and not refused,
        "refused": refused.get("code"),
        "detail": refused.get("detail") or None,
        "reason": decision.get("reason"),
        "bundle": decision.get("policy"),
        "asked": decision.get("asked", []),
    }


def _tell(said: dict[str, Any]) -> None:
    """The record, for people."""
    out = console()
    out.print(printable(f"Record {said['index']}, {said['at']}, {said['record']}"), style="bold")
    refused = f"refused: {said['refused']}{': ' + said['detail'] if said['detail'] else ''}" if said["refused"] else ""
    out.print(printable(refused or ("allowed" if said["allowed"] else "denied")))
    for asked in said["asked"]:
        lines = ", ".join([*asked["rules"], *asked["duties"], *(f"nearly {rule}" for rule in asked["near"])])
        answer = "yes" if asked["allow"] else "no "
        out.print(printable(f"  {answer}  {asked['who']} ({asked['role']}) {asked['action']}: {lines or 'no rule'}"))
    if said["bundle"]:
        out.print(printable(f"Decided by bundle {said['bundle']}"))


def _again(
    past: Past, said: dict[str, Any], engine: Engine, today: Decision | None, *, remedies: bool, as_json: bool
) -> NoReturn:
    """The decision made again, in full, with what differs from the record, and what would be said today."""
    from gateway.cli.explain import evaluation, nearest_of, tell, tell_nearest  # noqa: PLC0415
    from policies.replay import Verdict, differences  # noqa: PLC0415

    decision = engine.decide(past.request)
    differs = differences(past.verdict.granted, Verdict.of(decision))
    found: tuple[Remedy, ...] = nearest_of(engine.bundle, past.request) if remedies and not decision.allowed else ()
    if as_json:
        view = evaluation(past.request, decision, found)
        context = {"recorded": said, "differs": list(differs), "today": None if today is None else today.allowed}
        print_json({"decision": said["allowed"], "context": context, "again": view})
    else:
        _tell(said)
        out = console()
        if differs:
            out.print(printable(f"\nDECIDED AGAIN, IT COMES OUT OTHERWISE: {', '.join(differs)}"), style="bold red")
        out.print("\nDecided again under the same bundle:", style="bold")
        tell(past.request, decision, engine.bundle.tools)
        tell_nearest(engine.bundle, found)
        if today is not None:
            out.print(printable(f"\nThe bundle of today ({today.bundle}) would {'allow' if today.allowed else 'deny'} it."))
    raise typer.Exit(0 if said["allowed"] else 1)
