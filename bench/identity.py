"""`python -m bench.identity`: what it costs to know who calls, beside PyJWT on the same tokens; prints bars, writes JSON.

Signatures are most of a fresh token's cost, and PyJWT makes the same ones with the same library: a ratio says what all our checks
add.  Times are the thread's own; rounds of everything are interleaved with a yardstick, as in `bench.decisions`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import http.client
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from audit.model import Entry, Receipt
from bench.decisions import YARDSTICK_REFERENCE_US, yardstick
from bench.targets import GATEWAY_CORE, configure, free_port, process
from gateway.identity.agents import Remembered, new_secret
from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import DELEGATION_TYPE, Delegations
from gateway.identity.devissuer import DevIssuer
from gateway.identity.dpop import Proofs
from gateway.identity.keys import b64url, es256_jwk
from gateway.identity.killed import Names
from gateway.identity.revocation import Kills
from gateway.identity.signing import KeyRing
from gateway.identity.token import read
from gateway.model import Arrival, Principal, Trace, new_id, wall_clock
from gateway.settings import Agent, AgentAuth
from gateway.state.kills import Kill, KillRows, Mark

OUT: Final = Path(__file__).parent / "out"
URL: Final = "http://127.0.0.1:8080"
BAR_SEEN_US: Final = 10.0
BAR_ALIVE_US: Final = 2.0
BAR_RATIO: Final = 2.0
KILLS: Final = 10_000

Batch = Callable[[], Awaitable[int]]
"""Does something many times, and says how often."""


class Table(KillRows):
    """A table of kills that was read already: what is measured is asking, for every call, not reading."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def read(self, _known: Mark | None) -> tuple[Mark, list[Kill] | None]:
        """Users, agents, workflows and branches, none of them ours."""
        kinds = ("user", "agent", "workflow", "branch", "token")
        targets = ("user:dev/gone-{}", "agent:gone-{}", "wf-{:026x}", "branch-{}", "token-{}")
        made = [(kinds[n % 5], targets[n % 5].format(n)) for n in range(self._count)]
        return (self._count, 0), [
            Kill(str(n), kind, name, None, "left", "api", "user:dev/warden", 1) for n, (kind, name) in enumerate(made)
        ]


async def _append(_entry: Entry) -> Receipt:
    raise NotImplementedError  # nothing here is killed


async def kills(count: int) -> Kills:
    """In force, and never too old."""
    made = Kills(
        Table(count),
        _append,
        names=Names("bench", frozenset(), frozenset(), frozenset()),
        issuers=[f"{URL}/dev"],
        stale_seconds=1e6,
    )
    await made.refresh()
    return made


class World:
    """A gateway's identity part with one issuer, and what callers show to it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.issuer = DevIssuer(folder, f"{URL}/dev", URL)
        self.delegations = Delegations(KeyRing.of(ec.generate_private_key(ec.SECP256R1())), URL)
        self.agents = {"reader": Agent(auth=AgentAuth(bearer_ok=True)), "analyst": Agent(client_ids=("analyst-app",))}
        self.authenticator = Authenticator(
            tenant="bench",
            public_url=URL,
            issuers=[self.issuer.settings()],
            agents=self.agents,
            delegations=self.delegations,
        )
        self.proofs = Proofs(URL, Remembered().use)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pyjwt_key = jwt.PyJWK(json.loads(self.issuer.jwks.read_text())["keys"][0])
        self.principal = Principal(
            "user:dev/paul", (), "bench", "wf-" + "0" * 26, int(time.time()) + 3600, "bearer", "0" * 64, frozenset({"buyers"})
        )

    def person(self) -> str:
        """A token that nobody has seen."""
        return self.issuer.issue("paul", ["buyers", "everybody"])

    def proof(self, token: str) -> str:
        """A DPoP proof for one call."""
        jwk = {name: value for name, value in es256_jwk(self.key.public_key()).items() if name in {"kty", "crv", "x", "y"}}
        ath = b64url(hashlib.sha256(token.encode()).digest())
        claims = {"jti": new_id(wall_clock()), "htm": "POST", "htu": f"{URL}/mcp/erp", "iat": int(time.time()), "ath": ath}
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": jwk})

    def arrival(self, *headers: tuple[str, str]) -> Arrival:
        """A call with these headers, found by name as the gateway's front finds them."""
        at = wall_clock()
        found = {name: (value,) for name, value in headers}
        trace = Trace("0" * 31 + "1", "0" * 15 + "1")
        return Arrival(new_id(at), "mcp", "erp", headers, b"", at, trace, url_path="/mcp/erp", found=found)


