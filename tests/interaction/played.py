"""Plays the demo on a copy of the example: `python played.py EXAMPLE FOLDER`; each step is a line of JSON as it ends."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from gateway.cli.demo_world import free_port, run_demo


class Lines:
    """A narrator for programs."""

    def note(self, text: str) -> None:
        pass

    def step(self, step: Any) -> None:
        print(json.dumps({"step": step.number, "ok": step.ok, "seen": list(step.seen)}), flush=True)

    def next(self, gateway: str, config: Path, workflows: dict[str, str]) -> None:
        pass


example, folder = map(Path, sys.argv[1:])
folder.mkdir()
asyncio.run(run_demo(example, folder, free_port(0), Lines(), stay=False))
