"""`bailiwick check`: everything that can be known to be wrong without starting."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import typer

from gateway.cli.output import console, misuse, print_json, printable
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.configuration import Configuration, Steps
    from gateway.settings import Settings
    from policies.bundle import Bundle

LIVE_SECONDS = 3.0
_LIVE_BYTES = 64 * 1024

Severity = Literal["error", "warning"]
T = TypeVar("T")


class Found(NamedTuple):
    """A problem, and whether the gateway would start with it."""

    severity: Severity
    problem: Problem


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("check")(check)


def check(
    config: Annotated[Path, typer.Option("--config", help="The settings.")] = Path("bailiwick.yaml"),
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    live: Annotated[
        str | None, typer.Option("--live", metavar="URL", help="Only ask this running gateway whether it is ready.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Validate settings and policies without starting anything.  Exits with 1 where something must be changed.

    With --live neither is read: exits with 0 if the gateway there is ready, with 1 if it is not.

    [bold]Example[/bold]   bailiwick check --config bailiwick.yaml --strict
    """
    if live is not None:
        _tell([Found("error", fault) for fault in faults(_base(live))], f"{live}: ready", strict=strict, as_json=as_json)
    else:
        _tell(list(findings(config, os.environ)), f"{config}: settings and policies are in order", strict=strict, as_json=as_json)


def _tell(found: Sequence[Found], fine: str, *, strict: bool, as_json: bool) -> None:
    errors = sum(each.severity == "error" for each in found)
    failed = bool(errors or (strict and found))
    if as_json:
        print_json({"ok": not failed, "problems": [{"severity": each.severity, **each.problem.to_dict()} for each in found]})
    else:
        out = console()
        for severity, problem in found:
            out.print(f"{severity}: ", style="bold red" if severity == "error" else "bold yellow", end="")
            out.print(printable(problem.render()), end="\n\n")
        out.print(f"{_count(errors, 'error')}, {_count(len(found) - errors, 'warning')}" if found else printable(fine))
    raise typer.Exit(1 if failed else 0)


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _base(url: str) -> str:
    """The URL without a final slash.  Misuse unless it is a plain base URL; one with a user in it would show in process lists."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        plain = False
    if not plain or set(url) & set("@?#\\") or not url.isascii() or not url.isprintable() or " " in url:
        misuse("--live wants the base URL of a gateway", help="as --live http://127.0.0.1:8080")
    return url.rstrip("/")


def faults(base: str) -> list[Problem]:
    """What keeps the gateway at `base` from working, by its own word (`GET /readyz`); empty: it is ready."""
    import asyncio  # noqa: PLC0415  the command line pays for what it uses

    import httpx  # noqa: PLC0415

    where = f"{base}/readyz"
    try:
        status, body = asyncio.run(_ask(where))
    except TimeoutError:
        return [Problem("not-reachable", f"no whole answer within {LIVE_SECONDS:g} s", where)]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [Problem("not-reachable", f"no answer: {str(error) or type(error).__name__}", where)]
    said = _parsed(body)
    if said is None:
        return [Problem("no-gateway", f"answered {status}, and not as a gateway does", where)]
    found = [Problem("not-ready", f"{name}: {reason}", where) for name, reason in said["faults"].items()]
    if not found and (status != 200 or said["ready"] is not True):
        found.append(Problem("not-ready", "it is not ready and does not say why", where))
    return found


async def _ask(where: str) -> tuple[int, bytes]:
    """Status and body; TimeoutError where the whole takes too long.  Of a body that is no gateway's, no more than the bound."""
    import asyncio  # noqa: PLC0415  see above

    import httpx  # noqa: PLC0415

    headers = {"accept": "application/json", "accept-encoding": "identity"}
    async with (
        asyncio.timeout(LIVE_SECONDS),
        httpx.AsyncClient(trust_env=False, timeout=LIVE_SECONDS, follow_redirects=False) as client,
        client.stream("GET", where, headers=headers) as response,
    ):
        body = b""
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _LIVE_BYTES:
                break
        return response.status_code, body[: _LIVE_BYTES + 1]


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(body) if len(body) <= _LIVE_BYTES else None
    except (ValueError, RecursionError):
        return None
    known = isinstance(said, dict) and "ready" in said and isinstance(said.get("faults"), dict)
    return said if known else None


def findings(config: Path, environ: Mapping[str, str]) -> Iterator[Found]:
    """Everything found in the settings, in the policies and between them."""
    from gateway.bundles import read_bundle  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli.check_programs import programs  # noqa: PLC0415
    from gateway.configuration import read  # noqa: PLC0415

    try:
        configuration = read(config, environ)
    except ProblemError as error:
        yield from (Found("error", problem) for problem in error.problems)
        return
    yield from secrets(configuration, environ)
    yield from private_keys(configuration.settings.data)
    yield from programs(configuration)
    try:
        bundle = read_bundle(configuration.settings.policies)
    except ProblemError as error:
        yield from (Found("error", problem) for problem in error.problems)
        return
    yield from _inactive(configuration.settings, bundle)
    yield from _between(configuration, bundle)


def _inactive(settings: Settings, bundle: Bundle) -> Iterator[Found]:
    """Why the bundle would not come into force: its signature, what lint calls an error, its own tests.

    Which serial is too old only the data folder of a running gateway says.
    """
    from gateway.bundles import findings_as_problems  # noqa: PLC0415  the command line pays for what it uses
    from gateway.policy.checks import Checks, RefusedBundleError  # noqa: PLC0415

    try:
        Checks.of(settings.policy.trust, require_tests=settings.policy.require_tests).build(bundle.texts, 0, None)
    except ProblemError as error:
        yield from (Found("error", problem) for problem in error.problems)
    except RefusedBundleError as error:
        yield from (Found("error", problem) for problem in findings_as_problems(error.findings, settings.policies))


