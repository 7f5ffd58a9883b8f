"""Under which profile code runs: the one that a duty names, the default one, or one that the caller asks for and policy grants.

A caller may only tighten what a duty says.  What cannot be decided is a refusal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace as changed
from types import MappingProxyType

from msgspec.structs import replace

from gateway.model import Permit, Principal, Refused
from gateway.obligations.sandbox import SERVER
from gateway.reasons import Code
from gateway.sandbox.asked import RUNS, Asked, WrongError
from gateway.scope import within
from policies.model import NOTHING, AccessRequest, Decision
from sandbox.model import Guarantee, Profile, Strength

Judge = Callable[[Principal], Callable[[AccessRequest], Decision]]
Duties = Callable[[Permit], Awaitable[Permit]]

USE = "use"


class Choice:
    """Asks `use` on `profile:<name>` of the whole chain, where a call names a profile itself."""

    def __init__(self, profiles: Mapping[str, Profile], default: str, judge: Judge, duties: Duties) -> None:
        self._profiles = profiles
        self.default = default
        self._judge = judge
        self._duties = duties

    async def fulfil(self, permit: Permit) -> Permit:
        """The permit with the profile that was decided, or `Refused`; any other call's as it is."""
        call = permit.call
        if call.arrival.protocol != "mcp" or call.target != SERVER or call.name not in RUNS:
            return permit
        wanted = (call.arguments or NOTHING).get("profile")
        if not isinstance(wanted, str):
            return permit  # named by a duty, or by nobody; what is no text is refused when the arguments are read
        if wanted == (permit.sandbox or self.default):
            return replace(permit, sandbox=wanted)  # it is the one that would be taken anyway
        request = _question(permit, wanted)
        decision = self._judge(permit.principal)(request)
        if (
            not decision.allowed
        ):  # the tool itself may be known, and the answer says no more of profiles than that this one is not
            raise Refused(Code(decision.reason.value), decision=replace(decision, visible=True), request=request)
        if not within(permit.principal.scope, request.resource):
            raise Refused(Code.INSUFFICIENT_SCOPE, decision=decision, request=request)
        by_duty = permit.sandbox
        bound = await self._duties(
            replace(permit, decision=decision, request=request)
        )  # the grant of a profile may carry duties too
        permit = replace(bound, decision=permit.decision, request=permit.request, further=((request, decision),))
        named = {name for name in (by_duty, bound.sandbox) if name is not None}
        for name in named:
            self._tighten(permit, wanted, name)
        return replace(permit, sandbox=wanted)

    def _tighten(self, permit: Permit, wanted: str, duty: str) -> None:
        asked, most = self._profiles.get(wanted), self._profiles.get(duty)
        if wanted != duty and (asked is None or most is None or not at_most(asked, most)):
            raise Refused(Code.DUTY_FAILED, f"the profile {wanted[:64]} allows more than {duty}", decision=permit.decision)

    def offered(self, permit: Permit) -> dict[str, Profile]:
        """The profiles that this caller may name, and the default one: what `list_environments` says."""
        judge = self._judge(permit.principal)
        found = {}
        for name, profile in self._profiles.items():
            request = _question(permit, name)
            if name == self.default or (
                profile.languages and judge(request).allowed and within(permit.principal.scope, request.resource)
            ):
                found[name] = profile
        return found


def _question(permit: Permit, profile: str) -> AccessRequest:
    principal, call = permit.principal, permit.call
    return AccessRequest(
        subject=principal.subject,
        actors=principal.actors,
        tenant=principal.tenant,
        action=USE,
        resource=f"profile:{profile}",
        at=call.arrival.at,
        groups=principal.groups,
        arguments=NOTHING,
        context=principal.facts("mcp", call.method, call.version),
    )


def at_most(asked: Profile, most: Profile) -> bool:
    """Whether one profile allows nothing that the other does not, and asks for no weaker guarantee."""
    limits, bounds = asked.limits.to_dict(), most.limits.to_dict()
    return (
        all(limits[name] <= bounds[name] for name in bounds)
        and set(asked.network) <= set(most.network)
        and asked.languages <= most.languages
        and asked.packages in {None, most.packages}
        and (most.tools or not asked.tools)
        and (most.session or not asked.session)
        and all(asked.wanted.get(name, Strength.ABSENT) >= strength for name, strength in _kept(most, asked).items())
    )


def _kept(most: Profile, asked: Profile) -> Mapping[Guarantee, Strength]:
    """What must still be proven: of a list of destinations nothing, where none is left."""
    wanted = dict(most.wanted)
    if not asked.network and wanted.pop(Guarantee.NET_ALLOWLIST, None) is not None:
        wanted[Guarantee.NET_NONE] = Strength.HARD
    return wanted


def tightened(profile: Profile, asked: Asked) -> Profile:
    """The profile as this run has it: without the network that it does not ask for.  WrongError for what the profile has not."""
    if asked.language not in profile.languages:
        raise WrongError(f"The profile {profile.name} does not allow {asked.language}.")
    if asked.session and not profile.session:
        raise WrongError(f"session is false: the profile {profile.name} keeps no files.")
    if asked.memory_mb is not None and asked.memory_mb * (1 << 20) > profile.limits.memory_bytes:
        raise WrongError(f"memory_mb is at most {profile.limits.memory_bytes >> 20} under the profile {profile.name}.")
    if asked.network and not profile.network:
        raise WrongError(f"network is false: the profile {profile.name} has no network.")
    if profile.network and not asked.network:
        requires = MappingProxyType({**profile.requires, Guarantee.NET_NONE: Strength.HARD})
        return changed(profile, network=(), requires=requires)
    return profile
