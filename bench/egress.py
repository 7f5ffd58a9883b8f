"""The way out of the sandbox: the campaign of its parsers, and what the proxy costs.

    python -m bench.egress --count 200000 --json

Parsers: heads against a grammar written apart, and damaged ClientHellos against OpenSSL's own server, from a printed seed.
Cost: bytes and connections through the proxy of a cage's network, beside the same without it, in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import socket
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.egress.test_head import disagreements
from tests.egress.test_hello import NAME, fooled
from tests.egress.world import World, world
from tests.upstream.certificates import self_signed

MEGABYTES = 256
CONNECTIONS = 200
ROUNDS = 5


def campaign(count: int, seed: int) -> dict[str, Any]:
    """How many inputs, and those on which somebody was wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*self_signed(Path(folder), NAME.decode()))
    began = time.monotonic()
    heads, hellos = list(disagreements(count, seed)), list(fooled(context, count, seed))
    return {
        "seed": seed, "heads": count, "hellos": count, "seconds": round(time.monotonic() - began, 1),
        "wrong": [data.hex() for data in (*heads, *hellos)],
    }  # fmt: skip


async def cost() -> dict[str, float]:
    """Time for bytes, as a ratio to a connection without the proxy; milliseconds until a connection stands, on record."""
    with tempfile.TemporaryDirectory() as folder:
        async with world(Path(folder)) as made, made.listening("api.example.com", _source, plain=True) as target:
            made.start(bytes=1 << 40, connections=1 << 16)
            port = int(target.rpartition(":")[2])
            direct, proxied = [], []
            for _ in range(ROUNDS):
                direct.append(await asyncio.to_thread(_pull, socket.create_connection(("127.0.0.1", port))))
                proxied.append(await asyncio.to_thread(_pull, _by_proxy(made, target)))
            opening = await asyncio.to_thread(_open_many, made, target)
    return {
        "bytes": round(statistics.median(proxied) / statistics.median(direct), 2),
        "megabytes_per_second": round(MEGABYTES / statistics.median(proxied)),
        "connection_ms": round(opening, 2),
    }


async def _source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.read(1):
        for _ in range(MEGABYTES * 16):
            writer.write(b"x" * 65536)
            await writer.drain()


def _by_proxy(made: World, target: str) -> socket.socket:
    side = made.cage.connect()
    side.setblocking(True)
    side.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    return side


def _answered(side: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += side.recv(1)


def _pull(side: socket.socket) -> float:
    with side:
        if side.getpeername()[1] == 3128:
            _answered(side)
        began, got, room = time.perf_counter(), 0, bytearray(1 << 18)
        side.sendall(b"x")
        while more := side.recv_into(room):
            got += more
        if got != MEGABYTES << 20:
            raise SystemExit(f"{got} bytes came")
        return time.perf_counter() - began


def _open_many(made: World, target: str) -> float:
    began = time.perf_counter()
    for _ in range(CONNECTIONS):
        with _by_proxy(made, target) as side:
            _answered(side)
    return (time.perf_counter() - began) * 1000 / CONNECTIONS


def main() -> int:
    """Run both; 1 where a parser was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = {
        "campaign": campaign(chosen.count, secrets.randbits(32) if chosen.seed is None else chosen.seed),
        "cost": asyncio.run(cost()),
    }
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        made, costs = found["campaign"], found["cost"]
        print(f"parsers: {made['heads']} heads and {made['hellos']} hellos from seed {made['seed']}: {len(made['wrong'])} wrong")
        print(f"proxy: {costs['bytes']} times the time of a plain connection, {costs['megabytes_per_second']} MB/s;", end=" ")
        print(f"{costs['connection_ms']} ms to open a connection, recorded")
    return 1 if found["campaign"]["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
