"""`bailiwick policy import`: policies of other engines as a bundle, and everything of them that the bundle does not say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.output import console, misuse, print_json, printable
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from policies.casbinimport import Import

MAX_BYTES: Final = 32 * 1024 * 1024
REPORT: Final = "README.md"
"""Holds the report: the one file of a bundle's folder that is for people alone."""


def register(group: typer.Typer) -> None:
    """Add the group of verbs."""
    inner = typer.Typer(help="Policies of other engines as a bundle.", no_args_is_help=True)
    inner.callback()(_root)  # one command alone must still be named
    inner.command("casbin")(casbin)
    group.add_typer(inner, name="import")


def _root() -> None:
    """Stands for `import`; it has no options of its own."""


def casbin(
    model: Annotated[Path, typer.Argument(help="Casbin's model.conf.")],
    policy: Annotated[Path, typer.Argument(help="Casbin's policy.csv.")],
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant of every line, where the model knows no domains.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle's folder, which must not exist yet.")],
    issuer: Annotated[str, typer.Option("--issuer", help="Alias of the identity provider of the policy's people.")] = "corp",
    agent: Annotated[list[str] | None, typer.Option("--agent", help="A name that is an agent; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say stock Casbin's files as a bundle, with a report of what could not be said.

    Exits with 1 where a line is not in the bundle. Where that could let through what Casbin denied, no bundle is written.

    [bold]Example[/bold]   bailiwick policy import casbin model.conf policy.csv --tenant acme --out policies
    """
    from policies.bundle import BundleError  # noqa: PLC0415  the command line pays for what it uses
    from policies.casbinimport import import_casbin  # noqa: PLC0415

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        misuse(f"{out} is there already", help="name a new folder: nothing is ever overwritten")
    texts = [_read(path) for path in (model, policy)]
    try:
        made = import_casbin(texts[0], texts[1], tenant=tenant, issuer=issuer, agents=frozenset(agent or ()))
    except ValueError as error:
        misuse(str(error))
    except BundleError as error:
        _refuse(model, error, as_json=as_json)
    if made.usable:
        _write(out, made)
    if as_json:
        print_json(_as_dict(made, out))
    else:
        _show(made, policy, out)
    raise typer.Exit(1 if made.unmapped else 0)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProblemError(Problem("unreadable", f"the file cannot be read: {error.strerror}", str(path))) from None
    if len(data) > MAX_BYTES:
        raise ProblemError(Problem("too-large", f"the file is larger than {MAX_BYTES} bytes", str(path)))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ProblemError(Problem("not-utf8", "the file is not UTF-8", str(path), "save it as UTF-8")) from None


def _refuse(model: Path, error: Exception, *, as_json: bool) -> None:
    """A model without a counterpart is a finding: the command ends with 1, and nothing is written."""
    from gateway.cli.output import print_problems  # noqa: PLC0415  the command line pays for what it uses

    found = getattr(error, "findings", ())
    place = [f"{model}:{f.line}:{f.column}" if f.line else str(model) for f in found]
    problems = [Problem(f.code, f.message, at, f.help, f.text, f.column) for f, at in zip(found, place, strict=True)]
    print_problems(problems, as_json=as_json)
    raise typer.Exit(1)


def _write(out: Path, made: Import) -> None:
    """The folder appears whole or not at all."""
    import shutil  # noqa: PLC0415  the command line pays for what it uses
    import tempfile  # noqa: PLC0415

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        misuse(f"{out} cannot be made: {error.strerror}")
    try:
        aside.chmod(0o755)
        for name, text in {**made.texts, REPORT: report(made)}.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
        aside.replace(out)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        misuse(f"{out} cannot be written: {error.strerror}")


def report(made: Import) -> str:
    """What a reader of the bundle has to know, as a page."""
    lines = ["# Imported from Casbin", "", "## Not in the bundle", ""]
    if not made.unmapped:
        lines.append("Every line of the policy is in the bundle.")
    for each in made.unmapped:
        lines.append(f"- line {each.line}: `{each.text.replace('`', ' ')}`")
        lines.append(f"  - Casbin: {each.casbin}")
        lines += [f"  - meant, perhaps: {each.meant}"] if each.meant else []
    lines += ["", "## To know", "", *(f"- {note}" for note in made.notes), "", "## Names", "", "| Casbin | here |", "|---|---|"]
    lines += [f"| `{theirs}` | `{ours}` |" for theirs, ours in sorted(made.names.items())]
    lines += [f"| `{obj}`, `{act}` | `{tool}` |" for (obj, act), tool in sorted(made.tools.items())]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _as_dict(made: Import, out: Path) -> dict[str, object]:
    return {
        "written": str(out) if made.usable else None,
        "unmapped": [
            {"line": u.line, "text": u.text, "casbin": u.casbin, "meant": u.meant, "widens": u.widens} for u in made.unmapped
        ],
        "notes": list(made.notes),
        "names": dict(made.names),
        "tools": [{"object": obj, "action": act, "tool": tool} for (obj, act), tool in made.tools.items()],
    }


def _show(made: Import, policy: Path, out: Path) -> None:
    screen = console()
    for each in made.unmapped:
        place = f"{policy}:{each.line}" if each.line else str(policy)
        screen.print("error: " if each.widens else "warning: ", style="bold red" if each.widens else "bold yellow", end="")
        help_ = f"\n  meant, perhaps: {each.meant}" if each.meant else ""
        screen.print(printable(f"{place}: not in the bundle\n    {each.text}\n  Casbin: {each.casbin}{help_}"), end="\n\n")
    for note in made.notes:
        screen.print(printable(f"note: {note}"))
    if made.usable:
        rules = made.texts["grants/imported.csv"].count("\n") - 1
        screen.print(printable(f"{out}: {rules} rules; {len(made.unmapped)} lines are not in it, see {out / REPORT}"))
    else:
        screen.print(
            "no bundle is written: lines above could let through what Casbin denied; change or remove them in the source"
        )
