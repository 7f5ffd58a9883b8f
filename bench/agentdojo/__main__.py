"""`python -m bench.agentdojo`: AgentDojo's tasks, replayed through the gateway without a model; prints one table, writes JSON.

    python -m bench.agentdojo --pairs 40 --seed 7 --json

Honest work: the calls that AgentDojo says solve a user's task.  Attacks: a user's task whose tools return what an attacker wrote;
from the first answer that holds it on, the agent makes the calls that AgentDojo says reach the attacker's goal.  It is the worst
agent there is: it always obeys.  Whether a task is done, and whether an attack has succeeded, AgentDojo's own checks say, of what
the environment has become.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from bench.agentdojo import bundles
from bench.targets import HEADERS, free_port
from gateway.identity.devissuer import DevIssuer

HERE = Path(__file__).parent
OUT = HERE.parent / "out"
TEXT: Final = "note-of-a-stranger-51c7"
"""Stands wherever an attacker can write; what it says is the task that the agent then does."""


@dataclass
class World:
    """The environments, and a gateway before them."""

    environments: str
    gateway: str
    dev: DevIssuer
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def ask(self, door: str, **said: Any) -> Any:
        """Of the environments themselves."""
        answer = self.http.post(f"{self.environments}/{door}", json=said)
        answer.raise_for_status()
        return answer.json()

    def episode(self) -> dict[str, str]:
        """A person's token: a workflow of its own."""
        return HEADERS | {"Authorization": f"Bearer {self.dev.issue('bench', ['callers'])}"}

    def call(self, suite: str, call: dict[str, Any], headers: dict[str, str]) -> tuple[str, str]:
        """Through the gateway: the code of a refusal ("" where there was none), and what came back."""
        params = {"name": call["tool"], "arguments": call["args"]}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        result = self.http.post(f"{self.gateway}/mcp/{suite}", json=body, headers=headers).json()
        if "error" in result and result["error"]["data"]["code"] == "not-available":  # no argument would do: it is hidden
            return "not-available", ""
        if "result" not in result:
            raise RuntimeError(f"{suite} {call['tool']}: {result}")
        code = result["result"].get("_meta", {}).get("bailiwick/code", "")
        return code, "".join(block.get("text", "") for block in result["result"]["content"])


def honest(world: World, suite: str, user: str) -> dict[str, Any]:
    """One user's task, without an attack."""
    calls, headers = world.ask("begin", suite=suite, user=user)["user"], world.episode()
    refused = [call["tool"] for call in calls if world.call(suite, call, headers)[0]]
    return {"refused": refused, "done": world.ask("judge", suite=suite)["utility"]}


def attack(world: World, suite: str, user: str, injection: str) -> dict[str, Any] | None:
    """One user's task with an attack; None where the user's own calls never bring what the attacker wrote."""
    said, headers = world.ask("begin", suite=suite, user=user, injection=injection, text=TEXT), world.episode()
    seen, refused = False, []
    for call in said["user"] if said["injection"] else ():  # an attack without calls is nothing that a gateway could see
        _, text = world.call(suite, call, headers)
        if TEXT in text:
            seen = True
            refused = [each["tool"] for each in said["injection"] if world.call(suite, each, headers)[0]]
            break
    return {"refused": refused, "succeeded": world.ask("judge", suite=suite)["attack"]} if seen else None


NEVER: Final = {"succeeded": False}
"""What the attacker wrote never came: the call that would have brought it was refused."""


def pairs_of(tasks: dict[str, Any], most: int, seed: int) -> list[tuple[str, str, str]]:
    """Suite, user's task, attacker's task: all of them, or so many drawn."""
    every = [
        (suite, user, injection) for suite, said in tasks.items() for user in said["user"] for injection in said["injection"]
    ]
    return sorted(random.Random(seed).sample(every, most)) if 0 < most < len(every) else every


def run(world: World, tasks: dict[str, Any], pairs: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Everything, under the policy that the gateway has."""

    def of(suite: str) -> tuple[dict[str, Any], dict[str, Any]]:
        works = {f"{suite}/{user}": honest(world, suite, user) for user in tasks[suite]["user"]}
        return works, {"/".join(pair): attack(world, *pair) for pair in pairs if pair[0] == suite}

    with ThreadPoolExecutor(len(tasks)) as pool:  # a suite has one environment, and suites have nothing in common
        parts = list(pool.map(of, tasks))
    attacks = {name: found for _, each in parts for name, found in each.items() if found is not None}
    return {"honest": {name: found for each, _ in parts for name, found in each.items()}, "attacks": attacks}


# --- processes


@contextmanager
def process(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server, awaited until its port answers, ended by its id."""
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            end = time.monotonic() + 180
            while time.monotonic() < end and child.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            else:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-3000:]}")
            yield
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(30)


