"""An attestation in which anything is missing or odd proves nothing of what rests on it."""

# ruff: noqa: ASYNC240  looking at /proc and at folders in between is what these tests are about
from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sandbox.attestation import attested
from sandbox.engine import CagedRunner
from sandbox.model import Guarantee, IsolationUnprovenError, Job, Language, Strength
from sandbox.namespaces import namespaces_of
from sandbox.profiles import load_profiles
from sandbox.runner import Hooks
from sandbox.toolsets import Kit

SHIPPED = load_profiles()["no-network-512mb"]


class Attested:
    """The facts of one real cage, with the cage still there."""

    def __init__(self, runner: CagedRunner, *, network: bool = False) -> None:
        self.runner, self.backend, self.network = runner, runner._backend, network

    async def __aenter__(self) -> Attested:
        known = await self.runner._knowledge()
        self.plan = known.plan
        assert self.plan is not None
        self.most = self.backend.candidates(self.plan, own_uid=os.geteuid() == 0)
        kit = Kit(SHIPPED.limits, known.toolsets[Language.PYTHON], network=self.network)
        self.ready = await self.runner._cages.raised(self.plan, kit, self.most)
        self.cage, self.folder, self.facts = self.ready.cage, self.ready.folder, dict[str, Any](self.ready.facts)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert await self.runner._cages.put_away(self.ready) == ""

    def proven(self, facts: Any) -> set[Guarantee]:
        uid = self.folder.uid
        confirmed = partial(self.backend.confirmed, started=self.cage.pid, uid=uid, kit=self.ready.kit)
        strengths = attested(facts, SHIPPED.limits, uid, self.most, confirmed, network=self.network)
        return {name for name, strength in strengths.items() if strength is not Strength.ABSENT}


@pytest.fixture(params=["landlock", "bwrap"])
def runner_of_each(request: pytest.FixtureRequest, boxes: Any) -> CagedRunner:
    found = boxes("own", request.param).runner
    assert isinstance(found, CagedRunner)
    return found


@pytest.fixture
def bwrap(boxes: Any) -> CagedRunner:
    found = boxes("own", "bwrap").runner
    assert isinstance(found, CagedRunner)
    return found


ALL = set(Guarantee) - {Guarantee.OWN_KERNEL, Guarantee.NET_ALLOWLIST, Guarantee.FOLDER}


def lies() -> list[Any]:
    def both(name: str, value: Any) -> Callable[[Any], None]:
        return lambda facts: [side.__setitem__(name, value) for side in facts.values()] and None

    def code(name: str, value: Any) -> Callable[[Any], None]:
        return lambda facts: facts["code"].__setitem__(name, value)

    def limit(name: str, value: Any) -> Callable[[Any], None]:
        return lambda facts: facts["code"]["rlimits"].__setitem__(name, value)

    g = Guarantee
    return [
        pytest.param(both("seccomp", 0), ALL, id="no filter"),
        pytest.param(code("seccomp", 1), ALL, id="another kind of filter"),
        pytest.param(code("no_new_privs", 0), ALL, id="new privileges"),
        pytest.param(code("fds", [0, 1, 2, 3, 4, 5, 6]), ALL, id="one descriptor too many"),
        pytest.param(code("read_outside", 0), {g.FS_READ}, id="reads outside"),
        pytest.param(code("list_outside", 0), {g.FS_READ}, id="lists outside"),
        pytest.param(code("read_outside", 2), {g.FS_READ}, id="nothing there to be read"),
        pytest.param(code("write_outside", 0), {g.FS_WRITE}, id="writes outside"),
        pytest.param(code("proc", 0), {g.FS_READ, g.PROCESS_ISOLATION, g.KILL_TREE}, id="reads the warden"),
        pytest.param(code("signal", 0), {g.PROCESS_ISOLATION, g.KILL_TREE}, id="signals the warden"),
        pytest.param(code("sockets", [1, 1, 1, 1, 1, 1, 0]), {g.NET_NONE}, id="one family"),
        pytest.param(code("sockets", []), {g.NET_NONE}, id="no family tried"),
        pytest.param(code("others", [1, 1, 0, 1, 1, 1]), {g.NET_NONE}, id="datagrams"),
        pytest.param(code("uids", [0, 0, 0]), {g.IDENTITY}, id="root"),
        pytest.param(both("capabilities", "00200000" + "0" * 40), {g.IDENTITY}, id="a capability"),
        pytest.param(limit("RLIMIT_DATA", [-1, -1]), {g.MEMORY}, id="memory without limit"),
        pytest.param(limit("RLIMIT_CPU", [10, -1]), {g.CPU}, id="cpu without limit"),
        pytest.param(limit("RLIMIT_NPROC", [-1, -1]), {g.PIDS}, id="processes without limit"),
        pytest.param(limit("RLIMIT_FSIZE", [-1, -1]), {g.DISK}, id="files without limit"),
        pytest.param(limit("RLIMIT_CORE", [0, 0]), {g.DISK}, id="a crash that would start the handler of core dumps"),
        pytest.param(code("pid", 1), ALL, id="another process"),
        pytest.param(lambda facts: facts["code"].pop("signal"), ALL, id="a fact is missing"),
        pytest.param(lambda facts: facts.pop("warden"), ALL, id="no warden"),
        pytest.param(code("rlimits", "none"), ALL, id="not what it should be"),
    ]


