"""`bailiwick kill`: let somebody or something act no more, on every replica at once; and take that back.

`--offline` writes into the state store itself, where no gateway answers: whoever may do that may do anything there anyway.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.asking import CONFIG, Config, Json, Url, alone, ask, operator
from gateway.cli.output import AnsweredNoError, console, misuse, print_json, printable
from gateway.problem import Problem

Target = Annotated[str, typer.Argument(metavar="TARGET", help="Whom or what; see the example.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept, sealed, in the ledger.")]
Before = Annotated[str, typer.Option("--before", help="Only what was given until then: `now`, or a time in ISO 8601.")]
Mine = Annotated[bool, typer.Option("--mine", help="It is your own: that needs no right.")]
Offline = Annotated[bool, typer.Option("--offline", help="Write into the state store; only where no gateway answers.")]

_EXAMPLES: Final = {
    "user": ("A person, or an agent as a service of its own, whoever acts for them.", "idp/jane --reason 'left the company'"),
    "agent": ("An agent, anywhere in a chain of agents, and what is sent to it.", "erp-integration --reason 'acts up'"),
    "workflow": ("One workflow, through whomever it goes.", "wf-0123456789abcdef0123456789 --reason 'not what I asked for'"),
    "branch": ("What goes back to one delegation token; the rest of its workflow goes on.", "019a2b3c-… --reason 'leaked'"),
    "token": ("One token by its `jti`; a person's, and the workflow that it began.", "019a2b3c-… --reason 'leaked'"),
    "grant": ("A standing grant, by its id, and what runs by it.", "019a2b3c-… --reason 'not needed any more'"),
    "tenant": ("Everybody of a tenant.", "acme --reason 'contract ended'"),
}


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(
        name="kill",
        help="Let somebody or something act no more, on every replica at once; calls under way end.\n\n"
        "[bold]Example[/bold]   bailiwick kill user idp/jane --reason 'left the company'",
        no_args_is_help=True,
    )
    for kind, (said, example) in _EXAMPLES.items():
        group.command(kind, help=_help(kind, said, example))(_verb(kind))
    group.command("list")(list_kills)
    group.command("lift")(lift)
    app.add_typer(group)


def _help(kind: str, said: str, example: str) -> str:
    right = "Your access token stands in BAILIWICK_TOKEN; policy must grant you `change` on `admin:kills`, but for your own."
    return f"{said}\n\n{right}\n\n[bold]Example[/bold]   bailiwick kill {kind} {example}"


def _verb(kind: str) -> Callable[..., None]:
    def verb(  # noqa: PLR0917  options of one command
        target: Target,
        reason: Reason,
        before: Before = "",
        mine: Mine = False,
        offline: Offline = False,
        config: Config = CONFIG,
        url: Url = "",
        as_json: Json = False,
    ) -> None:
        body: dict[str, Any] = {"kind": kind, "target": _written(kind, target), "reason": reason}
        if before:
            body["before"] = _time(before)
        if offline:
            if mine or url:
                misuse("--offline goes with neither --mine nor --url", help="nobody is asked whose it is")
            done = _offline(config, body)
        else:
            done = ask("POST", "/api/kills", config, url, body | ({"mine": True} if mine else {}))
        if as_json:
            print_json(done)
            return
        until = f", what was given until {_iso(done['before'])}" if done["before"] is not None else ""
        console().print(printable(f"killed: {done['kind']} {done['target']}{until}"))
        whose = " (takes `change` on admin:kills)" if done["source"] == "self" else ""
        console().print(printable(f"  to take it back{whose}: bailiwick kill lift {done['id']}"))

    return verb


def list_kills(  # noqa: PLR0917  as above
    lifted: Annotated[bool, typer.Option("--lifted", help="Those too that were lifted.")] = False,
    mine: Annotated[bool, typer.Option("--mine", help="Those alone that you asked for yourself; needs no right.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Read the state store itself.")] = False,
    config: Config = CONFIG,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Show what is killed, the newest first.  Policy must grant you `read` on `admin:kills`, but for `--mine`.

    [bold]Example[/bold]   bailiwick kill list --lifted
    """
    if offline:
        found = _listed_offline(config, lifted=lifted)
    else:
        query = "&".join(f"{name}=true" for name, on in (("lifted", lifted), ("mine", mine)) if on)
        found = ask("GET", f"/api/kills?{query}", config, url)
    if as_json:
        print_json(found)
        return
    for each in found["kills"]:
        until = f" until {_iso(each['before'])}" if each["before"] is not None else ""
        ended = f", lifted {each['lifted']}" if each["lifted"] else ""
        console().print(printable(f"{each['id']}  {each['kind']} {each['target']}{until}"))
        console().print(printable(f"    {each['at']} by {each['by']} ({each['source']}): {each['reason']}{ended}"))
    if not found["kills"]:
        console(stderr=True).print("nothing is killed")


