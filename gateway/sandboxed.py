"""The built-in server's hands: runs code under a named profile, where its isolation is proven, or refuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.model import Refused
from gateway.reasons import Code
from sandbox.model import IsolationUnprovenError, Job, NotOfferedError, Profile, SandboxBusyError
from sandbox.profiles import load_profiles
from sandbox.runner import Runner, best, shipped

if TYPE_CHECKING:
    from gateway.settings import Sandbox

log = logging.getLogger("gateway.sandbox")


class Sandboxed:
    """Profiles, and for each the runner that proved it.  A profile that nothing here can prove refuses, again at every call."""

    def __init__(self, profiles: Mapping[str, Profile], default: str) -> None:
        self._profiles = profiles
        self._default = default
        self._shipped = shipped()  # one set for the process: their bounds on concurrent runs are the gateway's
        self._runners: dict[str, Runner] = {}
        self._choosing = asyncio.Lock()

    @classmethod
    async def open(cls, settings: Sandbox) -> Sandboxed:
        """Read the profiles and try the default one, so that the log says at the start what code will run under.

        ValueError for profiles that cannot be read, and for a default that there is not.
        """
        profiles = load_profiles(settings.profiles)
        if settings.default_profile not in profiles:
            raise ValueError(f"sandbox.default_profile: there is no profile '{settings.default_profile}'")
        sandboxed = cls(profiles, settings.default_profile)
        try:
            runner = await sandboxed._runner(profiles[settings.default_profile])
        except IsolationUnprovenError as error:
            log.error("sandboxed code will be refused here: %s", error)
        else:
            log.info("sandboxed code runs under %s, by %s", settings.default_profile, runner.name)
        return sandboxed

    async def run(self, code: str, profile: str | None, job_id: str) -> Mapping[str, object]:
        """Run Python code; what became of it, with the guarantees that were proven for this very run.

        `Refused`: ISOLATION_UNPROVEN where the profile's guarantees are not proven here, DUTY_FAILED for a profile that there is
        not, OVERLOADED where too many runs wait.
        """
        chosen = self._profiles.get(profile or self._default)
        if chosen is None:
            raise Refused(Code.DUTY_FAILED, f"there is no sandbox profile '{profile}'")
        try:
            runner = await self._runner(chosen)
            return (await runner.run(Job(id=job_id, code=code, profile=chosen))).to_dict()
        except IsolationUnprovenError as error:
            raise Refused(Code.ISOLATION_UNPROVEN, str(error)) from error
        except SandboxBusyError as error:
            raise Refused(Code.OVERLOADED, "sandbox") from error
        except NotOfferedError as error:
            raise Refused(Code.DUTY_FAILED, str(error)) from error

    async def aclose(self) -> None:
        """End every run."""
        for runner in self._shipped:
            await runner.aclose()

    async def _runner(self, profile: Profile) -> Runner:
        async with self._choosing:
            runner = self._runners.get(profile.name)
            if runner is None:
                runner = self._runners[profile.name] = await best(profile, self._shipped)
            return runner