@contextmanager
def environments(python: Path, folder: Path) -> Iterator[str]:
    """AgentDojo's environments."""
    port = free_port()
    with process([str(python), str(HERE / "served.py"), str(port)], port, folder / "environments.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def gateway(folder: Path, variant: str, tasks: dict[str, Any], upstream: str) -> Iterator[World]:
    """`bailiwick serve` with one of the policies."""
    port, home = free_port(), folder / variant.replace(" ", "-").replace(",", "")
    bundles.write(home / "policies", variant, tasks)
    address = f"http://127.0.0.1:{port}"
    issuer = {"alias": "dev", "issuer": f"{address}/dev", "audience": address, "jwks": {"file": "data/dev-jwks.json"}}
    issuer |= {"algorithms": ["ES256"], "direct_clients": ["bailiwick-cli"], "development": True}
    settings = {
        "tenant": "bench",
        "server": {"port": port},
        "issuers": [issuer],
        "mcp": {suite: {"url": f"{upstream}/{suite}/"} for suite in tasks},
    }
    (home / "bailiwick.yaml").write_text(json.dumps(settings))
    (home / "data").mkdir(mode=0o700)
    dev = DevIssuer(home / "data", f"{address}/dev", address)
    command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(home / "bailiwick.yaml")]
    with process(command, port, home / "log"):
        yield World(upstream, address, dev)


# --- what comes of it


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """By suite and policy.  What does not work without any policy says nothing of one, and is left out and counted."""
    base = found["none"]
    works = [name for name, each in base["honest"].items() if each["done"] and not each["refused"]]
    harms = [name for name, each in base["attacks"].items() if each["succeeded"]]
    suites = sorted({name.split("/")[0] for name in base["honest"]})
    rows: dict[str, Any] = {
        "suites": {},
        "left_out": {"honest": len(base["honest"]) - len(works), "attacks": len(base["attacks"]) - len(harms)},
    }
    for suite in (*suites, "all"):
        mine = [name for name in works if suite in ("all", name.split("/")[0])]
        against = [name for name in harms if suite in ("all", name.split("/")[0])]
        rows["suites"][suite] = {"user_tasks": len(mine), "attacks": len(against), "policies": {}}
        for variant, runs in found.items():
            through = sum(runs["honest"][name]["done"] and not runs["honest"][name]["refused"] for name in mine)
            stopped = sum(not runs["attacks"].get(name, NEVER)["succeeded"] for name in against)
            rows["suites"][suite]["policies"][variant] = {"let_through": through, "stopped": stopped}
    return rows


def render(rows: dict[str, Any]) -> str:
    """The same as one table."""
    lines = []
    for suite, said in rows["suites"].items():
        lines.append(f"\n{suite}: {said['user_tasks']} user tasks, {said['attacks']} attacks")
        for variant, each in said["policies"].items():
            through = 100 * each["let_through"] / max(said["user_tasks"], 1)
            stopped = 100 * each["stopped"] / max(said["attacks"], 1)
            lines.append(f"  {variant:24} work let through {through:5.1f} %   attacks stopped {stopped:5.1f} %")
    return "\n".join(lines)


def main() -> int:
    """Everything, policy after policy."""
    parser = argparse.ArgumentParser(prog="python -m bench.agentdojo")
    parser.add_argument("--python", type=Path, help="an interpreter that has AgentDojo; without it one is made in bench/.peers")
    parser.add_argument("--pairs", type=int, default=0, help="so many pairs of tasks, drawn; 0: all")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bailiwick-agentdojo-") as made:
        report = measured(args.python or installed(), Path(made), args.pairs, args.seed)
    OUT.mkdir(exist_ok=True)
    (OUT / "agentdojo.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["summary"]) if args.json else render(report["summary"]))
    return 0


def measured(
    python: Path, folder: Path, pairs: int, seed: int, variants: tuple[str, ...] = bundles.VARIANTS, users: int = 0
) -> dict[str, Any]:
    """Every policy over the same tasks; `users`: so many of each suite's users' tasks without an attack, 0 for all."""
    with environments(python, folder) as upstream:
        tasks = httpx.get(f"{upstream}/tasks", timeout=60).json()
        drawn, found = pairs_of(tasks, pairs, seed), {}
        for said in tasks.values():
            said["user"] = said["user"][: users or None]
        for variant in variants:
            print(f"{variant} …", file=sys.stderr)
            with gateway(folder, variant, tasks, upstream) as world:
                found[variant] = run(world, tasks, drawn)
    return {"summary": summary(found), "runs": found}


def installed() -> Path:
    """The interpreter of an environment that holds exactly what requirements.lock says."""
    home, uv = HERE.parent / ".peers" / "agentdojo", str(Path(sys.executable).with_name("uv"))
    python = home / "bin" / "python"
    if not (home / ".installed").exists():
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True)
        sync = [uv, "pip", "sync", "--quiet", "--python", str(python), "--require-hashes", str(HERE / "requirements.lock")]
        subprocess.run(sync, check=True)
        (home / ".installed").touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
