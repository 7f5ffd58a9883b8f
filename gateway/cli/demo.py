"""`bailiwick demo`: the gateway as `bailiwick serve` runs it, the procurement world around it, and the story played once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from rich.console import Console

MARKER = ".bailiwick-demo"
INTERRUPTED = 130  # as shells say it; a story that was not told to its end did not go as told


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the story: 0 if every step went as told, else 1.")] = False,
    folder: Annotated[Path, typer.Option("--folder", help="Where settings, keys, ledger and logs go; made anew.")] = Path(
        ".demo"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 8080,
    as_json: Annotated[bool, typer.Option("--json", help="The story as one JSON object on stdout; implies --once.")] = False,
) -> None:
    """Play the procurement story through a real gateway on 127.0.0.1, then keep serving until Ctrl-C.

    [bold]Example[/bold]   bailiwick demo --once
    """
    import asyncio  # noqa: PLC0415  the command line pays for what it uses
    import sys  # noqa: PLC0415

    here = _example()
    mark = _prepare(folder)
    from gateway.cli.demo_world import free_port, run_demo  # noqa: PLC0415

    out = console(stderr=as_json)
    try:
        steps = asyncio.run(run_demo(here, folder.resolve(), free_port(port), _Narrator(out), stay=not (once or as_json)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        out.print("\nended")
        sys.exit(INTERRUPTED if once or as_json else 0)
    finally:
        mark.close()
    if as_json:
        print_json({"steps": [{"step": s.number, "told": s.told, "ok": s.ok, "seen": list(s.seen)} for s in steps]})
    sys.exit(0 if all(step.ok is not False for step in steps) else 1)


class _Narrator:
    """Tells a person what happens, as it happens."""

    def __init__(self, out: Console) -> None:
        self._out = out

    def note(self, text: str) -> None:
        """A line about the stage itself."""
        self._out.print(printable(text), style="dim")

    def step(self, step: Any) -> None:
        """One step: what was told, what was seen, and whether they agree."""
        verdict, style = {True: ("as told", "green"), False: ("NOT AS TOLD", "bold red"), None: ("SKIPPED", "bold yellow")}[
            step.ok
        ]
        self._out.print(f"\nStep {step.number}", style="bold", end="  ")
        self._out.print(verdict, style=style)
        self._out.print(printable(step.told), style="italic", soft_wrap=not self._out.is_terminal)
        for seen in step.seen:
            for line in printable(seen).split("\n"):
                self._seen(f"   {line}")

    def _seen(self, line: str) -> None:
        """Whole for a program; for a person wrapped below its own beginning, and a tree's branch cut at the edge."""
        if not self._out.is_terminal:
            self._out.print(line)
        elif line.lstrip()[:1] in ("│", "├", "└"):
            self._out.print(line, soft_wrap=False, no_wrap=True, overflow="ellipsis")
        else:
            from rich.padding import Padding  # noqa: PLC0415

            text = line.lstrip(" ")
            self._out.print(Padding(text, (0, 0, 0, len(line) - len(text))), soft_wrap=False)

    def next(self, gateway: str, config: Path, workflows: dict[str, str]) -> None:
        """What to try, now that it runs."""
        settings = f"--config {_near(config)}"
        steered = workflows.get("steered", "WORKFLOW")
        self._out.print("\nIt goes on serving.  In another terminal:", style="bold")
        mia = "--for user:dev/mia --groups marketing-managers --via campaign-reporter,procurement-analyst,erp-integration"
        order = """'{"supplier": "S-77", "amount": 500, "currency": "EUR"}'"""
        for what, *commands in (
            ("the tree of Mia's steered workflow", f".venv/bin/bailiwick audit trace {steered} --reason 'to try it' {settings}"),
            ("what was recorded last", f".venv/bin/bailiwick audit tail {settings}"),
            ("check the ledger as a stranger would", f"python3 audit/verify.py {_near(config.parent)}/data/ledger.db"),
            ("why may Mia not?", f".venv/bin/bailiwick explain {mia} --call erp.write_po --args {order} {settings}"),
            (
                "who does the gateway think that I am?",
                f"TOKEN=$(.venv/bin/bailiwick token --user paul {settings})",
                f'curl -s {gateway}/api/whoami -H "Authorization: Bearer $TOKEN"',
            ),
            ("health, metrics, API", f"{gateway}/readyz  {gateway}/metrics  {gateway}/api/openapi.json"),
            (
                "edit the rules, and ask `explain` again (the next demo begins with the example's)",
                f"{_near(config.parent)}/policies",
            ),
        ):
            self._out.print(f"  {what}", style="dim")
            for command in commands:
                self._out.print(f"    {command}")
        self._out.print("\nCtrl-C ends it.", style="bold")


def _near(path: Path) -> Path:
    """Relative to where the person stands, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _example() -> Path:
    """The folder of the example: in a checkout, or inside the installed package."""
    places = (Path(__file__).parents[2] / "examples" / "procurement", Path(__file__).parent / "_procurement")
    folder = next((place for place in places if (place / "story.py").is_file()), None)
    if folder is None:
        misuse("the example is not part of this installation", help="run it in a checkout")
    try:
        import a2a.server.routes  # noqa: F401, PLC0415
        import mcp.server.mcpserver  # noqa: F401, PLC0415
    except ImportError:
        misuse("the demo's agents and tool servers need the official SDKs", help="pip install 'bailiwick[demo]'")
    return folder


def _prepare(folder: Path) -> TextIO:
    """An empty folder: made, or one of an earlier demo made anew; anything else is left alone.

    It is this demo's while what is returned is open.
    """
    import fcntl  # noqa: PLC0415
    import shutil  # noqa: PLC0415

    if folder.exists():
        if not (folder / MARKER).is_file():
            misuse(f"{folder} exists and was not made by a demo", help="name another folder: --folder DIR")
        with (folder / MARKER).open() as earlier:
            try:
                fcntl.flock(earlier, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                misuse(f"a demo is running in {folder}", help="end it, or name another folder: --folder DIR")
            shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)
    mark = (folder / MARKER).open("w")
    fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mark.write("Made by `bailiwick demo`, which makes this folder anew each time.\n")
    mark.flush()
    return mark
