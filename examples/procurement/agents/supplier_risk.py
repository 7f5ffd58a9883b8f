"""Assesses a supplier: asks the risk desk, then works the score out again in code that runs in the gateway's sandbox.

Asked with `"probe": true`, it also runs code that tries to leave the sandbox, and reports what became of it inside.
"""

from __future__ import annotations

import json
from typing import Any

from gateway_client import Outcome, call_tool
from scripted_agent import Answer, gave_up, misunderstood, ok, serve

SCORE = """\
import json
figures = json.loads({figures!r})
print(json.dumps({{"score": round(sum(figures.values()) / len(figures))}}))
"""

PROBE = """\
import json
def attempt(what):
    try:
        what()
    except BaseException as error:
        return type(error).__name__
    return "succeeded"
def read_outside():
    with open("/etc/passwd") as file:
        file.read(1)
def open_socket():
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
print(json.dumps({"read /etc/passwd": attempt(read_outside), "open a socket": attempt(open_socket)}))
"""


async def script(request: dict[str, Any], delegation: str) -> Answer:
    if request.get("intent") != "assess":
        return misunderstood(request)
    scored = await call_tool("risk", "score", {"supplier": request["supplier"]}, delegation)
    if scored.status != "ok":
        return gave_up(scored)
    calls = [scored, await run(SCORE.format(figures=json.dumps(scored.value["figures"])), delegation)]
    answer: dict[str, Any] = {"score": scored.value["score"], "computed": printed(calls[1])}
    if request.get("probe"):
        calls.append(await run(PROBE, delegation))
        answer["probe"] = printed(calls[2])
    return ok(*calls, **answer)


async def run(code: str, delegation: str) -> Outcome:
    return await call_tool("sandbox", "run_python", {"code": code, "network": False, "memory_mb": 256}, delegation)


def printed(run: Outcome) -> dict[str, Any]:
    """The JSON object that the code printed; {} where it did not get so far (the call's own outcome says why)."""
    try:
        value = json.loads(run.value.get("stdout", ""))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


if __name__ == "__main__":
    serve(script, description="Assesses suppliers", intents=("assess",))
