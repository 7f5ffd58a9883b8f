"""`bailiwick workflows`: which workflows rules hold, what happened in one, and their histories told again from the ledger."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.state.standing import Seen
    from gateway.state.store import State
    from gateway.workflows.rebuild import Difference
    from policies.bundle import Bundle
    from policies.workflows.model import Workflows
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
    """Show the workflows that have a history, those that end last first: id, person, number of steps, what is not over.

    [bold]Example[/bold]   bailiwick workflows list
    """
    from gateway.model import wall_clock  # noqa: PLC0415  the command line pays for what it uses
    from gateway.workflows.views import listed  # noqa: PLC0415

    found = asyncio.run(_with_state(_settings(config), lambda state: state.standings.listed(wall_clock())))
    if as_json:
        print_json({"workflows": [listed(each) for each in found]})
        return
    for each in found:
        going = [(each.running, "running"), (each.open, "open"), (each.waiting, "waiting for approval")]
        said = "".join(f", {count} {what}" for count, what in going if count)
        steps = f"{each.steps} step{'' if each.steps == 1 else 's'}"
        console().print(printable(f"{each.workflow}  {each.subject} in {each.tenant}, {steps}{said}"))
    if not found:
        console(stderr=True).print("no workflow has a history")


def show(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="Its id, as `workflows list` shows it.")],
    config: Config = CONFIG,
    as_json: Json = False,
) -> None:
    """Show where one workflow stands: its steps by arrival, what may come next, and what it waits for.

    What may come next is said by the policy of the settings.  A step that is `ready` may be made with some arguments, by some
    agent, as far as rules of workflows say; whether grants allow it is another matter.  Exits with 1 where it has no history.

    [bold]Example[/bold]   bailiwick workflows show wf-0123456789abcdef0123456789
    """
    from gateway.model import wall_clock  # noqa: PLC0415  the command line pays for what it uses
    from gateway.workflows.views import shown  # noqa: PLC0415

    settings = _settings(config)
    known = _definitions(settings, "what may come next is said by it")
    found = asyncio.run(_with_state(settings, lambda state: state.standings.of(settings.tenant, workflow, wall_clock(), known)))
    if as_json:
        print_json({"workflow": workflow, "steps": [], "next": []} if found is None else shown(found))
    elif found is None:
        console(stderr=True).print("this workflow has no history")
    else:
        for line in _standing(found, shown(found)):
            console().print(printable(line))
    raise typer.Exit(0 if found is not None else 1)


def _standing(found: Seen, said: dict[str, Any]) -> Iterator[str]:
    under = ", ".join(each["name"] for each in said["definitions"]) or "no definition that is known"
    yield f"{found.workflow}  for {found.subject}, under {under}"
    yield from (_line(step) for step in found.steps)
    if said["next"]:
        yield "may come next:"
    rest = said["anything_else"]
    for each in (*said["next"], *([{"step": "anything else", **rest}] if rest is not None else [])):
        yield f"  {each['state']:<7}  {each['step']}{_left(each['left'])}"
        yield from (f"           {why['reason']} ({why['rule']}): {why['cure']}" for why in each["blocked_by"])
        yield from (f"           watched: {why['reason']} ({why['rule']})" for why in each["watched"])
        yield from (f"           {when}" for when in each["when"] if each["state"] == "ready")
    waits = said["waits_for"]
    going = [f"{each['resource']}, which is {word}  {each['id']}" for word in ("running", "open") for each in waits[word]]
    going += [f"the task {each['task']} at {each['agent']}" for each in waits["tasks"]]
    going += [f"somebody's yes to {each['resource']}, until {each['expires']}  {each['id']}" for each in waits["approvals"]]
    if going:
        yield "waits for:"
    yield from (f"  {each}" for each in going)


def _left(budgets: list[dict[str, Any]]) -> str:
    said = []
    for each in budgets:
        parts = [f"{each['count']} calls"] if "count" in each else []
        parts += [f"{each['total']} of {each['sum']}"] if "total" in each else []
        whose = f" of {each['agent']}" if "agent" in each else ""
        said.append(f"{' and '.join(parts)} for each {' and '.join(each['per'])}{whose}")
    return f"  (left: {'; '.join(said)})" if said else ""


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


def _definitions(settings: Settings, why: str) -> Workflows:
    return _bundle(settings, why).workflows


def _bundle(settings: Settings, why: str) -> Bundle:
    from policies.bundle import BundleError, load  # noqa: PLC0415  the command line pays for what it uses

    try:
        return load(settings.policies)
    except BundleError as error:
        misuse(f"the policy does not load, and {why}", help=str(error).splitlines()[0])


async def _with_state(settings: Settings, work: Any) -> Any:
    from gateway.state.store import State  # noqa: PLC0415  the command line pays for what it uses
    from gateway.stores import state_url_of  # noqa: PLC0415

    state = await asyncio.to_thread(State.open, state_url_of(settings), settings.workflows.keep_days)
    try:
        return await work(state)
    finally:
        await state.close()


def _compared(settings: Settings, config: Path, *, change: bool) -> tuple[list[Difference], int, int]:
    """Where store and ledger differ, and how many steps are on record; what differs is replaced, unless that is not wanted."""
    from gateway.cli import recorded  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli.which_log import every  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415
    from gateway.obligations.budget import drawn_on  # noqa: PLC0415
    from gateway.stores import ROOT  # noqa: PLC0415
    from gateway.workflows.rebuild import Telling, differences, merged  # noqa: PLC0415

    until = wall_clock() - _SETTLING
    telling = Telling()
    for name, view in every(config, ""):
        if name != ROOT:
            with recorded.opened(view, None, "histories of workflows", "workflows rebuild") as ledger:
                telling.read(ledger)
    bundle = _bundle(settings, "budgets are counted by it")
    definitions = {**bundle.workflows, **{each.name: each for each in drawn_on(bundle.obligations.values())}}

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


def _difference(found: Difference) -> dict[str, object]:
    from gateway.workflows.views import plain  # noqa: PLC0415  the command line pays for what it uses

    return {
        "workflow": found.key[1],
        "tenant": found.key[0],
        "stored": None if found.stored is None else plain(found.stored),
        "told": None if found.told is None else plain(found.told),
    }
