"""`bailiwick explain`: the answer that a call would get, or got: every principal's question, every rule, every near miss.

Of a denial also the smallest changes that would allow it: for people who may read policy, never for the wire.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import console, misuse, print_json, print_problems, printable

if TYPE_CHECKING:
    from policies.bundle import Bundle
    from policies.model import AccessRequest, Answer, Decision, Match
    from policies.nearest import Edit, Remedy

_SUBJECT = re.compile(r"user:[a-z0-9-]{1,63}/[^\s\x00-\x1f]{1,255}|svc:[a-z0-9-]{1,63}")
_AGENT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("explain")(explain)


def explain(
    *,
    subject: Annotated[
        str, typer.Option("--for", metavar="SUBJECT", help="On whose behalf: user:<issuer>/<sub> or svc:<agent>.")
    ] = "",
    call: Annotated[str, typer.Option("--call", metavar="TOOL", help="What: <server>.<tool>, or a2a:<agent>.")] = "",
    via: Annotated[str, typer.Option("--via", metavar="AGENTS", help="Through whom, origin first: a,b,c.  None: by hand.")] = "",
    groups: Annotated[
        str, typer.Option("--groups", metavar="GROUPS", help="The person's groups at the identity provider: a,b.")
    ] = "",
    arguments: Annotated[str, typer.Option("--args", metavar="JSON", help="The call's arguments, one JSON object.")] = "{}",
    action: Annotated[str, typer.Option("--action", help="As call, send or read; default: the first that it has.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Default: that of the settings, or the bundle's only one.")] = "",
    policies: Annotated[Path | None, typer.Option("--policies", metavar="DIR", help="A policy bundle.")] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The settings that name the bundle.")] = None,
    decision_id: Annotated[
        str, typer.Option("--decision", metavar="ID", help="A decision of the ledger instead: the id that a caller got.")
    ] = "",
    log_name: Annotated[str, typer.Option("--log", metavar="NAME", help="With --decision: the tenant whose log has it.")] = "",
    ledger: Annotated[Path | None, typer.Option("--ledger", help="With --decision: another ledger file, such as a copy.")] = None,
    remedies: Annotated[
        bool, typer.Option("--nearest/--no-nearest", help="Of a denial: the smallest changes that would allow it.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="An AuthZEN evaluation on stdout.")] = False,
) -> None:
    """Say whether a call would be allowed, and why.  Exits with 0 if it would, 1 if not, 2 if the question makes no sense.

    With --decision: why a recorded call was decided as it was, under the bundle that decided it then.

    [bold]Example[/bold]   bailiwick explain --for user:corp/paul --groups procurement-managers --via analyst,erp --call erp.read
    """
    if policies is not None and config is not None:
        misuse("give --policies or --config, not both")
    if decision_id:
        if subject or call or policies is not None:
            misuse("--decision says what was asked, and of which bundle: give it without --for, --call and --policies")
        from gateway.cli.explain_recorded import explain_recorded  # noqa: PLC0415  the command line pays for what it uses

        explain_recorded(decision_id, config or Path("bailiwick.yaml"), log_name, ledger, remedies=remedies, as_json=as_json)
    if not subject or not call:
        misuse("who asks for what?", help="give --for and --call, or --decision with the id of a recorded decision")
    bundle, default_tenant = _bundle(policies, config, as_json=as_json)
    request = _request(
        subject=subject,
        call=call,
        via=via,
        groups=groups,
        arguments=arguments,
        action=action,
        tenant=tenant or default_tenant or _only_tenant(bundle),
    )
    if request.tenant not in bundle.tenants:
        misuse(f"there is no tenant '{printable(request.tenant)}'", help=f"known are {', '.join(sorted(bundle.tenants))}")
    from policies.engine import Engine  # noqa: PLC0415  the command line pays for what it uses

    decision = Engine(bundle).decide(request)
    found = nearest_of(bundle, request) if remedies and not decision.allowed else ()
    held = _held(bundle, request) if decision.allowed else []
    if as_json:
        print_json(evaluation(request, decision, found, held))
    else:
        tell(request, decision, bundle.tools, held)
        tell_nearest(bundle, found)
    raise typer.Exit(0 if decision.allowed else 1)


def _held(bundle: Bundle, request: AccessRequest) -> list[str]:
    """The workflows that hold such a call whoever begins it: they ask what happened before, which nobody says here."""
    from policies.workflows.ruling import held_by  # noqa: PLC0415  the command line pays for what it uses

    held = held_by(bundle.workflows.values(), request.tenant, request.resource, request.actors, "")
    return [each.name for each in held]


def evaluation(
    request: AccessRequest, decision: Decision, found: Iterable[Remedy] = (), held: Iterable[str] = ()
) -> dict[str, object]:
    """The answer in the shape of an AuthZEN 1.0 evaluation response: `decision`, and everything else in `context`."""
    from policies.sentence import explain as sentence  # noqa: PLC0415

    return {
        "decision": decision.allowed,
        "context": {
            "reason": decision.reason.value,
            "sentence": sentence(request, decision),
            "bundle": decision.bundle,
            "request": {
                "subject": request.subject,
                "groups": sorted(request.groups),
                "actors": list(request.actors),
                "tenant": request.tenant,
                "action": request.action,
                "resource": request.resource,
                "arguments": dict(request.arguments) if request.arguments is not None else None,
            },
            "missing": list(decision.missing),
            "answers": [_answer(answer) for answer in decision.answers],
            "obligations": [{"name": duty.name, "type": duty.type, "params": dict(duty.params)} for duty in decision.obligations],
            "nearest": [_remedy(remedy) for remedy in found],
            "workflows": list(held),
        },
    }


def _answer(answer: Answer) -> dict[str, object]:
    return {
        "principal": answer.question.principal,
        "role": answer.question.role.value,
        "action": answer.question.action,
        "allowed": answer.allowed,
        "matched": [_match(match) for match in answer.matched],
        "near": [_match(match) for match in answer.near],
    }


def _match(match: Match) -> dict[str, object]:
    return {"rule": match.rule, "effect": match.effect, "source": str(match.source), "condition": match.condition}


def _remedy(remedy: Remedy) -> dict[str, object]:
    return {
        "principals": list(remedy.principals),
        "enough": remedy.enough,
        "opens_also": remedy.opens,
        "guardrail": remedy.guardrail,
        "arguments": {name: {"then": then, "instead": instead} for name, (then, instead) in remedy.arguments.items()},
        "edits": [
            {"file": edit.file, "add": edit.add} if edit.remove is None else {"file": edit.file, "remove": str(edit.remove)}
            for edit in remedy.edits
        ],
    }


def nearest_of(bundle: Bundle, request: AccessRequest) -> tuple[Remedy, ...]:
    """The smallest changes that would allow a denied call; a sign of life meanwhile, on a terminal."""
    import contextlib  # noqa: PLC0415

    from policies.nearest import nearest  # noqa: PLC0415

    out = console(stderr=True)
    with out.status("Looking for the smallest change …") if out.is_terminal else contextlib.nullcontext():
        return nearest(bundle, request)


def tell_nearest(bundle: Bundle, found: Iterable[Remedy]) -> None:
    """The changes for people, each as it would be written; a lifted guardrail is said loudly."""
    out = console()
    for number, remedy in enumerate(found):
        if number == 0:
            out.print("\nWhat would allow it, the narrowest first (each was tried):", style="bold")
        if remedy.guardrail:
            rules = ", ".join(remedy.rules)
            out.print(
                printable(f"  !! LIFTS A GUARDRAIL ({rules}): somebody forbade exactly this; ask them first"), style="bold red"
            )
        for name, (then, instead) in remedy.arguments.items():
            out.print(printable(f"  call it with {name} = {instead} (it was {then}); policy stays as it is"))
        for edit in remedy.edits:
            line = edit.add or _line(bundle, edit)
            out.print(printable(f"  {edit.file}: {'add' if edit.add else 'take out'}   {line}"))
        names = ", ".join(remedy.principals)
        whole = "allows the call" if remedy.enough else f"gives {names} its yes; others of the chain still lack theirs"
        also = {None: "what else it opens could not be counted", 0: "opens nothing else"}.get(
            remedy.opens, f"opens {remedy.opens} other pair{'' if remedy.opens == 1 else 's'} of a name and a tool, too"
        )
        out.print(printable(f"      {whole}; {also}"), style="dim")


def _line(bundle: Bundle, edit: Edit) -> str:
    """The line that an edit takes out."""
    lines = bundle.texts.get(edit.file, "").split("\n")
    number = edit.remove.line if edit.remove is not None else 0
    return f"line {number}: {lines[number - 1].strip()}" if 0 < number <= len(lines) else f"line {number}"


def _hint(request: AccessRequest, decision: Decision, tools: Iterable[str]) -> str:
    """What the person who asks may have forgotten; "" where nothing suggests it."""
    from policies.finding import suggest  # noqa: PLC0415

    if decision.reason.value == "unknown-resource" and (likely := suggest(request.resource, tools)):
        return likely
    spoke = [match for answer in decision.answers for match in (*answer.matched, *answer.near)]
    if not decision.allowed and not request.arguments and any(match.condition for match in spoke):
        return "No --args were given, so conditions on arguments could not be decided: an allow line waits, a deny line holds."
    return ""


def tell(request: AccessRequest, decision: Decision, tools: Iterable[str], held: Iterable[str] = ()) -> None:
    """The answer for people: the sentence, then every principal with the lines that spoke or nearly did."""
    from policies.sentence import explain as sentence  # noqa: PLC0415

    out = console()
    out.print(
        "ALLOWED" if decision.allowed else f"DENIED  {decision.reason.value}",
        style="bold green" if decision.allowed else "bold red",
    )
    out.print(printable(sentence(request, decision).partition("\n")[0]))  # the rest of it stands below, in columns
    for answer in decision.answers:
        asked = answer.question
        out.print(f"\n{'yes' if answer.allowed else 'no '}", style="green" if answer.allowed else "red", end="")
        out.print(printable(f"  {asked.principal} ({asked.role.value}): may it {asked.action} {request.resource}?"))
        for match in answer.matched:
            out.print(printable(f"       {match.effect:<8}{match.rule:<10}{match.source}{_because(match)}"))
        for match in answer.near:
            out.print(printable(f"       {'nearly':<8}{match.rule:<10}{match.source}{_because(match)}"))
        if not answer.matched and not answer.near:
            out.print("       no rule speaks of it")
    if hint := _hint(request, decision, tools):
        out.print("\n" + printable(hint))
    if decision.obligations:
        out.print("\nDuties: " + printable(", ".join(f"{duty.name} ({duty.type})" for duty in decision.obligations)))
    if names := ", ".join(held):
        out.print(printable(f"\nHeld to what happens before it, by the workflow {names}"))
    out.print(f"\nPolicy bundle {decision.bundle}", style="dim")


def _because(match: Match) -> str:
    return f"   [{match.condition}]" if match.condition else ""


def _bundle(policies: Path | None, config: Path | None, *, as_json: bool) -> tuple[Bundle, str]:
    """The bundle and the settings' tenant.  A broken one is misuse here: there is no answer that 0 or 1 could stand for."""
    import os  # noqa: PLC0415

    from gateway.bundles import read_bundle  # noqa: PLC0415
    from gateway.configuration import load as load_settings  # noqa: PLC0415
    from gateway.problem import ProblemError  # noqa: PLC0415

    tenant = ""
    try:
        if policies is None:
            default = Path("bailiwick.yaml")
            if config is None and not default.exists() and Path("policies").is_dir():
                policies = Path("policies")
            else:
                settings = load_settings(config or default, os.environ)
                policies, tenant = settings.policies, settings.tenant
        return read_bundle(policies), tenant
    except ProblemError as error:
        print_problems(error.problems, as_json=as_json)
    raise typer.Exit(2)


