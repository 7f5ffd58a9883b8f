"""A gateway whose code runs elsewhere: the runner's own process, its cages, and nothing here that stands in for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.interaction.world import Gateway, Peers
from tests.sandbox_road.world import calling, ran, sandboxed


def runner_at(path: Path) -> subprocess.Popen[str]:
    """The runner's process, once it serves."""
    command = [sys.executable, "-m", "gateway.cli", "sandbox", "runner", "--listen", f"unix:{path}"]
    process = subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert " serves: " in said, said
    return process


def ended(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate(timeout=30)


async def test_code_runs_at_the_runner_and_nowhere_else(upstreams: Peers, tmp_path: Path) -> None:
    path = tmp_path / "runner.sock"
    gateway: Gateway = sandboxed(tmp_path / "gateway", upstreams, runner={"socket": str(path)})
    process = runner_at(path)
    try:
        gateway.start()
        token = gateway.token("paul")
        run = (await ran(gateway, token, "print(6 * 7)")).structured_content
        assert (run["reason"], run["stdout"]) == ("ok", "42\n"), run
        assert run["backend"].startswith("runner:")
        (start,) = gateway.records(kind="sandbox.start", call=run["id"])
        (end,) = gateway.records(kind="sandbox.end", call=run["id"])
        assert start.leaf["backend"] == "runner"
        assert end.leaf["guarantees"]["net_none"] == "hard"
        called = (await ran(gateway, token, calling("desk.read"), profile="tooled")).structured_content
        assert "desk.read" in called["stdout"], called  # a tool, called back through the gateway
        ended(process)
        refused = await ran(gateway, token, "print(6 * 7)")
        assert refused.is_error
        assert "isolation-unproven" in refused.content[0].text  # no cage of this machine stands in
        process = runner_at(path)
        again = (await ran(gateway, token, "print(6 * 7)")).structured_content
        assert again["reason"] == "ok"
    finally:
        gateway.stop()
        ended(process)
