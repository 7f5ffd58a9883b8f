"""Starts one server in a cage and has it do something, in a process of its own: as another user, or as a gateway to be killed."""

import asyncio
import json
import sys

from gateway.model import wall_clock
from gateway.sandbox.server_records import Ledger
from gateway.sandbox.servers import Servers
from gateway.upstream.registry import McpTarget
from sandbox.bwrap import BwrapRunner
from sandbox.interpreter import choose, own_uids
from sandbox.landlock import LandlockRunner
from sandbox.profiles import load_profiles


async def main() -> None:
    told = json.loads(sys.argv[1])
    runner = BwrapRunner() if told["backend"] == "bwrap" else LandlockRunner()
    servers = Servers(load_profiles(), [runner], Ledger(None, wall_clock))
    python = choose(65534 if own_uids() else None).path
    target = McpTarget("driven", "stdio", command=(python, told["script"]), environment={"MARK": told["mark"]})
    child = await servers.start(target, None)
    message = {"id": 1, "method": "tools/call", "params": {"arguments": {"code": told["code"]}}}
    child.stdin.write(json.dumps(message).encode() + b"\n")
    answer = json.loads(await child.stdout.readline())
    print(answer["result"]["content"][0]["text"], flush=True)
    if told["stay"]:
        await asyncio.Event().wait()
    await child.end()
    await servers.aclose()


asyncio.run(main())
