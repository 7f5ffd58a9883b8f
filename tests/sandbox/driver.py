"""Runs jobs in a process of its own: as another user, or as a gateway that can be killed.  A job a line in, a run a line out."""

import asyncio
import json
import sys
from pathlib import Path

from sandbox.bwrap import BwrapRunner
from sandbox.engine import CagedRunner
from sandbox.landlock import LandlockRunner
from sandbox.model import Guarantee, IsolationUnprovenError, Job, Limits, Profile, Strength
from sandbox.profiles import load_profiles
from sandbox.runner import Lasting, Program


async def main() -> None:
    options = json.loads(sys.argv[1])
    base = Path(options["base"]) if options.get("base") else None
    runner: CagedRunner
    if options.get("backend") == "bwrap":
        runner = BwrapRunner(base=base)
    else:
        runner = LandlockRunner(base=base, landlock_abi=options.get("landlock_abi"), warm=options.get("warm", 0))
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        if asked.get("probe"):
            answer = (await runner.probe()).to_dict()
        elif asked.get("serve"):
            profile = load_profiles()["no-network-512mb"]
            folder = Lasting(Path(asked["folder"]), 1 << 20) if asked.get("folder") else None
            served = await runner.serve(Program("driven", tuple(asked["serve"]), profile, folder=folder))
            answer = (await served.stdout.readline()).decode()
            if folder is not None:
                await served.end()
        else:
            requires = {Guarantee(name): Strength[word.upper()] for name, word in asked["requires"].items()}
            job = Job("driven", asked["code"], Profile("driven", Limits(**asked["limits"]), requires=requires))
            try:
                answer = (await runner.run(job)).to_dict()
            except IsolationUnprovenError as error:
                answer = {"refused": error.to_dict()}
        print(json.dumps(answer), flush=True)
    await runner.aclose()


if __name__ == "__main__":
    asyncio.run(main())
