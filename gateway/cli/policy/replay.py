"""`bailiwick policy replay`: what a candidate bundle would have decided of the calls that were really made."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.output import console, print_json, printable
from gateway.cli.which_log import EveryLog, LogName, deciding
from policies.replay import Direction, Tally, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.reproduce import Past, Undecidable
    from gateway.workflows.again import Retelling
    from policies.engine import Engine

KINDS: Final = ("rule", "subject", "tool")
_SHOWN: Final = 10
TITLES: Final = {
    Direction.GRANTED: "would now be ALLOWED, and were denied",
    Direction.TAKEN: "would now be DENIED, and were allowed",
    Direction.DUTIES: "would be allowed under other duties",
}


def register(group: typer.Typer) -> None:
    """Add the verb."""
    group.command("replay")(replay)


def replay(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="The candidate: a folder, git:REVISION[:FOLDER], a kept digest.")
    ],
    *,
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help="30d, 12h, 2w or a date; '' for everything.")] = "30d",
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many decisions, oldest first; 0: all.")] = 0,
    config: Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")] = Path(
        "bailiwick.yaml"
    ),
    log_name: LogName = "",
    all_logs: EveryLog = False,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Another ledger file (SQLite), such as a copy.")] = None,
    names: Annotated[bool, typer.Option("--names", help="Show people by name, not by pseudonym.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="A comment for a pull request.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Ask the recorded questions of a candidate bundle.  Exits with 1 where it would allow what was denied, or where
    nothing that was recorded (in one of the logs) could be asked again; else with 0.

    Nothing is changed and nothing is called: each recorded question is decided by the candidate, and held against the answer
    that was given.  What cannot be decided again (its person was erased, say) is counted by reason.

    [bold]Example[/bold]   bailiwick policy replay candidate/policies --since 30d
    """
    from audit.model import TamperedError  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli import recorded  # noqa: PLC0415
    from gateway.cli.policy.sources import read_source  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415
    from policies.engine import Engine  # noqa: PLC0415

    start = recorded.since(since, wall_clock())
    engine = Engine(read_source(bundle, config))
    views = deciding(config, log_name, ledger, all_logs=all_logs)
    found = Replayed(engine.bundle.digest)
    with ExitStack() as stack:
        wanted = "recorded decisions, to decide them again"
        logs = [stack.enter_context(recorded.opened(settings, ledger, wanted, "policy replay")) for _, settings in views]
        for (name, settings), log in zip(views, logs, strict=True):
            size, history, before = log.size, recorded.retelling(settings), (found.decisions, found.tally.asked)
            try:
                compare(recorded.watched(history.decisions(log, start, size), size, "replaying"), engine, limit, history, found)
            except TamperedError as error:
                which = f" ({name})" if len(views) > 1 else ""
                console(stderr=True).print(printable(f"bailiwick: the ledger{which} was changed: {error}"))
                raise typer.Exit(2) from None
            found.logs[name] = (found.decisions - before[0], found.tally.asked - before[1])
        naming = partial(recorded.name_of, logs) if names else str
        if as_json:
            print_json(found.to_dict(naming))
        elif markdown:
            console().print(printable(as_markdown(found, naming)))
        else:
            _tell(found, naming)
    raise typer.Exit(1 if found.tally.changed[Direction.GRANTED] or found.silent else 0)


@dataclass(slots=True)
class Replayed:
    """What came of it.  bundles: decisions by the digest that made them; logs: by name, how many there, and how many replayed."""

    candidate: str
    decisions: int = 0
    tally: Tally = field(default_factory=Tally)
    undecidable: Counter[str] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    logs: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def silent(self) -> tuple[str, ...]:
        """Logs of whose decisions none could be asked again: no answer at all must not read as a good one."""
        return tuple(name for name, (decisions, asked) in self.logs.items() if decisions and not asked)

    @property
    def same(self) -> int:
        """Decisions that would come out the same, duties included."""
        return self.tally.asked - sum(self.tally.changed.values())

    def to_dict(self, naming: Callable[[str], str] = str) -> dict[str, object]:
        """For `--json`; what was denied and would be allowed stands first."""
        return {
            "candidate": self.candidate,
            "decisions": self.decisions,
            "replayed": self.tally.asked,
            "same": self.same,
            "changed": {direction.value: self._changed(direction, naming) for direction in Direction},
            "denied_for_another_reason": self.tally.reasons,
            "undecidable": dict(self.undecidable),
            "bundles": dict(self.bundles),
            **({"logs": self._logs()} if len(self.logs) > 1 else {}),
        }

    def _logs(self) -> dict[str, object]:
        return {name: {"decisions": decisions, "replayed": asked} for name, (decisions, asked) in self.logs.items()}

    def _changed(self, direction: Direction, naming: Callable[[str], str]) -> dict[str, object]:
        groups: dict[str, object] = {
            f"{kind}s": [
                {kind: naming(name) if kind == "subject" else name, "count": group.count, "decisions": group.examples}
                for name, group in self.tally.top(direction, kind)
            ]
            for kind in KINDS
        }
        return {"count": self.tally.changed[direction], **groups}


