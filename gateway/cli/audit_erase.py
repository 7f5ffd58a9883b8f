"""`bailiwick audit erase` and `audit hold`: one person asks, another agrees; a legal hold refuses.

`--offline` writes where no gateway answers: whoever may do that may do anything there anyway, and the record says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from shlex import quote as quote_for_shell
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli.asking import CONFIG, Config, Json, Url, alone, ask, operator
from gateway.cli.audit_agree import agree
from gateway.cli.output import AnsweredNoError, console, misuse, print_json, printable
from gateway.problem import Problem

if TYPE_CHECKING:
    from gateway.erasure.erasing import Erased, Erasing
    from gateway.settings import Settings

Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept, sealed, in the ledger.")]
Offline = Annotated[bool, typer.Option("--offline", help="Write into the stores; only where no gateway answers.")]


def register(group: typer.Typer) -> None:
    """Add the verbs to `audit`."""
    group.command("erase")(erase)
    group.command("agree")(agree)
    holds = typer.Typer(
        help="Legal holds: who is under one cannot be erased.\n\n[bold]Example[/bold]   bailiwick audit hold list",
        no_args_is_help=True,
    )
    holds.command("set")(hold_set)
    holds.command("clear")(hold_clear)
    holds.command("list")(hold_list)
    group.add_typer(holds, name="hold")


def erase(  # noqa: PLR0917  Typer reads the signature
    subject: Annotated[str, typer.Argument(help="The person, as `user:idp/jane` or `idp/jane`.")],
    reason: Annotated[str, typer.Option("--reason", help="Why you ask; it is kept, sealed, in the ledger.")] = "",
    approve: Annotated[str, typer.Option("--approve", metavar="ID", help="Agree to what another person asked for.")] = "",
    agreement: Annotated[
        Path | None, typer.Option("--agreement", help="With --offline and --approve: what the other person signed.")
    ] = None,
    approver: Annotated[str, typer.Option("--approver", help="With --unproven: who is said to have agreed.")] = "",
    unproven: Annotated[bool, typer.Option("--unproven", help="With --offline: nobody else signs; the record says so.")] = False,
    offline: Offline = False,
    config: Config = CONFIG,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Erase a person: everything sealed for them, their name, and what other stores hold of them.  Every proof stays valid.

    One person asks (`--reason`; policy must grant `change` on `admin:erasure`), another agrees (`--approve ID`; `approve` there).
    With `--offline` the other one signs (`bailiwick audit agree`), with a key that the settings name (`ledger.erasure_keys`).

    [bold]Example[/bold]   bailiwick audit erase idp/jane --reason 'asked to, ticket 812'
    """
    if bool(reason) == bool(approve):
        misuse("give --reason to ask, or --approve ID to agree", help="bailiwick audit erase --help")
    wrong = _wrong(bool(approve), agreement is not None, approver, unproven, offline, url)
    if wrong:
        misuse(wrong, help="bailiwick audit erase --help")
    person = _person(subject)
    if offline:
        done = _offline(config, _without_gateway(person, reason, approve, agreement, approver))
    elif approve:
        done = ask("POST", f"/api/erasures/{quote(approve, safe='')}/approval", config, url, {"subject": person})
    else:
        done = ask("POST", "/api/erasures", config, url, {"subject": person, "reason": reason})
    if as_json:
        print_json(done)
    elif done["state"] == "waits" and offline:
        console().print(printable(f"asked; another person signs with: {done['agree']}"), soft_wrap=True)
        console().print(printable(f"and then: bailiwick audit erase {subject} --approve {done['id']} --offline --agreement FILE"))
    elif done["state"] == "waits":
        console().print(printable(f"asked: another person agrees with: bailiwick audit erase {subject} --approve {done['id']}"))
    else:
        stores = ", ".join(f"{name} {rows}" for name, rows in done["stores"].items())
        values = (
            f"{done['values']} sealed values deleted" if done["state"] == "erased" else "sealed values are still being deleted"
        )
        console().print(printable(f"erased: {done['pseudonym']} is nobody any more; {values}; {stores}"))


