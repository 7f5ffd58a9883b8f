"""`bailiwick audit reproduce`: every recorded decision is made again under its own bundle, and must come out the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import console, print_json, print_problems, printable
from gateway.cli.which_log import EveryLog, LogName, deciding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.reproduce import Kept, Past, Undecidable, Why
    from gateway.workflows.again import Retelling
    from policies.model import Decision
    from policies.replay import Verdict

_SHOWN = 20


def reproduce(
    *,
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help="30d, 12h, 2w or a date; default: everything.")] = "",
    config: Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")] = Path(
        "bailiwick.yaml"
    ),
    log_name: LogName = "",
    all_logs: EveryLog = False,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Another ledger file (SQLite), such as a copy.")] = None,
    bundles: Annotated[
        Path | None, typer.Option("--bundles", metavar="DIR", help="Archived bundles; default: <data>/bundles.")
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option("--bundle", metavar="FOLDER", help="A bundle that decided; may stand repeatedly.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Make every recorded decision again, each under the bundle that made it.  Exits with 1 where one comes out otherwise.

    What cannot be made again (its person was erased, its bundle is not at hand) is counted by reason.

    [bold]Example[/bold]   bailiwick audit reproduce --since 30d
    """
    from audit.model import TamperedError  # noqa: PLC0415  the command line pays for what it uses
    from gateway.bundles import bundle_problems  # noqa: PLC0415
    from gateway.cli import recorded  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415
    from gateway.reproduce import Kept  # noqa: PLC0415
    from policies.bundle import BundleError  # noqa: PLC0415

    start = recorded.since(since, wall_clock())
    views = deciding(config, log_name, ledger, all_logs=all_logs)
    settings = views[0][1]
    folders = [*(bundle or ()), *([settings.policies] if not bundle and settings.policies.is_dir() else [])]
    kept = Kept([bundles or settings.data / "bundles"])
    for folder in folders:
        try:
            kept.add(folder)
        except BundleError as error:
            if bundle:
                print_problems(bundle_problems(error, folder), as_json=as_json)
                raise typer.Exit(2) from None
    found = Reproduced()
    for name, each in views:
        with recorded.opened(each, ledger, "recorded decisions, to make them again", "audit reproduce") as log:
            size, history = log.size, recorded.retelling(each)
            try:
                part = judge(recorded.watched(history.decisions(log, start, size), size, "deciding again"), kept, history)
            except TamperedError as error:
                which = f" ({name})" if len(views) > 1 else ""
                console(stderr=True).print(printable(f"bailiwick: the ledger{which} was changed: {error}"))
                raise typer.Exit(1) from None
        found.take(name if len(views) > 1 else "", part)
    if as_json:
        print_json(found.to_dict())
    else:
        _tell(found)
    raise typer.Exit(0 if found.ok else 1)


@dataclass(slots=True)
class Finding:
    """A decision that did not come out as it was recorded, or whose values were changed."""

    record: str
    index: int
    differs: tuple[str, ...]
    recorded: dict[str, Any] = field(default_factory=dict)
    again: dict[str, Any] = field(default_factory=dict)
    log: str = ""


