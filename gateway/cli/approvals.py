"""`bailiwick approvals`: calls that wait for a person's yes, asked of the running gateway; what is shown is what is approved."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli.asking import CONFIG, Config, Json, Url, ask
from gateway.cli.output import console, print_json, printable

PATH = "/api/approvals"

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the approval, as the caller was told it, or `list` shows it.")]
Everything = Annotated[bool, typer.Option("--all", help="Also those that were used, denied, or not given in time.")]
Digest = Annotated[
    str, typer.Option("--digest", help="Of the call that you looked at; without it the call is shown, and you are asked.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why not; sealed in the ledger.")]


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(
        name="approvals",
        help="Calls that wait for a person's yes.  Your access token stands in BAILIWICK_TOKEN.  Policy says what you may "
        "approve, by the duty's `by` or a line on `approval:` objects, and nobody approves what is done on their own behalf.\n\n"
        "[bold]Example[/bold]   bailiwick approvals list",
        no_args_is_help=True,
    )
    group.command("list")(list_approvals)
    group.command("show")(show)
    group.command("approve")(approve)
    group.command("deny")(deny)
    app.add_typer(group)


def list_approvals(everything: Everything = False, config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Show the calls that you may approve, and those that wait on your behalf, the newest first.

    [bold]Example[/bold]   bailiwick approvals list
    """
    found = ask("GET", f"{PATH}?all={'true' if everything else 'false'}", config, url)
    if as_json:
        print_json(found)
        return
    for each in found["approvals"]:
        yours = "you may approve it" if each["may_approve"] else "on your behalf"
        console().print(printable(f"{each['id']}  {each['state']}: {each['resource']} for {each['subject']} ({yours})"))
        console().print(printable(f"    asked {each['asked']}, until {each['expires']}; {_needs(each)}"))
    if not found["approvals"]:
        console(stderr=True).print("there are none")


def show(name: Id, config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Show one with everything that is approved: the exact call, for whom, through which agents, by which policy.

    [bold]Example[/bold]   bailiwick approvals show 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b
    """
    found = _one(name, config, url)
    if as_json:
        print_json(found)
        return
    _print(found)


def approve(name: Id, digest: Digest = "", config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Say yes to a call.  It goes on once, as it was shown, when it is asked again.

    [bold]Example[/bold]   bailiwick approvals approve 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b
    """
    if not digest:
        found = _one(name, config, url)
        console(stderr=True).print(printable(json.dumps(found["call"], indent=2, ensure_ascii=True, sort_keys=True)))
        typer.confirm("approve this call?", abort=True, err=True)
        digest = str(found["digest"])
    after = ask("POST", f"{PATH}/{quote(name, safe='')}/approve", config, url, {"digest": digest})
    if as_json:
        print_json(after)
        return
    console().print(printable(f"approved: {after['resource']} for {after['subject']}; it is {after['state']} now"))
    if after["missing"]:
        console().print(printable(f"  {_needs(after)}"))


def deny(name: Id, reason: Reason = "", config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Say no to a call: the same call is refused until the approval's time is over.

    [bold]Example[/bold]   bailiwick approvals deny 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b --reason "over budget"
    """
    after = ask("POST", f"{PATH}/{quote(name, safe='')}/deny", config, url, {"reason": reason})
    if as_json:
        print_json(after)
        return
    console().print(printable(f"denied: {after['resource']} for {after['subject']}"))


def _one(name: str, config: Any, url: str) -> dict[str, Any]:
    return ask("GET", f"{PATH}/{quote(name, safe='')}", config, url)


def _needs(each: dict[str, Any]) -> str:
    by = f"approved by {', '.join(each['approved_by'])}" if each["approved_by"] else "nobody has approved it"
    return by + (f"; waits for {', '.join(each['missing'])}" if each["missing"] else "")


def _print(found: dict[str, Any]) -> None:
    say = console().print
    say(printable(f"{found['id']}  {found['state']}"))
    say(printable(f"  {found['resource']} on behalf of {found['subject']}" + "".join(f" > {a}" for a in found["actors"])))
    say(printable(f"  workflow {found['workflow']}, asked {found['asked']}, until {found['expires']}"))
    say(printable(f"  {_needs(found)}; because of {', '.join(found['because'])}"))
    say(printable(f"  digest {found['digest']}"))
    say(printable(json.dumps(found["call"], indent=2, ensure_ascii=True, sort_keys=True)))