def _wrong(approve: bool, signed: bool, approver: str, unproven: bool, offline: bool, url: str) -> str:  # noqa: PLR0917
    """What is amiss with the words; "" where nothing is."""
    if not offline:
        return "--agreement, --approver and --unproven go with --offline" if signed or approver or unproven else ""
    if url:
        return "--offline asks no gateway: leave out --url"
    if approve != signed:
        return "with --offline, who agrees has signed: --approve ID goes with --agreement FILE (bailiwick audit agree)"
    if bool(approver) != unproven:
        return "a second person who is only named proves nothing: --approver goes with --unproven, which says so on record"
    if unproven and approve:
        return "--unproven asks and erases at once: give --reason, not --approve"
    return "--approver is somebody else than you" if approver and approver == operator().removeprefix("os:") else ""


def _without_gateway(
    person: str, reason: str, approve: str, agreement: Path | None, approver: str
) -> Callable[[Erasing, Settings], Awaitable[dict[str, Any]]]:
    if agreement is not None:
        return lambda erasing, settings: _agreed(erasing, settings, person, approve, agreement)
    if approver:
        return lambda erasing, _: _both(erasing, person, reason, approver)
    return lambda erasing, settings: _asked(erasing, settings, person, reason)


def hold_set(  # noqa: PLR0917  as above
    reason: Reason,
    subject: Annotated[str, typer.Argument(help="The person; without one, with --everybody.")] = "",
    everybody: Annotated[bool, typer.Option("--everybody", help="Nobody at all can be erased.")] = False,
    offline: Offline = False,
    config: Config = CONFIG,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Set a legal hold.  Policy must grant you `change` on `admin:holds`.

    [bold]Example[/bold]   bailiwick audit hold set idp/jane --reason 'case 12/34'
    """
    if bool(subject) == everybody:
        misuse("name a person, or give --everybody", help="bailiwick audit hold set --help")
    person = _person(subject) if subject else None
    if offline:
        done = _offline(config, lambda erasing, _: _held(erasing, person, reason))
    else:
        whom: dict[str, object] = {"everybody": True} if person is None else {"subject": person}
        done = ask("POST", "/api/holds", config, url, {**whom, "reason": reason})
    if as_json:
        print_json(done)
    else:
        console().print(printable(f"held; to take it back: bailiwick audit hold clear {done['id']} --reason …"))


def hold_clear(  # noqa: PLR0917  as above
    hold: Annotated[str, typer.Argument(metavar="ID", help="Of the hold, as `bailiwick audit hold list` shows it.")],
    reason: Reason,
    offline: Offline = False,
    config: Config = CONFIG,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Take a legal hold back.  Policy must grant you `change` on `admin:holds`.

    [bold]Example[/bold]   bailiwick audit hold clear 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b --reason 'case closed'
    """
    if offline:
        done = _offline(config, lambda erasing, _: _cleared(erasing, hold, reason))
    else:
        done = ask("POST", f"/api/holds/{quote(hold, safe='')}/clearing", config, url, {"reason": reason})
    if as_json:
        print_json(done)
    else:
        console().print(printable(f"cleared: {done['id']}"))


def hold_list(config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Show legal holds in force.  Policy must grant you `read` on `admin:holds`; the reading is recorded.

    [bold]Example[/bold]   bailiwick audit hold list
    """
    found = ask("GET", "/api/holds", config, url)
    if as_json:
        print_json(found)
        return
    for each in found["holds"]:
        console().print(printable(f"{each['id']}  {each['at']}  {each['subject']}"))
    if not found["holds"]:
        console(stderr=True).print("there is no legal hold")


def _person(subject: str) -> str:
    return subject if subject.startswith(("user:", "svc:")) else f"user:{subject}"


async def _asked(erasing: Erasing, settings: Settings, person: str, reason: str) -> dict[str, Any]:
    if not settings.ledger.erasure_keys:
        misuse("nobody could agree: the settings name no key (ledger.erasure_keys)", help="bailiwick audit agree --help")
    request = await erasing.ask(person, reason, operator(), source="offline")
    pseudonym = await erasing.pseudonym(person)
    agree = (
        f"bailiwick audit agree {request} --of {quote_for_shell(pseudonym)} --log {settings.ledger.origin} --name NAME --key FILE"
    )
    return {"id": request, "state": "waits", "pseudonym": pseudonym, "log": settings.ledger.origin, "agree": agree}


async def _agreed(erasing: Erasing, settings: Settings, person: str, request: str, file: Path) -> dict[str, Any]:
    from audit.agreement import MAX_NOTE, Agreement, signed_by  # noqa: PLC0415  the command line pays for what it uses
    from audit.checkpoint import CheckpointError, Vkey  # noqa: PLC0415

    keys = [Vkey.parse(text) for text in settings.ledger.erasure_keys]
    wanted = Agreement(settings.ledger.origin, request, await erasing.pseudonym(person))
    try:
        with file.open("rb") as opened:
            note = opened.read(MAX_NOTE + 1).decode("utf-8")
        who = signed_by(note, wanted, keys)
    except OSError as error:
        misuse(f"{file}: {error.strerror}")
    except (CheckpointError, UnicodeDecodeError) as error:
        misuse(f"nothing was erased: {error}", help=f"{file} is what the other person's `bailiwick audit agree` printed")
    return _done(request, await erasing.agree(request, person, f"key:{who.name}", agreement=note))


async def _both(erasing: Erasing, person: str, reason: str, approver: str) -> dict[str, Any]:
    request = await erasing.ask(person, reason, operator(), source="offline")
    return _done(request, await erasing.agree(request, person, f"said:{approver}"[:200]))


def _done(request: str, done: Erased) -> dict[str, Any]:
    state = "erased" if done.values is not None else "closed"
    return {"id": request, "state": state, "pseudonym": done.pseudonym, "stores": dict(done.stores), "values": done.values}


async def _held(erasing: Erasing, person: str | None, reason: str) -> dict[str, Any]:
    return {"id": await erasing.hold(person, reason, operator(), source="offline")}


async def _cleared(erasing: Erasing, hold: str, reason: str) -> dict[str, Any]:
    await erasing.clear(hold, reason, operator(), source="offline")
    return {"id": hold, "state": "cleared"}


def _offline(config: Path, work: Callable[[Erasing, Settings], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    from audit.model import LedgerUnavailableError  # noqa: PLC0415  the command line pays for what it uses
    from gateway.configuration import load  # noqa: PLC0415
    from gateway.erasure.erasing import NotErasedError  # noqa: PLC0415
    from gateway.model import Refused  # noqa: PLC0415

    alone(config)
    settings = load(config, os.environ)

    async def run() -> dict[str, Any]:
        async with _erasing(settings) as erasing:
            return await work(erasing, settings)

    try:
        return asyncio.run(run())
    except NotErasedError as error:
        raise AnsweredNoError(Problem(error.why.value, error.detail), error.detail, 1) from None
    except (LedgerUnavailableError, Refused, OSError) as error:
        misuse(f"nothing was erased: {getattr(error, 'detail', error)}")


@asynccontextmanager
async def _erasing(settings: Settings) -> AsyncIterator[Erasing]:
    from gateway.cli.audit_views import existing_seal_key  # noqa: PLC0415  as above
    from gateway.cli.ledger_writing import journal_of  # noqa: PLC0415
    from gateway.erasure.erasing import Erasing as Opened  # noqa: PLC0415
    from gateway.erasure.erasing import Log  # noqa: PLC0415
    from gateway.erasure.opening import erasers_of  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415
    from gateway.parts import derived  # noqa: PLC0415
    from gateway.sandbox.folders import SESSIONS  # noqa: PLC0415
    from gateway.sandbox.opening import folders_of  # noqa: PLC0415
    from gateway.sandbox.user_folders import PURPOSE, eraser  # noqa: PLC0415
    from gateway.state.store import State  # noqa: PLC0415
    from gateway.stores import LOG, existing, of_log, state_url_of  # noqa: PLC0415

    async with AsyncExitStack() as stack:
        ways, logs = {}, []
        for tenant, url in existing(settings):
            ways[tenant] = journal = await stack.enter_async_context(journal_of(of_log(settings, tenant or LOG)))
            logs.append(Log(tenant, url, journal.shred))
        state = await asyncio.to_thread(State.open, state_url_of(settings))
        stack.push_async_callback(state.close)
        seal = existing_seal_key(settings, os.environ) or b""
        sessions = folders_of(settings, derived(seal, SESSIONS), wall_clock)
        stores = erasers_of(state, eraser(settings, derived(seal, PURPOSE)), sessions.erase)
        yield Opened(lambda entry: ways[entry.tenant].append(entry), lambda: logs, seal, stores, wall_clock)
