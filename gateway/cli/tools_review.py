"""`bailiwick tools review|approve|diff`: what servers say, beside what was approved; text of servers is shown, never obeyed.

The servers are asked as the gateway would ask them; nothing is approved that was not named by its digest.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.output import AnsweredNoError, console, misuse, print_json, printable
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.cli.definitions import Item, Review
    from gateway.cli.live_tools import Word
    from gateway.settings import Settings
    from policies.bundle import Bundle
    from policies.lock import Key

MOST_LINES: Final = 120
"""Lines of one difference that are shown to people; JSON has all of them."""
_STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}

Server = Annotated[str, typer.Argument(metavar="[SERVER]", help="A server of the settings' `mcp:`; without it, all of them.")]
Config = Annotated[Path, typer.Option("--config", help="The settings.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_CONFIG: Final = Path("bailiwick.yaml")


@dataclass(frozen=True, slots=True)
class Looked:
    """What was asked and read: every review, why a server did not say anything, and the bundle beside."""

    settings: Settings
    bundle: Bundle
    reviews: dict[str, Review]
    silent: dict[str, str]


def register(group: typer.Typer) -> None:
    """Add the verbs."""
    group.command("review")(review)
    group.command("approve")(approve)
    group.command("diff")(diff)


def review(
    server: Server = "",
    *,
    config: Config = _CONFIG,
    explain: Annotated[str | None, typer.Option("--explain", metavar="RULE", help="Only show the page of a sign.")] = None,
    as_json: Json = False,
) -> None:
    """Show what servers say of their tools, prompts and themselves that nobody has approved: what changed, what is new or
    renamed, and which signs of poisoning it has. Their text is written so that a terminal cannot be fooled.

    Exits with 1 where something is held back, or a server does not say.

    [bold]Example[/bold]   bailiwick tools review erp --config bailiwick.yaml
    """
    if explain is not None:
        _explain(explain, as_json=as_json)
        return
    looked = _look(server, config)
    if as_json:
        print_json({"servers": {name: as_dict(each) for name, each in looked.reviews.items()}, "silent": looked.silent})
    else:
        for each in looked.reviews.values():
            _show(each, "" if config == _CONFIG else f" --config {printable(shlex.quote(str(config)))}")
        _show_silent(looked)
    raise typer.Exit(1 if looked.silent or any(each.waiting for each in looked.reviews.values()) else 0)


def diff(server: Server = "", *, config: Config = _CONFIG, as_json: Json = False) -> None:
    """Compare tools.lock with what the servers say now.  Exits with 1 where anything differs, or a server does not say.

    [bold]Example[/bold]   bailiwick tools diff --config bailiwick.yaml --json
    """
    looked = _look(server, config, seen_first=False)
    if as_json:
        print_json({"servers": {name: as_dict(each) for name, each in looked.reviews.items()}, "silent": looked.silent})
    else:
        for each in looked.reviews.values():
            for item in each.items:
                _show_item(item, signs=False)
            console().print(printable(f"{each.server}: {len(each.items)} differ, {each.same} as approved"))
        _show_silent(looked)
    raise typer.Exit(1 if looked.silent or any(each.items for each in looked.reviews.values()) else 0)


def approve(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="A server of the settings' `mcp:`.")],
    digests: Annotated[list[str], typer.Argument(metavar="DIGEST...", help="Of a whole review, or of single definitions.")],
    *,
    by: Annotated[str, typer.Option("--by", help="Who approves; default: this account.")] = "",
    note: Annotated[str, typer.Option("--note", help="Why; it is kept beside.")] = "",
    beside: Annotated[
        bool, typer.Option("--beside", help="What was approved before still counts: for a server under change.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Take out what the server does not have any more.")] = False,
    config: Config = _CONFIG,
    as_json: Json = False,
) -> None:
    """Write definitions into tools.lock, named by the digests that `review` showed. What has changed since then has another
    digest, and is not approved: the command then exits with 1, and nothing is written.

    [bold]Example[/bold]   bailiwick tools approve erp sha256:9f86d0… --by anna --note "new currency field"
    """
    from gateway.cli.definitions import Approval, approving  # noqa: PLC0415  the command line pays for what it uses

    for what, text in (("--by", by), ("--note", note)):
        if len(text) > 1000 or not text.isprintable():
            misuse(f"{what} is at most 1000 printable characters")
    looked = _look(server, config)
    _show_silent(looked)
    if looked.silent:
        raise typer.Exit(1)
    found = looked.reviews[server]
    items, unknown = found.meant(digests)
    if unknown or not items:
        message = f"{server} says nothing that has the digest {printable(unknown[0][:80]) if unknown else digests[0]}"
        help_ = f"it may have changed since you looked: bailiwick tools review {server}"
        raise AnsweredNoError(Problem("changed-since", message, f"mcp.{server}", help_), message, 1)
    gone = [key for key in looked.bundle.pinning.lock.servers.get(server, {}) if key not in found.heard] if prune else []
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = Approval(by or getpass.getuser(), at, note, beside)
    lock = approving(looked.bundle.pinning.lock, found, items, said, gone)
    path = _write(looked, lock)
    signed = "manifest.json" in looked.bundle.texts
    left = sum(1 for item in found.items if item.approvable and item not in items)
    left = left if replace(looked.bundle.pinning, lock=lock).mode(server) == "quarantine" else 0
    if as_json:
        approved = [{"what": item.key[0], "name": item.key[1], "digest": item.digest} for item in items]
        print_json(
            {
                "server": server,
                "approved": approved,
                "removed": [name for _, name in gone],
                "held_back": left,
                "sign_again": signed,
            }
        )
        return
    out = console(stderr=True)
    out.print(printable(f"{path}: {len(items)} approved, {len(gone)} taken out"))
    if left:
        out.print(
            f"{left} more of {server} are held back from now on, as tools.lock names the server: approve them, or say otherwise"
        )
    if signed:
        out.print("the bundle is signed, and has to be signed again: bailiwick policy sign")


def _write(looked: Looked, lock: Any) -> Path:
    """tools.lock anew, whole or not at all; only as part of a bundle that loads, and only over the text that was read."""
    from gateway.bundles import findings_as_problems  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli.whole_file import write_whole  # noqa: PLC0415
    from policies.bundle import BundleError, load_texts  # noqa: PLC0415
    from policies.lock import NAME, render  # noqa: PLC0415

    path, text = looked.settings.policies / NAME, render(lock)
    try:
        load_texts({**looked.bundle.texts, NAME: text})
    except BundleError as error:
        raise ProblemError(*findings_as_problems(error.findings, looked.settings.policies)) from None
    try:
        now = path.read_text(encoding="utf-8").replace("\r\n", "\n") if path.exists() else None
        if now != looked.bundle.texts.get(NAME):
            message = f"{path}: somebody else has changed it meanwhile"
            raise AnsweredNoError(Problem("changed-since", message, str(path), "do it again"), message, 1)
        write_whole(path, text)
    except OSError as error:
        raise ProblemError(Problem("unwritable", f"the file cannot be written: {error.strerror}", str(path))) from None
    return path


# --- asking


def _look(server: str, config: Path, *, seen_first: bool = True) -> Looked:
    """Ask the servers, and hold what they say against the bundle that the settings name."""
    from gateway.cli.definitions import review as held_against  # noqa: PLC0415  the command line pays for what it uses
    from gateway.configuration import load  # noqa: PLC0415
    from policies.finding import suggest  # noqa: PLC0415

    settings = load(config, os.environ)
    if server and server not in settings.mcp:
        help_ = suggest(server, settings.mcp) or f"known are {', '.join(settings.mcp) or 'none'}"
        misuse(f"the settings have no server '{printable(server[:80])}'", help=help_)
    bundle = _bundle(settings)
    said, silent = _asked(settings, [server] if server else list(settings.mcp))
    firsts = _firsts(settings, list(said)) if seen_first else {}
    named = {name: _tool_names(words) for name, words in said.items()}
    reviews = {name: held_against(name, words, bundle.pinning, firsts.get(name, {}), named) for name, words in said.items()}
    return Looked(settings, bundle, reviews, silent)


def _bundle(settings: Settings) -> Bundle:
    from gateway.bundles import findings_as_problems  # noqa: PLC0415  the command line pays for what it uses
    from policies.bundle import BundleError, load  # noqa: PLC0415

    try:
        return load(settings.policies)
    except BundleError as error:
        raise ProblemError(*findings_as_problems(error.findings, settings.policies)) from None


def _tool_names(words: tuple[Word, ...]) -> list[str]:
    from gateway.mcp.methods import LIST_TOOLS  # noqa: PLC0415  the command line pays for what it uses

    tools = [tool for word in words for tool in word.lists.get(LIST_TOOLS, [])]
    return [tool["name"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("name"), str)]


def _asked(settings: Settings, servers: Iterable[str]) -> tuple[dict[str, tuple[Word, ...]], dict[str, str]]:
    from gateway.cli.live_tools import target_of, words_of  # noqa: PLC0415  the command line pays for what it uses
    from gateway.model import UpstreamError  # noqa: PLC0415

    said: dict[str, tuple[Word, ...]] = {}
    silent: dict[str, str] = {}

    async def ask(server: str) -> None:
        try:
            said[server] = await words_of(target_of(settings, server, os.environ), settings)
        except UpstreamError as error:
            silent[server] = str(error)
        except ProblemError as error:  # its secret does not resolve
            silent[server] = "; ".join(problem.message for problem in error.problems)
        except ValueError as error:
            silent[server] = str(error)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(server) for server in servers))

    with console(stderr=True).status("asking"):
        asyncio.run(ask_all())
    return {name: said[name] for name in sorted(said)}, silent


def _firsts(settings: Settings, servers: list[str]) -> dict[str, dict[tuple[bool, Key], tuple[str, str]]]:
    """What counts because it was seen first; nothing where no gateway has run yet."""
    from gateway.mcp.pins import of_row  # noqa: PLC0415  the command line pays for what it uses
    from gateway.model import Refused  # noqa: PLC0415
    from gateway.state.store import State  # noqa: PLC0415
    from gateway.stores import state_url_of  # noqa: PLC0415

    url = state_url_of(settings)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return {}

    async def read() -> dict[str, dict[tuple[bool, Key], tuple[str, str]]]:
        state = await asyncio.to_thread(State.open, url)
        try:
            found = {server: await state.definitions.firsts(server) for server in servers}
        finally:
            await state.close()
        return {
            server: {
                (place.legacy, key): (each.digest, each.definition)
                for (what, name), each in rows.items()
                for place, key in [of_row((server, what, name))]
            }
            for server, rows in found.items()
        }

    try:
        return asyncio.run(read())
    except Refused as refusal:
        raise ProblemError(
            Problem("state-store", f"the state store cannot be read: {refusal.detail}", url.split("@")[-1])
        ) from None


# --- showing


def as_dict(found: Review) -> dict[str, Any]:
    """Everything, for programs."""
    from gateway.cli.definitions import difference  # noqa: PLC0415  the command line pays for what it uses

    def one(item: Item) -> dict[str, Any]:
        return {
            "what": item.key[0],
            "name": item.key[1],
            "state": item.state,
            "waits": item.waits or None,
            "digest": item.digest or None,
            "eras": list(item.eras),
            "renamed_from": item.renamed or None,
            "looks_like": item.like or None,
            "signs": [{"rule": s.rule, "grade": s.grade, "where": s.where, "message": s.message} for s in item.signs],
            "before": item.before,
            "after": item.after,
            "difference": difference(item),
        }

    return {
        "definitions": found.mode,
        "digest": found.digest or None,
        "same": found.same,
        "items": [one(item) for item in found.items],
    }


def _show(found: Review, told: str) -> None:
    """`told` is what `approve` has to be told besides, to mean the same."""
    out = console()
    for item in found.items:
        _show_item(item)
    out.print(f"{found.server} ({found.mode}): ", style="bold", end="")
    out.print(
        f"{found.waiting} held back, {len(found.items) - found.waiting} not approved and not held back, {found.same} as approved"
    )
    if found.digest:
        out.print("  approve one by its digest, or everything that is shown:")
        out.print(f"  bailiwick tools approve {found.server} {found.digest}{told}\n")


def _show_item(item: Item, *, signs: bool = True) -> None:
    from gateway.cli.definitions import difference  # noqa: PLC0415  the command line pays for what it uses
    from policies.unseen import shown  # noqa: PLC0415

    out: Callable[..., None] = console().print
    title = f"{item.server}  {item.key[0]}" + (f"  {shown(item.key[1])[:200]}" if item.key[1] else "")
    out(title, style="bold", end="")
    out(f"  {item.state}" + (f", held back ({item.waits})" if item.waits else ""), style="bold red" if item.waits else "yellow")
    if item.renamed:
        out(f"  renamed from {shown(item.renamed)[:200]}")
    if item.like:
        out(f"  its name looks like {item.like[:300]}")
    if item.digest:
        out(f"  {item.digest}" + (f"  ({item.eras[0]} era)" if len(item.eras) == 1 else ""))
    for sign in item.signs if signs else ():
        out(f"  {sign.grade}: ", style="bold red" if sign.grade == "high" else "yellow", end="")
        out(shown(f"{sign.message}  [{sign.rule}, at {sign.where}]"))
    lines = difference(item) if item.state != "odd" else []
    for line in lines[:MOST_LINES]:
        out(f"    {shown(line)}", style=_STYLES.get(line[:1], ""))
    if len(lines) > MOST_LINES:
        out(f"    and {len(lines) - MOST_LINES} more lines: --json has all")
    out("")


def _show_silent(looked: Looked) -> None:
    out = console(stderr=True)
    for name, why in looked.silent.items():
        problem = Problem("silent-server", f"the server '{name}' did not say what it has: {why}", f"mcp.{name}", "start it")
        out.print(printable(problem.render()))


def _explain(code: str, *, as_json: bool) -> None:
    from gateway.poison import PAGES, RULES  # noqa: PLC0415  the command line pays for what it uses
    from policies.finding import suggest  # noqa: PLC0415

    if code not in PAGES:
        misuse(f"there is no sign '{printable(code[:80])}'", help=suggest(code, PAGES) or f"known are {', '.join(sorted(PAGES))}")
    if as_json:
        print_json({"code": code, "grade": RULES[code].grade, "page": PAGES[code]})
    else:
        console().print(f"{code} ({RULES[code].grade})\n", style="bold")
        console().print(PAGES[code])
