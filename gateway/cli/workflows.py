"""`bailiwick workflows`: which workflows rules hold, what happened in one, and their histories told again from the ledger."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.state.store import State
    from gateway.workflows.rebuild import Difference
    from policies.workflows.story import Step

Config = Annotated[Path, typer.Option("--config", help="The settings of the gateway.")]
CONFIG: Final = Path("bailiwick.yaml")
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_SHOWN: Final = 20


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(
        name="workflows",
        help="What happened in workflows that rules hold.  Reads the state store of the settings.\n\n"
        "[bold]Example[/bold]   bailiwick workflows list",
        no_args_is_help=True,
    )
    group.command("list")(list_all)
    group.command("show")(show)
    group.command("rebuild")(rebuild)
    app.add_typer(group)


def list_all(config: Config = CONFIG, as_json: Json = False) -> None:
    """Show the workflows that have a history, those that end last first: id, person, number of steps.

    [bold]Example[/bold]   bailiwick workflows list
    """
    found = asyncio.run(_with_state(_settings(config), lambda state: state.histories.workflows()))
    if as_json:
        print_json({"workflows": [dict(zip(("tenant", "workflow", "subject", "steps"), row, strict=True)) for row in found]})
        return
    for tenant, workflow, subject, size in found:
        console().print(printable(f"{workflow}  {subject} in {tenant}, {size} step{'' if size == 1 else 's'}"))
    if not found:
        console(stderr=True).print("no workflow has a history")


def show(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="Its id, as `workflows list` shows it.")],
    config: Config = CONFIG,
    as_json: Json = False,
) -> None:
    """Show the steps of one workflow, by arrival.  Exits with 1 where it has no history.

    [bold]Example[/bold]   bailiwick workflows show wf-0123456789abcdef0123456789
    """
    settings = _settings(config)
    found = asyncio.run(_with_state(settings, lambda state: state.histories.steps(settings.tenant, workflow)))
    if as_json:
        print_json({"workflow": workflow, "steps": [_plain(step) for step in found]})
    else:
        for step in found:
            console().print(printable(_line(step)))
        if not found:
            console(stderr=True).print("this workflow has no history")
    raise typer.Exit(0 if found else 1)


def rebuild(
    config: Config = CONFIG,
    check: Annotated[bool, typer.Option("--check", help="Only compare; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Tell every history again from the ledger, and put it in place of what is stored where the two differ.

    With --check nothing is changed, and it exits with 1 where they differ.  What is under way is left alone.

    [bold]Example[/bold]   bailiwick workflows rebuild --check
    """
    settings = _settings(config)
    found, steps, lost = _compared(settings, config, change=not check)
    if as_json:
        print_json({"steps": steps, "lost": lost, "differences": [_difference(each) for each in found], "changed": not check})
    else:
        for each in found[:_SHOWN]:
            stored, told = (step.state.value if step is not None else "nothing" for step in (each.stored, each.told))
            name = (each.stored or each.told).id  # type: ignore[union-attr]  # one of them is there
            console().print(printable(f"{each.key[1]}  {name}: stored {stored}, on record {told}"))
        if len(found) > _SHOWN:
            console().print(f"… and {len(found) - _SHOWN} more")
        word = "differ" if check else "differed, and are as the ledger says now"
        console().print(f"{steps} steps on record, {len(found)} {word}" + (f"; {lost} were erased" if lost else ""))
    raise typer.Exit(1 if check and found else 0)


def _settings(config: Path) -> Settings:
    from gateway.configuration import load  # noqa: PLC0415  the command line pays for what it uses

    return load(config, os.environ)


async def _with_state(settings: Settings, work: Any) -> Any:
    from gateway.state.store import State  # noqa: PLC0415  the command line pays for what it uses
    from gateway.stores import state_url_of  # noqa: PLC0415

    state = await asyncio.to_thread(State.open, state_url_of(settings))
    try:
        return await work(state)
    finally:
        await state.close()


def _compared(settings: Settings, config: Path, *, change: bool) -> tuple[list[Difference], int, int]:
    """Where store and ledger differ, and how many steps are on record; what differs is replaced, unless that is not wanted."""
    from gateway.cli import recorded  # noqa: PLC0415  the command line pays for what it uses
    from gateway.model import wall_clock  # noqa: PLC0415
    from gateway.workflows.rebuild import Telling, differences, merged  # noqa: PLC0415
    from policies.bundle import BundleError, load  # noqa: PLC0415

    until = wall_clock() - _SETTLING
    _, ledger = recorded.opened(config, None, "histories of workflows", "workflows rebuild")
    with ledger:
        telling = Telling.of(ledger)
    try:
        definitions = load(settings.policies).workflows
    except BundleError as error:
        misuse("the policy does not load, and budgets are counted by it", help=str(error).splitlines()[0])

    async def work(state: State) -> list[Difference]:
        found: list[Difference] = []
        known = {(tenant, workflow) for tenant, workflow, _, _ in await state.histories.workflows(_ALL)}
        for key in sorted(known | telling.steps.keys()):
            stored, told = await state.histories.steps(*key), telling.steps.get(key, {})
            mine = [each for each in differences(key, stored, told) if not each.waits(until)]
            found += mine
            if mine and change:
                steps = merged(stored, told, until)
                ends = max((step.at // 1_000_000 for step in steps), default=0)
                await state.histories.replace(*key, steps, definitions, ends)
        if change:
            await state.histories.recount()
        return found

    found = asyncio.run(_with_state(settings, work))
    return found, sum(len(steps) for steps in telling.steps.values()), telling.lost


_ALL: Final = 1_000_000
_SETTLING: Final = 10_000_000
"""Microseconds for which a call that has just ended may stand otherwise in the two stores."""


def _line(step: Step) -> str:
    from gateway.cli.audit_views import when  # noqa: PLC0415  the command line pays for what it uses

    said = "".join(f", {name} {value}" for name, value in step.results.items())
    held = ", ".join(sorted(step.held))
    return f"{when(step.at)}  {step.state.value:<9}  {step.resource}  by {step.actor}  ({held}){said}  {step.id}"


def _plain(step: Step) -> dict[str, object]:
    return {
        "id": step.id,
        "at": step.at,
        "state": step.state.value,
        "resource": step.resource,
        "actor": step.actor,
        "subject": step.subject,
        "held": sorted(step.held),
        "sums": {name: str(number) for name, number in step.sums.items()},
        "results": {name: value if isinstance(value, str | bool) else str(value) for name, value in step.results.items()},
    }


def _difference(found: Difference) -> dict[str, object]:
    return {
        "workflow": found.key[1],
        "tenant": found.key[0],
        "stored": None if found.stored is None else _plain(found.stored),
        "told": None if found.told is None else _plain(found.told),
    }