def lift(
    kill_id: Annotated[str, typer.Argument(metavar="ID", help="Of the kill, as `bailiwick kill list` shows it.")],
    offline: Annotated[
        bool, typer.Option("--offline", help="Write the wish into the state store; the next start obeys.")
    ] = False,
    config: Config = CONFIG,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Take a kill back.  It is on record before it is so.  Policy must grant you `change` on `admin:kills`, even for your own.

    `--offline` is the way back where everybody who has that right was killed: stop the gateways, lift, start them.

    [bold]Example[/bold]   bailiwick kill lift 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b
    """
    from urllib.parse import quote  # noqa: PLC0415  the command line pays for what it uses

    if offline and url:
        misuse("--offline goes without --url", help="nobody is asked")
    done = _lifted_offline(config, kill_id) if offline else ask("DELETE", f"/api/kills/{quote(kill_id, safe='')}", config, url)
    if as_json:
        print_json(done)
        return
    when = ", once a gateway has started and recorded it" if offline else ""
    console().print(printable(f"lifted: {done['kind']} {done['target']}{when}"))


def _written(kind: str, target: str) -> str:
    """`idp/jane` is `user:idp/jane`, `clerk` is `agent:clerk`."""
    if kind == "user" and not target.startswith(("user:", "svc:")):
        return f"user:{target}"
    return f"agent:{target}" if kind == "agent" and not target.startswith("agent:") else target


def _time(text: str) -> int:
    """Epoch seconds."""
    if text == "now":
        return int(datetime.now(UTC).timestamp())
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        misuse(f"--before '{printable(text)}' is no time", help="`now`, or as 2026-11-22T18:00:00+00:00")
    if at.tzinfo is None:
        misuse(f"--before '{printable(text)}' says no time zone", help=f"as {printable(text)}+00:00")
    return int(at.timestamp())


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _offline(config: Path, body: dict[str, Any]) -> dict[str, Any]:
    """The kill, written without a gateway; the next one that reads it records it."""
    from gateway.configuration import load  # noqa: PLC0415  as above
    from gateway.identity.killed import Names  # noqa: PLC0415  as above
    from gateway.model import Refused, new_id, wall_clock  # noqa: PLC0415  as above
    from gateway.oauth.kills import shown  # noqa: PLC0415  as above
    from gateway.state.kills import OFFLINE, Kill  # noqa: PLC0415  as above

    alone(config)
    wrong = Names.of(load(config, os.environ)).wrong(body["kind"], body["target"])
    if wrong:
        misuse(wrong)
    if not 1 <= len(body["reason"]) <= 256 or not body["reason"].isprintable():
        misuse("--reason is 1 to 256 printable characters")
    at = wall_clock()
    kill = Kill(new_id(at), body["kind"], body["target"], body.get("before"), body["reason"], OFFLINE, operator(), at)
    try:
        return shown(asyncio.run(_with_state(config, lambda state: state.kills.add(kill))))
    except Refused as refusal:
        misuse(f"it could not be written: {refusal.detail}")


def _lifted_offline(config: Path, kill_id: str) -> dict[str, Any]:
    """The kill that the next gateway takes back, as it still stands."""
    from gateway.model import Refused, new_id, wall_clock  # noqa: PLC0415  as above
    from gateway.oauth.kills import shown  # noqa: PLC0415  as above
    from gateway.state.kills import LIFT, OFFLINE, Kill  # noqa: PLC0415  as above

    alone(config)
    at = wall_clock()
    wish = Kill(new_id(at), LIFT, kill_id, None, "", OFFLINE, operator(), at)
    try:
        found = asyncio.run(_with_state(config, lambda state: state.kills.order(wish)))
    except Refused as refusal:
        misuse(f"it could not be written: {refusal.detail}")
    if found is None:
        raise AnsweredNoError(
            Problem("unknown-kill", "there is no kill of that id in force"), "there is no kill of that id in force", 1
        )
    return shown(found)


def _listed_offline(config: Path, *, lifted: bool) -> dict[str, Any]:
    from gateway.model import Refused  # noqa: PLC0415  as above
    from gateway.oauth.kills import MOST_SHOWN, shown  # noqa: PLC0415  as above

    try:
        found = asyncio.run(_with_state(config, lambda state: state.kills.listed(MOST_SHOWN, lifted=lifted)))
    except Refused as refusal:
        misuse(f"they could not be read: {refusal.detail}")
    return {"kills": [shown(each) for each in found]}


async def _with_state(config: Path, work: Callable[[Any], Any]) -> Any:
    from gateway.configuration import load  # noqa: PLC0415  as above
    from gateway.state.store import State  # noqa: PLC0415  as above
    from gateway.stores import state_url_of  # noqa: PLC0415  as above

    state = await asyncio.to_thread(State.open, state_url_of(load(config, os.environ)))
    try:
        return await work(state)
    finally:
        await state.close()
