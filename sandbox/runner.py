"""What every runner promises, and the choice among them: the first whose proven guarantees cover the profile.

There is no runner without isolation, and no run is ever repeated with less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from sandbox.model import Guarantee, IsolationUnprovenError, Job, Profile, Run, Strength


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found for one guarantee.

    evidence  what was tried and how it went, a line each.
    help      how to gain more, "" where there is nothing to gain.
    """

    strength: Strength
    evidence: tuple[str, ...] = ()
    help: str = ""

    def to_dict(self) -> dict[str, object]:
        """The strength as a word."""
        return {"strength": self.strength.word, "evidence": list(self.evidence), "help": self.help}


@dataclass(frozen=True, slots=True)
class Report:
    """What a runner proved on this machine by trying.

    backend   `landlock`, `bwrap` …
    findings  guarantee → finding; a guarantee that is not there is absent.
    layers    facts about the mechanisms, as `landlock` → `abi 7`.
    at        epoch seconds of the probe.
    problem   why nothing could be proven at all, "" where it could.
    """

    backend: str
    findings: Mapping[Guarantee, Finding]
    layers: Mapping[str, str]
    at: float
    problem: str = ""

    @property
    def guarantees(self) -> Mapping[Guarantee, Strength]:
        """Guarantee → proven strength, for every guarantee there is."""
        absent = Finding(Strength.ABSENT)
        return MappingProxyType({name: self.findings.get(name, absent).strength for name in Guarantee})

    def missing(self, profile: Profile) -> Mapping[Guarantee, tuple[Strength, Strength]]:
        """Guarantee → (wanted, got) for each that the profile requires and this report does not prove."""
        return shortfall(profile, self.guarantees)

    def require(self, profile: Profile) -> None:
        """Raise IsolationUnprovenError unless every guarantee that the profile requires is proven."""
        missing = self.missing(profile)
        if missing:
            helps = [self.problem, *(self.findings[name].help for name in missing if name in self.findings)]
            raise IsolationUnprovenError(missing, " ".join(dict.fromkeys(line for line in helps if line)))

    def to_dict(self) -> dict[str, object]:
        """As `doctor` and the console show it."""
        return {
            "backend": self.backend,
            "findings": {str(name): finding.to_dict() for name, finding in self.findings.items()},
            "layers": dict(self.layers),
            "at": self.at,
            "problem": self.problem,
        }


def shortfall(profile: Profile, proven: Mapping[Guarantee, Strength]) -> Mapping[Guarantee, tuple[Strength, Strength]]:
    """Guarantee → (wanted, got) for each that `profile` requires and `proven` does not cover."""
    pairs = {name: (wanted, proven.get(name, Strength.ABSENT)) for name, wanted in profile.requires.items()}
    return MappingProxyType({name: (wanted, got) for name, (wanted, got) in pairs.items() if got < wanted})


class Runner(Protocol):
    """Runs untrusted code in a cage of its own, each job in a new one.

    The code reaches the cage only after the cage has attested, from inside, that it holds.  What a run started is gone when
    `run` returns or is cancelled, and also when the gateway dies.  Nothing blocks the event loop; as many runs as the runner
    accepts go on at once, a bounded number waits.
    """

    @property
    def name(self) -> str:
        """The backend, as `landlock`."""
        ...

    async def probe(self) -> Report:
        """What is proven here, by attempts with positive controls; kept for a while.  Never raises for want of isolation."""
        ...

    async def run(self, job: Job) -> Run:
        """Run the job to its end, whatever end that is.

        Raises IsolationUnprovenError before the code is handed over where a required guarantee is not proven by the probe or by
        this run's own attestation, and SandboxBusyError where too many runs wait.
        """
        ...

    async def aclose(self) -> None:
        """End every run and give everything back."""
        ...


async def best(profile: Profile, runners: Sequence[Runner] | None = None) -> Runner:
    """The first of `runners` (default: those that this package has, strongest first) whose proven guarantees cover the profile.

    Raises IsolationUnprovenError with the shortfall of the runner that came closest where none does.
    """
    closest: IsolationUnprovenError | None = None
    for runner in runners if runners is not None else shipped():
        report = await runner.probe()
        try:
            report.require(profile)
        except IsolationUnprovenError as error:
            if closest is None or len(error.missing) < len(closest.missing):
                closest = error
        else:
            return runner
        if runners is None:
            await runner.aclose()
    if closest is None:
        wanted = profile.requires or {Guarantee.FS_WRITE: Strength.HARD}
        raise IsolationUnprovenError({name: (want, Strength.ABSENT) for name, want in wanted.items()}, "there is no runner here")
    raise closest


def shipped() -> Sequence[Runner]:
    """A new runner of each backend that this package has, strongest first; whoever asks closes them."""
    from sandbox.landlock import LandlockRunner  # noqa: PLC0415  the backends are written against this module

    return (LandlockRunner(),)