@dataclass(slots=True)
class Reproduced:
    """What came of it.  findings holds the first of `differing`; bundles: decisions by the digest that made them; logs: the same
    of each, where there are several.
    """

    decisions: int = 0
    identical: int = 0
    differing: int = 0
    undecidable: Counter[str] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    missing: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    logs: dict[str, Reproduced] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the record, and (where there was anything to do without its bundle) something for it.

        Of several logs in each: one of which nothing could be said must not pass for a good one beside others.
        """
        alone = self.differing == 0 and (self.identical > 0 or not self.missing)
        return alone and all(each.ok for each in self.logs.values())

    def take(self, log: str, part: Reproduced) -> None:
        """Add what came of one log; "" is the only one."""
        self.decisions += part.decisions
        self.identical += part.identical
        self.differing += part.differing
        self.undecidable += part.undecidable
        self.bundles += part.bundles
        self.missing |= part.missing
        for finding in part.findings:
            finding.log = log
        self.findings = (self.findings + part.findings)[:_SHOWN]
        if log:
            self.logs[log] = part

    def note(self, finding: Finding) -> None:
        """Count a finding; the first ones are kept."""
        self.differing += 1
        if len(self.findings) < _SHOWN:
            self.findings.append(finding)

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": self.ok,
            "decisions": self.decisions,
            "identical": self.identical,
            "differing": self.differing,
            "undecidable": dict(self.undecidable),
            "bundles": dict(self.bundles),
            "missing": self.missing,
            "findings": [
                {name: value for name, value in asdict(each).items() if name != "log" or value} for each in self.findings
            ],
            **({"logs": {name: each._counts() for name, each in self.logs.items()}} if self.logs else {}),
        }

    def _counts(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("ok", "decisions", "identical", "differing")}


def judge(found: Iterable[Past | Undecidable], kept: Kept, history: Retelling | None = None) -> Reproduced:
    """Decide each again under its own bundle and hold the answers side by side.

    With `history` (that told of `found`) what workflows said as well; without, what grants said.
    """
    from gateway.reproduce import Undecidable, Why  # noqa: PLC0415
    from policies.replay import Verdict  # noqa: PLC0415

    result = Reproduced()
    for past in found:
        result.decisions += 1
        if isinstance(past, Undecidable):
            if past.why is Why.DAMAGED:
                result.note(Finding(past.record.id, past.record.index, (f"damaged: {past.detail}",)))
            else:
                result.undecidable[past.why.value] += 1
            continue
        digest = past.verdict.bundle
        result.bundles[digest] += 1
        engine = kept.engine(digest)
        if engine is None:
            result.undecidable[Why.NO_BUNDLE.value] += 1
            continue
        decision = engine.decide(past.request)
        if history is None or not past.verdict.of_workflows:
            _hold(result, past, past.verdict.granted, [Verdict.of(decision)])
        else:
            _hold(result, past, past.verdict, history.ruled(past, engine.bundle, decision))
    result.missing = {digest: why for digest, why in kept.missing.items() if digest in result.bundles}
    return result


def _hold(result: Reproduced, past: Past, recorded: Verdict, answers: Iterable[Verdict | Decision | Why]) -> None:
    """Count a decision by what it comes to again: identical where one of the answers is; the first is told where none is."""
    from gateway.reproduce import Why  # noqa: PLC0415
    from policies.replay import Verdict, differences  # noqa: PLC0415

    first: Verdict | None = None
    for answer in answers:
        if isinstance(answer, Why):
            result.undecidable[answer.value] += 1
            return
        again = answer if isinstance(answer, Verdict) else Verdict.of(answer)
        if not differences(recorded, again):
            result.identical += 1
            return
        first = first or again
    if first is not None:
        differs = differences(recorded, first)
        result.note(Finding(past.record.id, past.record.index, differs, _said(recorded), _said(first)))


def _said(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict)


def _tell(found: Reproduced) -> None:
    out = console()
    out.print(f"{found.decisions} recorded decisions", style="bold")
    out.print(f"{found.identical:>9}  came out identical", style="green" if found.identical else "")
    for why, count in sorted(found.undecidable.items()):
        out.print(f"{count:>9}  cannot be made again: {why}", style="yellow")
    for digest, why in sorted(found.missing.items()):
        out.print(printable(f"           bundle {digest[:80]} ({found.bundles[digest]} decisions): {why}"))
    if found.missing:
        out.print("           give its folder with --bundle, or the archive's with --bundles")
    for log, part in found.logs.items():
        style = "dim" if part.ok else "red"
        said = f"{part.decisions} decisions, {part.identical} identical, {part.differing} otherwise"
        out.print(printable(f"           log {log}: {said}"), style=style)
    if found.differing:
        out.print(f"{found.differing:>9}  came out otherwise", style="bold red")
    for finding in found.findings:
        out.print(printable(f"\nrecord {finding.index}  {finding.record}  {finding.log}".rstrip()), style="red")
        for name in finding.differs:
            out.print(printable(f"   {name}"))
            if name in finding.recorded:
                out.print(printable(f"      recorded  {finding.recorded[name]}\n      again     {finding.again[name]}"))
    if found.differing > len(found.findings):
        out.print(f"\nand {found.differing - len(found.findings)} more")