def _only_tenant(bundle: Bundle) -> str:
    if len(bundle.tenants) != 1:
        misuse(f"the bundle has several tenants: {', '.join(sorted(bundle.tenants))}", help="give one with --tenant")
    return next(iter(bundle.tenants))


def _request(*, subject: str, call: str, via: str, groups: str, arguments: str, action: str, tenant: str) -> AccessRequest:
    from gateway.model import wall_clock  # noqa: PLC0415
    from policies import names  # noqa: PLC0415
    from policies.model import AccessRequest  # noqa: PLC0415

    if not _SUBJECT.fullmatch(subject):
        misuse(f"'{printable(subject)}' is no subject", help="write user:<issuer alias>/<sub>, as user:corp/paul, or svc:<agent>")
    actors = [agent.strip().removeprefix("agent:") for agent in via.split(",") if agent.strip()]
    for agent in actors:
        if not _AGENT.fullmatch(agent):
            misuse(f"'{printable(agent)}' is no agent's id", help="lower-case letters, digits and hyphens")
    kind = names.kind_of(call) or names.kind_of_cell(call) or names.TOOLS
    implied = next(iter(kind.actions))
    if action and action not in (*names.ACTIONS, "list"):
        misuse(f"'{printable(action)}' is no action", help=f"one of {', '.join((*names.ACTIONS, 'list'))}")
    if (action == "send") != call.startswith("a2a:") and action in ("call", "send"):
        misuse(f"one does not {action} {printable(call)}", help="tools are called, agents (a2a:…) are sent to")
    return AccessRequest(
        subject=subject,
        actors=tuple(f"agent:{agent}" for agent in actors),
        tenant=tenant,
        action=action or implied,
        resource=call,
        at=wall_clock(),
        groups=frozenset(group.strip().removeprefix("idp:") for group in groups.split(",") if group.strip()),
        arguments=_arguments(arguments),
    )


def _arguments(text: str) -> dict[str, object]:
    """Numbers exact, names once, as the gateway reads them."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    def no_number(name: str) -> object:
        raise ValueError(f"{name} is no number in JSON")

    try:
        value = json.loads(text, parse_float=Decimal, parse_constant=no_number, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        misuse(f"--args is not JSON: {printable(str(error))}", help="as --args '{\"amount\": 500}'")
    if not isinstance(value, dict):
        misuse("--args must be one JSON object", help="as --args '{\"amount\": 500}'")
    return value