def seen(world: World) -> Batch:
    """A token that was seen a moment ago: the whole of who calls."""
    arrival = world.arrival(("authorization", f"Bearer {world.person()}"))

    async def batch() -> int:
        await world.authenticator(arrival)  # the first is a fresh one among very many
        for _ in range(world.number * 20):
            await world.authenticator(arrival)
        return world.number * 20 + 1

    return batch


def fresh(world: World) -> Batch:
    """The same for tokens that nobody has seen."""
    arrivals = [world.arrival(("authorization", f"Bearer {world.person()}")) for _ in range(world.number)]

    async def batch() -> int:
        for arrival in arrivals:
            await world.authenticator(arrival)
        return world.number

    return batch


def fresh_pyjwt(world: World) -> Batch:
    """PyJWT's own work on such tokens."""
    tokens = [world.person() for _ in range(world.number)]

    async def batch() -> int:
        for token in tokens:
            jwt.decode(token, world.pyjwt_key, algorithms=["ES256"], audience=URL, issuer=f"{URL}/dev")
        return world.number

    return batch


def delegation(world: World) -> Batch:
    """Delegation tokens that nobody has seen."""
    tokens = [world.delegations.mint(world.principal, "reader", "call") for _ in range(world.number)]

    async def batch() -> int:
        for token in tokens:
            world.delegations.verify(token)
        return world.number

    return batch


def mint(world: World) -> Batch:
    """Delegation tokens, made."""

    async def batch() -> int:
        for _ in range(world.number):
            world.delegations.mint(world.principal, "reader", "call")
        return world.number

    return batch


def mint_pyjwt(world: World) -> Batch:
    """PyJWT's own work for tokens with the same claims."""
    claims = dict(read(world.delegations.mint(world.principal, "reader", "call")).unverified_claims)

    async def batch() -> int:
        for _ in range(world.number):
            jwt.encode(claims, world.key, algorithm="ES256", headers={"typ": DELEGATION_TYPE, "kid": "k"})
        return world.number

    return batch


def proof(world: World) -> Batch:
    """DPoP proofs of one call each."""
    token = world.person()
    arrivals = [world.arrival(("dpop", world.proof(token))) for _ in range(world.number)]

    async def batch() -> int:
        now = int(time.time())
        for arrival in arrivals:
            await world.proofs.check(arrival, token, now)
        return world.number

    return batch


def proof_pyjwt(world: World) -> Batch:
    """PyJWT's own work on such proofs."""
    proofs = [world.proof("token") for _ in range(world.number)]

    async def batch() -> int:
        for each in proofs:
            key = jwt.PyJWK(jwt.get_unverified_header(each)["jwk"])
            jwt.decode(each, key, algorithms=["ES256"])
        return world.number

    return batch


def asked(in_force: Kills, world: World) -> Batch:
    """Whether anybody of a chain is killed."""
    check = in_force.alive

    async def batch() -> int:
        for _ in range(world.number * 50):
            check(world.principal)
        return world.number * 50

    return batch


PLAIN: Final[dict[str, Callable[[World], Batch]]] = {
    "seen": seen,
    "fresh": fresh,
    "fresh, PyJWT": fresh_pyjwt,
    "delegation": delegation,
    "mint": mint,
    "mint, PyJWT": mint_pyjwt,
    "proof": proof,
    "proof, PyJWT": proof_pyjwt,
}


async def measured(world: World, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """µs each, a value a round; and the yardstick's."""
    made = PLAIN | {f"alive, {count} kills": partial(asked, await kills(count)) for count in (0, KILLS)}
    taken: dict[str, list[float]] = {name: [] for name in made}
    sticks = []
    for _ in range(rounds):
        sticks.append(min(yardstick() for _ in range(5)))
        for name, make in made.items():
            batch = make(world)
            began = time.thread_time_ns()
            count = await batch()
            taken[name].append((time.thread_time_ns() - began) / 1000 / count)
    await world.authenticator.close()
    return taken, sticks


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[int, str, str]]:
    """`bailiwick serve` with one agent that has a secret: port, secret, and a person's token that was issued to that agent."""
    home, port = folder / "exchange", free_port()
    home.mkdir()
    token = configure(home, port, "http://127.0.0.1:9", 10)
    secret, digest = new_secret("bench")
    settings = home / "bailiwick.yaml"
    settings.write_text(
        settings.read_text().replace(
            "client_ids: [bench-agent]", f"client_ids: [bench-agent], auth: {{secret_sha256: [{digest}]}}"
        )
    )
    command = [str(Path(sys.executable).with_name("bailiwick")), "serve", "--config", str(settings)]
    with process(command, GATEWAY_CORE, port, folder / "exchange.log"):
        yield port, secret, token