def compare(
    found: Iterable[Past | Undecidable],
    engine: Engine,
    limit: int = 0,
    history: Retelling | None = None,
    into: Replayed | None = None,
) -> Replayed:
    """Decide each by the candidate and tally what changed, beside what `into` has already.

    With `history` (that told of `found`) the candidate's workflows are asked too, of what had happened; without, grants alone.
    """
    from gateway.reproduce import Undecidable, Why  # noqa: PLC0415

    result = into if into is not None else Replayed(engine.bundle.digest)
    for past in found:
        if limit and result.decisions >= limit:
            break
        result.decisions += 1
        if isinstance(past, Undecidable):
            result.undecidable[past.why.value] += 1
            continue
        result.bundles[past.verdict.bundle] += 1
        decision, before = engine.decide(past.request), past.verdict.granted
        same = past.verdict.bundle == engine.bundle.digest and not past.verdict.of_workflows  # it was not asked of any then
        if history is not None and not same:
            answer = next(history.ruled(past, engine.bundle, decision))
            if isinstance(answer, Why):
                result.undecidable[answer.value] += 1
                continue
            decision, before = answer, past.verdict
        after = Verdict.of(decision)
        result.tally.add(before, after, record=past.record.id, subject=past.subject, tool=past.request.resource)
    return result


def _tell(found: Replayed, naming: Callable[[str], str]) -> None:
    out = console()
    for direction, title in TITLES.items():
        count = found.tally.changed[direction]
        style = "bold red" if direction is Direction.GRANTED else "bold yellow"
        out.print(f"{count:>9}  {title}", style=style if count else "dim")
        for kind in KINDS if count else ():
            rows = found.tally.top(direction, kind)
            for name, group in rows[:_SHOWN]:
                shown = naming(name) if kind == "subject" else name
                out.print(printable(f"           {group.count:>7} by {kind:<8}{shown}   e.g. {group.examples[0]}"))
            if len(rows) > _SHOWN:
                out.print(f"                   and {len(rows) - _SHOWN} more {kind}s: --json has them", style="dim")
    out.print(f"{found.same:>9}  would come out the same")
    if found.tally.reasons:
        out.print(f"           {found.tally.reasons} of them denied for another reason")
    for why, count in sorted(found.undecidable.items()):
        out.print(f"{count:>9}  cannot be decided again: {why}", style="yellow")
    for name, (decisions, asked) in found.logs.items() if len(found.logs) > 1 else ():
        style = "yellow" if name in found.silent else "dim"
        out.print(printable(f"           log {name}: {decisions} decisions, {asked} of them replayed"), style=style)
    out.print(printable(f"\n{found.decisions} recorded decisions; candidate {found.candidate}"), style="dim")


def as_markdown(found: Replayed, naming: Callable[[str], str] = str) -> str:
    """A comment for a pull request: the dangerous direction on top, the rest folded."""
    granted = found.tally.changed[Direction.GRANTED]
    lines = [
        "### Policy replay",
        "",
        f"{found.tally.asked} recorded decisions under `{found.candidate}`: "
        + (f"**{granted} denials would become calls**" if granted else "no denial would become a call")
        + f", {found.same} would stay as they were.",
    ]
    for direction, title in TITLES.items():
        count = found.tally.changed[direction]
        if not count:
            continue
        fold = direction is not Direction.GRANTED
        head = f"{count} {title}"
        lines += ["", *([f"<details><summary>{head}</summary>"] if fold else [f"#### {head}"]), ""]
        lines += ["| by | | decisions | for example |", "|---|---|---:|---|"]
        for kind in KINDS:
            for name, group in found.tally.top(direction, kind, _SHOWN):
                shown = naming(name) if kind == "subject" else name
                lines.append(f"| {kind} | {_cell(shown)} | {group.count} | {_cell(group.examples[0])} |")
        lines += ["", "</details>"] if fold else []
    if found.undecidable:
        counts = ", ".join(f"{count} {why}" for why, count in sorted(found.undecidable.items()))
        lines += ["", f"Could not be decided again: {counts}."]
    if len(found.logs) > 1:
        told = ", ".join(f"{name} {asked} of {decisions}" for name, (decisions, asked) in found.logs.items())
        lines += ["", f"Replayed, by log: {told}."]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Inside a table, as code: nothing of a name is markup."""
    return "`" + text.replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"