async def test_an_honest_attestation_proves_everything_this_runner_gives(runner_of_each: CagedRunner) -> None:
    async with Attested(runner_of_each) as real:
        assert real.proven(real.facts) == ALL
        assert real.proven({**real.facts, "warden": {**real.facts["warden"], "pid": os.getpid()}}) == set()


@pytest.mark.parametrize(("lie", "lost"), lies())
async def test_an_attestation_that_is_amiss_proves_nothing_of_what_rests_on_it(
    runner_of_each: CagedRunner, lie: Callable[[Any], None], lost: set[Guarantee]
) -> None:
    async with Attested(runner_of_each) as real:
        facts = copy.deepcopy(real.facts)
        lie(facts)
        proven = real.proven(facts)
    assert not proven & lost
    assert (ALL - proven) <= lost | ({Guarantee.IDENTITY} if Guarantee.SYSCALL_SURFACE in lost else set())


async def test_a_claim_that_the_kernel_does_not_confirm_proves_nothing(runner_of_each: CagedRunner) -> None:
    async with Attested(runner_of_each) as real:
        facts = copy.deepcopy(real.facts)
        for pid in (os.getpid(), 1, 2**22 + 1):
            facts["code"]["pid"] = pid
            assert real.proven(facts) == set()


async def test_a_cage_that_does_not_attest_enough_never_receives_the_code(runner_of_each: CagedRunner) -> None:
    known = await runner_of_each._knowledge()
    assert known.plan is not None
    nothing = dict.fromkeys(Guarantee, Strength.ABSENT)
    ready = await runner_of_each._cages.raised(known.plan, Kit(SHIPPED.limits, known.toolsets[Language.PYTHON]), nothing)
    mark = Path(ready.folder.path)
    with pytest.raises(IsolationUnprovenError) as refused:
        await runner_of_each._carried_out(Job("1", "open('ran', 'w')", SHIPPED), ready, known.plan, Hooks())
    assert set(refused.value.missing) == set(SHIPPED.requires)
    assert not mark.exists()


async def test_a_cage_that_waited_is_looked_at_again(runner_of_each: CagedRunner) -> None:
    async with Attested(runner_of_each) as real:
        assert await runner_of_each._cages.holds(real.ready)
        os.kill(real.backend.code_of(real.facts, real.cage.pid), signal.SIGKILL)
        while await runner_of_each._cages.holds(real.ready):
            pass


@pytest.mark.parametrize("side", ["warden", "code"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pid", 3), ("hidden", [2, 2, 2, 2, 0]), ("hidden", [13]), ("hidden", []), ("namespaces", {}),
        ("namespaces", dict(namespaces_of("self"))),
    ],
)  # fmt: skip
async def test_namespaces_and_a_view_that_are_not_the_cages_own_prove_nothing(
    bwrap: CagedRunner, side: str, name: str, value: Any
) -> None:
    async with Attested(bwrap) as real:
        facts = copy.deepcopy(real.facts)
        assert real.proven(facts) == ALL
        facts[side][name] = value
        assert real.proven(facts) == set()


async def test_destinations_are_kept_where_tcp_alone_is_to_be_had(bwrap: CagedRunner) -> None:
    async with Attested(bwrap, network=True) as real:
        assert real.proven(real.facts) == ALL - {Guarantee.NET_NONE} | {Guarantee.NET_ALLOWLIST}
        for name, value in (
            ("sockets", [0, 0, 0, 1, 1, 1, 1]), ("sockets", [1, 0, 0, 1, 1, 1, 0]), ("sockets", [1, 1, 1, 1, 1, 1, 1]),
            ("others", [1, 1, 0, 1, 1, 1]), ("others", []), ("no_new_privs", 0),
        ):  # fmt: skip
            facts = copy.deepcopy(real.facts)
            facts["code"][name] = value
            assert Guarantee.NET_ALLOWLIST not in real.proven(facts), name
            assert Guarantee.NET_NONE not in real.proven(facts), name
