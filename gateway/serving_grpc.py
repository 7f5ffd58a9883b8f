"""A2A over gRPC made of parts, where settings ask for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from gateway.parts import Parts
from gateway.pipeline import Stages
from gateway.problem import Problem, ProblemError
from gateway.settings import Grpc

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


async def open_grpc(parts: Parts, stages: Callable[[], Stages]) -> None:
    """Listen for every agent that `a2a.grpc` names; calls are governed by the A2A road's `stages`."""
    asked = parts.settings.a2a.grpc
    if asked is None:
        return
    from gateway.a2a.grpc_server import Certificate, DeafError, Door, GrpcFace  # noqa: PLC0415  an optional extra

    face = GrpcFace(stages, limits=parts.settings.limits, slots=parts.slots, clock=parts.clock)
    parts.stack.push_async_callback(face.close)
    certificate = None
    if asked.certificate is not None and asked.key is not None:
        certificate = Certificate(asked.certificate, asked.key, asked.clients)
    for port, names in _by_port(asked).items():
        agents = {authority: name for name in names for authority in authorities(asked, name)}
        try:
            await face.open(Door(asked.host, port, agents, {name: asked.url(name) for name in names}), certificate)
        except DeafError as error:
            help_ = "another program may have the port; or the certificate and its key do not belong together"
            raise ProblemError(Problem("cannot-listen", str(error), "a2a.grpc", help_)) from None


def authorities(asked: Grpc, agent: str) -> tuple[str, ...]:
    """How clients and proxies may spell where an agent is: with its port, and without one that goes without saying."""
    whole = asked.authority(agent)
    host, _, port = whole.rpartition(":")
    scheme = asked.url(agent).partition(":")[0]
    return (whole, host) if int(port) == _DEFAULT_PORTS[scheme] else (whole,)


def _by_port(asked: Grpc) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for name, agent in asked.agents.items():
        found[agent.port].append(name)
    return dict(found)
