"""The sandbox made of settings: profiles, runners, queue, files, and the way back for code that calls tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import Delegations
from gateway.model import Clock, Principal
from gateway.sandbox.calls import CallBounds, Means, Within
from gateway.sandbox.choice import Choice, Duties, Judge
from gateway.sandbox.elsewhere import remote
from gateway.sandbox.folders import Folders
from gateway.sandbox.kept import Kept
from gateway.sandbox.queue import FairQueue
from gateway.sandbox.records import Append, RunRecords
from gateway.sandbox.runs import Network, Parts, Sandboxed
from sandbox.profiles import load_profiles
from sandbox.runner import Runner, shipped

if TYPE_CHECKING:
    from gateway.settings import Settings

_FOLDER: Final = "sandbox-sessions"
_PACKAGES: Final = "packages"


@dataclass(frozen=True, slots=True)
class Ground:
    """What the gateway gives its sandbox.  `key` (32 bytes) seals sessions; `within` is the MCP road from inside.

    runners  None: those that this package has.
    """

    settings: Settings
    clock: Clock
    append: Append
    key: bytes
    judge: Judge
    duties: Duties
    delegations: Delegations
    authenticator: Authenticator
    within: Within
    network: Network | None = None
    runners: Sequence[Runner] | None = None


async def opened(ground: Ground) -> Sandboxed:
    """Read the profiles and try the default one.

    ValueError for profiles that cannot be read, for a default that there is not, and for a backend that there is not.
    """
    settings, chosen = ground.settings, ground.settings.sandbox
    profiles = load_profiles(chosen.profiles)
    if chosen.default_profile not in profiles:
        raise ValueError(f"sandbox.default_profile: there is no profile '{chosen.default_profile}'")
    sandboxed = Sandboxed(
        Parts(
            profiles=profiles,
            runners=_runners(ground),
            choice=Choice(profiles, chosen.default_profile, ground.judge, ground.duties),
            queue=FairQueue(chosen.concurrency, chosen.queue, chosen.queue_per_person),
            records=RunRecords(ground.append, ground.clock),
            kept=Kept(chosen.files_seconds, chosen.files_bytes_per_caller, chosen.files_bytes),
            folders=folders_of(settings, ground.key, ground.clock),
            agent=chosen.agent,
            calls=_means(ground),
            network=ground.network,
        )
    )
    await sandboxed.begin()
    return sandboxed


def folders_of(settings: Settings, key: bytes, clock: Clock) -> Folders:
    """The folders of sessions; `key` is derived for `SESSIONS`."""
    chosen = settings.sandbox
    return Folders(settings.data / _FOLDER, key, clock, most=chosen.sessions, most_of_one=chosen.sessions_per_person)


def _runners(ground: Ground) -> Sequence[Runner]:
    """One set for the process: their bounds on concurrent runs are the gateway's."""
    chosen = ground.settings.sandbox
    elsewhere, wanted = chosen.runner, chosen.backend
    packages = chosen.packages or ground.settings.data / _PACKAGES
    here = partial(shipped, concurrency=chosen.concurrency, warm=chosen.warm, packages=packages)
    runners = ground.runners or (here() if elsewhere is None else (remote(elsewhere),))
    found = [runner for runner in runners if wanted in {None, runner.name}]
    if not found:
        raise ValueError(f"sandbox.backend: there is no backend '{wanted}'; there are {', '.join(each.name for each in runners)}")
    return found


def _means(ground: Ground) -> Means:
    chosen = ground.settings.sandbox

    def mint(principal: Principal, call: str) -> str:
        return ground.delegations.mint(principal, chosen.agent, call)

    def identify(token: str) -> Principal:
        return ground.authenticator.inside(token, chosen.agent)

    bounds = CallBounds(at_once=chosen.calls_at_once, most=chosen.calls_per_run)
    return Means(ground.within, mint, identify, ground.clock, bounds)
