"""`bailiwick init`: a new folder, from nothing or from the configuration of an MCP client.  Never overwrites a file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import starter
from gateway.cli.output import console, print_json, printable
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.cli.adopt import Adoption

_BASE = "http://127.0.0.1:8080"


@dataclass(slots=True)
class _Plan:
    """Every file that will be written, by its path below the folder.  `private` ones are for their owner's eyes."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: dict[str, bytes] = field(default_factory=dict)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made if it is not there.")] = Path(),
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="An MCP client's configuration: Claude, VS Code, Cursor.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write a commented starter folder: settings, policies that allow nothing yet, and a .gitignore.

    With --from, the servers of an MCP client's configuration become servers behind the gateway.  Secrets go to files of their own
    that only you can read, and client.json is the client's new configuration, pointing to the gateway.

    [bold]Example[/bold]   bailiwick init gateway-config --from .mcp.json
    """
    adoption = _adopt(source) if source is not None else None
    plan = _plan(adoption)
    _refuse_to_overwrite(folder, plan)
    _write(folder, plan)
    if as_json:
        written = sorted([*plan.files, *plan.private])
        print_json(
            {
                "folder": str(folder),
                "written": written,
                "servers": {server.slug: server.name for server in adoption.servers} if adoption else {},
                "left_out": adoption.left_out if adoption else [],
                "notes": [note.to_dict() for note in adoption.notes] if adoption else [],
                "variables": sorted(adoption.variables) if adoption else [],
                "client": json.loads(plan.files["client.json"]) if adoption else None,
            }
        )
    else:
        _tell(folder, plan, adoption)


def _adopt(source: Path) -> Adoption:
    from gateway.cli import adopt, jsonc  # noqa: PLC0415  only with --from

    adoption = adopt.adopt(jsonc.read(source), str(source.absolute()))
    if adoption is None:
        help_ = "known are `mcpServers` (Claude Desktop, Claude Code, Cursor) and `servers` (VS Code)"
        raise ProblemError(Problem("no-servers", "holds no MCP servers in a shape that is known", str(source), help_))
    return adoption


def _plan(adoption: Adoption | None) -> _Plan:
    plan = _Plan({".gitignore": starter.GITIGNORE.encode(), "README.md": starter.README.encode()})
    for name, data in _default_policies().items():
        plan.files[f"policies/{name}"] = data
    if adoption is None:
        plan.files["bailiwick.yaml"] = starter.settings().encode()
        return plan
    from gateway.cli import adopted_text  # noqa: PLC0415  only with --from

    plan.files["bailiwick.yaml"] = starter.settings(adopted_text.mcp_yaml(adoption)).encode()
    plan.files["policies/tools.yaml"] += adopted_text.tools_hints(adoption).encode()
    plan.files["policies/tests/denials.yaml"] += adopted_text.tests_hints(adoption).encode()
    plan.files["client.json"] = (
        json.dumps(adopted_text.client_json(adoption, _BASE), indent=2, ensure_ascii=False) + "\n"
    ).encode()
    plan.private = {path: text.encode() for path, text in adoption.secrets.items()}
    return plan


def _default_policies() -> dict[str, bytes]:
    """The shipped bundle, by path below its folder."""
    import policies  # noqa: PLC0415  only where the folder is written

    root = Path(policies.__file__).parent / "default"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _refuse_to_overwrite(folder: Path, plan: _Plan) -> None:
    there = [folder / name for name in sorted([*plan.files, *plan.private]) if os.path.lexists(folder / name)]
    if there:
        names = ", ".join(path.relative_to(folder).as_posix() for path in there)
        help_ = "choose another folder, or move these away; nothing was written"
        raise ProblemError(Problem("file-exists", f"already there: {names}", str(folder), help_))


def _write(folder: Path, plan: _Plan) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in plan.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path, data, 0o644)
        for name, data in plan.private.items():
            path = folder / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.parent.chmod(0o700)  # it may have been there
            _create(path, data, 0o600)
    except OSError as error:
        raise ProblemError(
            Problem("unwritable", f"cannot be written: {error.strerror}", str(error.filename or folder))
        ) from error


def _create(path: Path, data: bytes, mode: int) -> None:
    # O_EXCL: neither a file nor a link that appeared meanwhile is written through.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
        file.write(data)


def _tell(folder: Path, plan: _Plan, adoption: Adoption | None) -> None:
    out = console()
    out.print(f"Written to {folder}/", style="bold")
    for name in sorted([*plan.files, *plan.private]):
        out.print(f"  {printable(name)}" + ("   (for your eyes only)" if name in plan.private else ""))
    if adoption is not None:
        _tell_adopted(adoption, plan)
    where = "" if folder == Path() else f" --config {folder / 'bailiwick.yaml'}"
    out.print("\nNext", style="bold")
    out.print(
        "  1. name your identity provider under `issuers:` in bailiwick.yaml, or first try it with the development issuer there"
    )
    out.print("  2. register tools in policies/tools.yaml and grant them in policies/grants/")
    out.print(f"  3. bailiwick check{where}")
    out.print(f"  4. bailiwick serve{where}")


def _tell_adopted(adoption: Adoption, plan: _Plan) -> None:
    out = console()
    number = len(adoption.servers)
    out.print(f"\n{number} server{' is' if number == 1 else 's are'} now behind the gateway", style="bold")
    for server in adoption.servers:
        out.print(printable(f"  {server.name} → {_BASE}/mcp/{server.slug}"))
    if adoption.notes:
        out.print("\nTo know", style="bold")
        for note in adoption.notes:
            out.print(printable(f"  {note.message}" + (f"\n    help: {note.help}" if note.help else "")))
    if adoption.variables:
        out.print("\nThe gateway will read these environment variables: " + printable(", ".join(sorted(adoption.variables))))
    if plan.private:
        out.print("\nThe client's own file still holds the secrets: remove them there, and change them if others could read it.")
    out.print("\nTools to register in policies/tools.yaml (names and arguments as the server lists them)", style="bold")
    for server in adoption.servers:
        out.print(f"  {server.slug}.<tool>: {{args: {{<argument>: string}}, risk: medium}}")
    out.print("\nThe client's new configuration (also in client.json)", style="bold")
    out.print(printable(plan.files["client.json"].decode()), end="")