def secrets(configuration: Configuration, environ: Mapping[str, str]) -> Iterator[Found]:
    """References to secrets and key sets that lead nowhere, or to a file that others may read."""
    from gateway.settings import Keys, Secret  # noqa: PLC0415  the command line pays for what it uses

    for path, secret in walked(configuration.settings, Secret):
        if secret.env is not None:
            if not environ.get(secret.env):
                text = f"the environment variable {secret.env} is not set"
                yield Found(
                    "error", configuration.problem("unresolved-secret", text, (*path, "env"), "set it, or refer to a file")
                )
        elif secret.file is not None:
            yield from _secret_file(configuration, (*path, "file"), secret.file)
        elif secret.command is not None and shutil.which(secret.command[0], path=environ.get("PATH")) is None:
            text = f"there is no program {secret.command[0]}"
            yield Found("error", configuration.problem("unresolved-secret", text, (*path, "command"), "give its whole path"))
    for path, keys in walked(configuration.settings, Keys):
        # The development issuer's keys are made on the first start.
        made_here = path[0] == "issuers" and configuration.settings.issuers[int(path[1])].development
        if keys.file is not None and not made_here and not keys.file.is_file():
            yield Found("error", configuration.problem("missing-file", "there is no such file", (*path, "file")))


def _secret_file(configuration: Configuration, path: Steps, file: Path) -> Iterator[Found]:
    try:
        with file.open("rb") as opened:
            content = opened.read(1 << 16)
            mode = os.fstat(opened.fileno()).st_mode
    except OSError as error:
        text = f"the secret's file cannot be read: {error.strerror}"
        yield Found(
            "error", configuration.problem("unresolved-secret", text, path, "one secret a file, readable by the gateway alone")
        )
        return
    if not content.strip():
        yield Found("error", configuration.problem("unresolved-secret", "the secret's file is empty", path))
    if mode & 0o077:
        text = f"others than its owner may read or write the secret's file (mode {mode & 0o777:04o})"
        yield Found("error", configuration.problem("open-secret", text, path, f"chmod 600 {file}"))


def private_keys(data: Path) -> Iterator[Found]:
    """Keys that the gateway has made for itself: theirs alone to read."""
    for file in sorted([*data.glob("*"), *data.glob("keys/*")]) if data.is_dir() else ():
        if file.name.endswith((".pem", "-key")) and file.is_file() and file.stat().st_mode & 0o077:
            mode = file.stat().st_mode & 0o777
            text = f"others than its owner may read or write this key (mode {mode:04o})"
            yield Found("error", Problem("open-secret", text, str(file), f"chmod 600 {file}"))


def walked(value: object, kind: type[T], path: Steps = ()) -> Iterator[tuple[Steps, T]]:
    """Every part of the settings that is of this kind, by its path."""
    from pydantic import BaseModel  # noqa: PLC0415  the command line pays for what it uses

    if isinstance(value, kind):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from walked(getattr(value, name), kind, (*path, name))
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from walked(each, kind, (*path, name))
    elif isinstance(value, tuple):
        for index, each in enumerate(value):
            yield from walked(each, kind, (*path, index))


def _between(configuration: Configuration, bundle: Bundle) -> Iterator[Found]:
    """What settings and policies say of each other."""
    settings = configuration.settings
    if settings.tenant not in bundle.tenants:
        known = ", ".join(sorted(bundle.tenants)) or "none"
        text = f"the policies do not know the tenant '{settings.tenant}': every call will be denied"
        yield Found("error", configuration.problem("unknown-tenant", text, ("tenant",), f"tools.yaml has: {known}"))
    servers = {tool.partition(".")[0] for tool in bundle.tools}
    for name in settings.mcp:
        if name not in servers:
            text = f"no tool of '{name}' is registered in tools.yaml: nothing of it can be called"
            yield Found("warning", configuration.problem("no-tools", text, ("mcp", name), f"add `{name}.<tool>: …` under tools:"))
    known_servers = set(settings.mcp) | ({"sandbox"} if settings.sandbox.enabled else set())
    said: set[str] = set()
    mentions = [(name, rule.source) for rule in bundle.rules for name in (rule.who, rule.tool)]
    mentions += [(role.member, role.source) for role in bundle.roles]
    for name, source in mentions:
        kind, colon, agent = name.partition(":")
        if kind in ("agent", "a2a") and colon and "*" not in agent and agent not in settings.agents and agent not in said:
            said.add(agent)
            text = f"'{name}': the settings know no such agent"
            place = f"{settings.policies / source.file}:{source.line}:{source.column}"
            yield Found("warning", Problem("unknown-agent", text, place, "add it under agents:, or correct the name"))
    for server in sorted(servers - known_servers - {"sandbox"}):
        text = f"tools of '{server}' are registered, but the settings have no such server"
        yield Found("warning", Problem("unknown-server", text, f"{settings.policies / 'tools.yaml'}"))
    yield from _shared(settings, bundle)


def _shared(settings: Settings, bundle: Bundle) -> Iterator[Found]:
    """Tools that write behind a credential that is everybody's; the one rule of lint that needs the settings to see it."""
    from gateway.bundles import findings_as_problems  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli.policy.check import facts_of  # noqa: PLC0415
    from policies.lint import lint  # noqa: PLC0415

    found = [each.finding for each in lint(bundle, facts_of(settings)).complaints if each.finding.code == "shared-credential"]
    yield from (Found("warning", problem) for problem in findings_as_problems(found, settings.policies))
