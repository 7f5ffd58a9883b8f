"""The way out made of settings, and what one run is given of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from socket import socket
from typing import TYPE_CHECKING

from gateway.egress.deciding import Ceiling, Desk
from gateway.egress.dial import Exempt, Resolver
from gateway.egress.proxy import Bounds, Egress
from gateway.model import Clock, Intent, Principal
from gateway.prometheus import Family
from gateway.record import Recorder
from policies.model import AccessRequest, Decision
from sandbox.model import Profile

if TYPE_CHECKING:
    from gateway.settings_egress import Egress as Settings


class WayOut:
    """For each run what serves the connections of its network."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        judge: Callable[[Principal], Callable[[AccessRequest], Decision]],
        alive: Callable[[Principal], None],
        clock: Clock,
    ) -> None:
        """`judge` is who decides for a principal now; `alive` raises `Refused` where somebody of the chain was killed."""
        self._resolver = Resolver()
        bounds = Bounds(
            at_once=settings.connections_at_once,
            connections=settings.connections_per_run,
            bytes=settings.bytes_per_run,
            connect_seconds=settings.connect_seconds,
            idle_seconds=settings.idle_seconds,
        )
        self._egress = Egress(Desk(recorder, judge, alive, self._resolver, clock, exemptions(settings)), bounds)

    def __call__(self, intent: Intent, profile: Profile) -> tuple[Callable[[socket], Awaitable[None]], Callable[[], int]]:
        """What is given to the runner (`sandbox.runner.Hooks.network`), and how many connections there have been so far."""
        permit = intent.permit
        arrival = permit.call.arrival
        serving = self._egress.network(Ceiling(arrival.id, arrival, permit.principal, profile.name, profile.network))
        return serving, lambda: serving.connections

    def families(self) -> Iterator[Family]:
        """What metrics say of connections."""
        return self._egress.families()

    def close(self) -> None:
        """Look up no more names."""
        self._resolver.close()


def exemptions(settings: Settings) -> Mapping[str, Exempt]:
    """What the operator says of destinations, by their text."""
    return {text: Exempt(each.tls, each.networks) for text, each in settings.destinations.items()}