def exchanged(folder: Path, number: int) -> dict[str, float]:
    """Milliseconds on the wall of `/oauth/token`, one after the other on one connection; and of the cheapest answer there."""
    with gateway(folder) as (port, secret, token):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        basic = base64.b64encode(f"bench:{secret}".encode()).decode()
        kind = "urn:ietf:params:oauth:token-type:access_token"
        body = urllib.parse.urlencode(
            {
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": token,
                "subject_token_type": kind,
                "requested_token_type": kind,
            }
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Basic {basic}"}

        def once(method: str, path: str, data: str | None, lines: dict[str, str]) -> float:
            began = time.perf_counter()
            connection.request(method, path, data, lines)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                sys.exit(f"{path} answered {answer.status}: {text[:300]!r}")
            return (time.perf_counter() - began) * 1000

        once("POST", "/oauth/token", body, headers)
        tokens = [once("POST", "/oauth/token", body, headers) for _ in range(number)]
        floor = [once("GET", "/healthz", None, {}) for _ in range(number)]
        connection.close()
    ordered = sorted(tokens)
    return {
        "p50_ms": round(statistics.median(tokens), 2),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 2),
        "healthz_p50_ms": round(statistics.median(floor), 2),
    }


def measure(rounds: int, number: int, exchanges: int) -> dict[str, Any]:
    """Medians over interleaved rounds, and the bars."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taken, sticks = asyncio.run(measured(World(folder, number), rounds))
        exchange = exchanged(folder, exchanges) if exchanges else None
    rows = {name: {"us": round(statistics.median(each), 2), "best_us": round(min(each), 2)} for name, each in taken.items()}
    report: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}, Python {platform.python_version()}",
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "rounds": rounds,
        "yardstick_us": round(statistics.median(sticks), 1),
        "slower_than_reference": round(statistics.median(sticks) / YARDSTICK_REFERENCE_US, 2),
        "us": rows,
        "ratio_to_pyjwt": {
            each: round(statistics.median(a / b for a, b in zip(taken[each], taken[f"{each}, PyJWT"], strict=True)), 2)
            for each in ("fresh", "mint", "proof")
        },
        "exchange": exchange,
    }
    report["bars"] = bars(report)
    return report


def bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the figures are held against; those in time, times how much slower than the reference this run's machine was."""
    slower, rows = report["slower_than_reference"], report["us"]
    made = [
        ("who calls, a token seen a moment ago, median us", rows["seen"]["us"], round(BAR_SEEN_US * slower, 1)),
        (f"asking {KILLS} kills, median us", rows[f"alive, {KILLS} kills"]["us"], round(BAR_ALIVE_US * slower, 1)),
        *((f"{name} / PyJWT", ratio, BAR_RATIO) for name, ratio in report["ratio_to_pyjwt"].items()),
    ]
    return [{"bar": name, "value": value, "want": f"<= {most}", "met": value <= most} for name, value, most in made]


def render(report: dict[str, Any]) -> str:
    """A table for people."""
    lines = [
        f"{report['date']}; {report['machine']}; load average {' '.join(map(str, report['load_average']))}",
        f"yardstick {report['yardstick_us']} us: {report['slower_than_reference']} times as slow as the reference",
        "",
        f"{'':24}{'median us':>11}{'best us':>9}",
    ]
    lines += [f"{name:24}{row['us']:>11}{row['best_us']:>9}" for name, row in report["us"].items()]
    if report["exchange"]:
        said = report["exchange"]
        took = f"p50 {said['p50_ms']} ms, p95 {said['p95_ms']} ms; /healthz p50 {said['healthz_p50_ms']} ms"
        lines += ["", f"/oauth/token: {took}"]
    lines.append("")
    lines += [f"{'met ' if bar['met'] else 'MISS'}  {bar['bar']}: {bar['value']} (want {bar['want']})" for bar in report["bars"]]
    return "\n".join(lines)


def main() -> int:
    """Run; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.identity", epilog="example: python -m bench.identity --json out.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--number", type=int, default=100, help="tokens a round")
    parser.add_argument("--exchanges", type=int, default=200, help="at the token endpoint; 0: none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")
    args = parser.parse_args()
    report = measure(args.rounds, args.number, args.exchanges)
    OUT.mkdir(exist_ok=True)
    for path in (OUT / "identity.json", args.json):
        if path is not None:
            path.write_text(json.dumps(report, indent=1) + "\n")
    print(render(report))
    return 1 if any(not bar["met"] for bar in report["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
