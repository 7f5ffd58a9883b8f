"""What is to be seen of the servers that the gateway starts: how many processes, how they fare, what they use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway import signals
from gateway.mcp.stdio import StdioServer
from gateway.prometheus import Family, Sample
from gateway.sandbox.usage import Usage, usage_of

LOOK_SECONDS: Final = 10.0


class Gauges:
    """Counts are as they are now; what processes use is as it was when somebody last looked, `LOOK_SECONDS` ago at most."""

    def __init__(self, seconds: float = LOOK_SECONDS) -> None:
        self._seconds = seconds
        self._servers: list[StdioServer] = []
        self._used: dict[str, Usage] = {}
        self._looking: asyncio.Task[None] | None = None

    def watch(self, servers: Iterable[StdioServer]) -> None:
        """Look at these from now on."""
        self._servers += servers
        if self._servers and self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="stdio usage")

    async def aclose(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    def families(self) -> Iterator[Family]:
        """By server: a closed list, from the settings."""
        servers: Sequence[StdioServer] = self._servers
        for name, kind, text, value in (
            (signals.STDIO_PROCESSES, "gauge", "Processes of a server on stdio.", lambda server: server.running()),
            (signals.STDIO_STARTS, "counter", "Processes of a server that were started.", lambda server: server.crew.starts),
            (signals.STDIO_RESTARTS, "counter", "Of these the ones after a failure.", lambda server: server.crew.restarts),
            (
                signals.STDIO_FAILURES,
                "counter",
                "Those that failed, or did not come up.",
                lambda server: server.crew.failures,
            ),
            (signals.STDIO_HEALTHY, "gauge", "0 while a server fails again and again.", lambda server: int(server.crew.healthy)),
            (signals.STDIO_MEMORY, "gauge", "Resident bytes of all below a server.", lambda server: self._of(server).resident),
            (signals.STDIO_CPU, "gauge", "Processor seconds of what runs now.", lambda server: self._of(server).cpu),
        ):
            samples = [Sample({"server": server.name}, value(server)) for server in servers]
            yield Family(name, "counter" if kind == "counter" else "gauge", text, samples)

    def _of(self, server: StdioServer) -> Usage:
        return self._used.get(server.name, Usage())

    async def _look(self) -> None:
        while True:
            pids = {server.name: [member.child.pid for member in server.crew] for server in self._servers}
            found = await asyncio.to_thread(usage_of, [pid for each in pids.values() for pid in each])
            self._used = {name: sum((found.get(pid, Usage()) for pid in each), Usage()) for name, each in pids.items()}
            await asyncio.sleep(self._seconds)
