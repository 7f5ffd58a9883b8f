"""The key ring on disk: what signs and what counts at which moment, across crashes and rotations."""

from __future__ import annotations

import json
import logging
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.model import Entry, LedgerUnavailableError, Receipt
from gateway.identity import delegation, keyfiles
from gateway.identity.delegation import Delegations
from gateway.identity.keyring import KEEP_SECONDS, OVERLAP_SECONDS, KeyFolder, signing
from gateway.identity.keys import es256_jwk
from gateway.identity.keywatch import KeyWatch, opened_keys
from gateway.identity.signing import KeyRing
from gateway.model import Principal, Refused
from gateway.problem import ProblemError
from gateway.settings import Delegation, Secret, Settings

from .conftest import START, URL, StandingClock

ROOT = Path(__file__).resolve().parents[2]


class Ledger:
    """Holds what it is told; `away` while it cannot."""

    def __init__(self) -> None:
        self.said: list[tuple[object, object, object]] = []
        self.away = False

    async def append(self, entry: Entry) -> Receipt:
        if self.away:
            raise LedgerUnavailableError("the disk is full")
        assert entry.kind == "key.activate"
        self.said.append((entry.fields["kid"], entry.fields["use"], entry.fields["before"]))
        return Receipt("log", entry.id, len(self.said), b"")


class Gate:
    """A gateway's ring, its watch and its delegations, over one data folder and one clock."""

    def __init__(self, ring: KeyRing, watch: KeyWatch, clock: StandingClock) -> None:
        self.ring, self.watch, self.clock = ring, watch, clock
        self.delegations = Delegations(ring, URL, clock=clock)

    def token(self) -> str:
        ends = int(self.clock.seconds) + 3600
        principal = Principal("user:dev/paul", (), "acme", "wf-" + "0" * 26, ends, "bearer", "0" * 64)
        return self.delegations.mint(principal, "erp", "call-1")


async def open_gate(data: Path, clock: StandingClock, ledger: Ledger, chosen: Delegation | None = None) -> Gate:
    ring, watch = await opened_keys(Settings(data=data, delegation=chosen or Delegation()), {}, ledger.append, clock)
    return Gate(ring, watch, clock)


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


async def test_the_key_of_before_is_taken_over_and_nothing_that_it_signed_ends(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    old = keyfiles.delegation_key(tmp_path)
    token = Gate(KeyRing.of(old), None, clock).token()  # type: ignore[arg-type]  # an older gateway had no watch
    gate = await open_gate(tmp_path, clock, ledger)
    assert gate.ring.kid == es256_jwk(old.public_key())["kid"]
    assert gate.delegations.verify(token).holder == "erp"
    assert not (tmp_path / "delegation-key.pem").exists()
    again = await open_gate(tmp_path, clock, ledger)
    assert again.ring.kid == gate.ring.kid
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert ledger.said == [(gate.ring.kid, "sign", "")]


async def test_a_new_key_is_published_at_once_signs_after_the_overlap_and_the_old_one_counts_until_its_last_token_ended(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    gate, folder = await open_gate(tmp_path, clock, ledger), KeyFolder(tmp_path)
    old, first = gate.ring.kid, gate.ring.public(gate.ring.kid)
    new = folder.rotate(START).kid
    await gate.watch.look()
    assert (gate.ring.kid, gate.ring.kids) == (old, {old, new})
    assert [key["kid"] for key in gate.ring.jwks()["keys"]] == [old, new]
    clock.advance(OVERLAP_SECONDS - 1)
    await gate.watch.look()
    assert gate.ring.kid == old
    last = gate.token()
    assert folder.holds(old)
    clock.advance(1)
    await gate.watch.look()
    assert gate.ring.kid == new
    assert not folder.holds(old)
    assert gate.delegations.verify(last).holder == "erp"
    assert gate.ring.public(old) is first
    clock.advance(KEEP_SECONDS - 1)
    await gate.watch.look()
    assert gate.ring.kids == {old, new}
    clock.advance(1)
    await gate.watch.look()
    assert gate.ring.kids == {new}
    assert "d" not in json.loads(gate.ring.document()[0])["keys"][0]
    assert ledger.said == [(old, "sign", ""), (new, "sign", old), (old, "none", new)]


def test_a_key_counts_for_longer_than_any_of_its_tokens() -> None:
    assert KEEP_SECONDS > delegation.LONGEST_SECONDS + delegation.LEEWAY_SECONDS
    assert OVERLAP_SECONDS >= 2 * 300  # what jwks.json lets a cache keep it


async def test_in_an_emergency_the_new_key_signs_at_once_and_what_the_retired_one_signed_is_refused_seen_or_not(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    gate, folder = await open_gate(tmp_path, clock, ledger), KeyFolder(tmp_path)
    old, seen = gate.ring.kid, gate.token()
    gate.delegations.verify(seen)
    unseen = gate.token()
    digest = delegation.read(seen).digest
    assert gate.delegations.known(digest) is not None
    new = folder.rotate(START, 0).kid
    await gate.watch.look()
    assert gate.ring.kid == new
    assert gate.delegations.known(digest) is not None  # rotated, not distrusted
    folder.retire(old, START)
    await gate.watch.look()
    assert gate.delegations.known(digest) is None
    for token in (seen, unseen):
        with pytest.raises(Refused):
            gate.delegations.verify(token)
    assert ledger.said[-1] == (old, "none", new)


async def test_a_key_that_waits_can_be_retired_or_overtaken_and_never_signs(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    gate, folder = await open_gate(tmp_path, clock, ledger), KeyFolder(tmp_path)
    first = gate.ring.kid
    waits = folder.rotate(START).kid
    with pytest.raises(ProblemError, match="published already"):
        folder.rotate(START)
    folder.retire(waits, START)
    clock.advance(OVERLAP_SECONDS + KEEP_SECONDS)
    await gate.watch.look()
    assert gate.ring.kids == {first}
    now = int(clock.seconds)
    overtaken = folder.rotate(now).kid
    urgent = folder.rotate(now, 0).kid
    await gate.watch.look()
    assert (gate.ring.kid, gate.ring.kids) == (urgent, {first, urgent})
    assert not folder.holds(overtaken)
    assert {entry.kid: entry.retires for entry in folder.read()}[first] == now + KEEP_SECONDS


async def test_the_key_that_signs_cannot_be_retired_and_a_stranger_is_named(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    gate, folder = await open_gate(tmp_path, clock, ledger), KeyFolder(tmp_path)
    for kid, code in ((gate.ring.kid, "key-signs"), ("A" * 43, "unknown-key"), ("../../etc/passwd", "unknown-key")):
        with pytest.raises(ProblemError) as caught:
            folder.retire(kid, START)
        assert caught.value.problems[0].code == code
    assert [entry.kid for entry in folder.read()] == [gate.ring.kid]


# What one process does to the folder, ended by the kernel before its nth step that changes a file.
KILLED = """
import os, sys
from pathlib import Path
from gateway.identity.keyring import KeyFolder
data, verb, steps, now = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
folder = KeyFolder(data)
left = [steps]
def hook(event, args):
    changes = event in {"os.rename", "os.remove", "os.link"} or (
        event == "open" and str(data) in str(args[0]) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
    if changes:
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
sys.addaudithook(hook)
if verb == "open":
    folder.opened(now)
elif verb == "retire":
    folder.retire(folder.read()[0].kid, now)
else:
    folder.rotate(now, 0 if verb == "now" else 600)
"""


def killed(data: Path, verb: str, steps: int, now: int) -> int:
    return subprocess.run(
        [sys.executable, "-c", KILLED, data, verb, str(steps), str(now)], cwd=ROOT, timeout=60, check=False
    ).returncode


@pytest.mark.parametrize("verb", ["open", "rotate", "now", "retire"])
async def test_a_crash_before_any_step_leaves_a_ring_that_works_and_the_step_can_be_made_again(
    tmp_path: Path, clock: StandingClock, verb: str
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    old = keyfiles.delegation_key(start)
    token = Gate(KeyRing.of(old), None, clock).token()  # type: ignore[arg-type]  # see above
    if verb != "open":
        KeyFolder(start).opened(START)
    if verb == "retire":
        KeyFolder(start).rotate(START, 0)
    for steps in range(40):
        data = tmp_path / f"{steps}"
        shutil.copytree(start, data)
        code = killed(data, verb, steps, START)
        gate = await open_gate(data, clock, Ledger())
        assert gate.delegations.verify(gate.token())
        files = {path.stem for path in (data / "keys").glob("*.pem")}
        named = {entry.kid for entry in KeyFolder(data).read()}
        assert signing(KeyFolder(data).read(), START).kid in files  # type: ignore[union-attr]
        if verb != "retire":
            assert gate.delegations.verify(token).holder == "erp"
        if code == 0:
            break
        KeyFolder(data).rotate(START, 0)  # whoever comes next clears away what the crash left, too
        assert not [path for path in (data / "keys").iterdir() if path.name.count(".") > 1]
        assert {path.stem for path in (data / "keys").glob("*.pem")} <= {entry.kid for entry in KeyFolder(data).read()}
    else:
        pytest.fail("it never came to its end")
    assert steps >= 3
    assert files <= named
    assert not (data / "delegation-key.pem").exists()


def test_of_processes_that_rotate_together_one_does(tmp_path: Path) -> None:
    KeyFolder(tmp_path).opened(START)
    program = (
        "import sys, pathlib; from gateway.identity.keyring import KeyFolder; "
        "KeyFolder(pathlib.Path(sys.argv[1])).rotate(int(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(START)]
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert sorted(process.wait(60) for process in running) == [0, 1, 1, 1]
    assert len(KeyFolder(tmp_path).read()) == 2


def test_processes_that_start_together_begin_with_one_ring(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from gateway.identity.keyring import KeyFolder; "
        "print(KeyFolder(pathlib.Path(sys.argv[1])).opened(int(sys.argv[2]))[0].kid)"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(START)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate(timeout=60)[0] for process in running}) == 1


STEPS = st.lists(
    st.one_of(
        st.just("rotate"), st.just("now"), st.just("retire-old"), st.just("retire-waiting"), st.just("restart"),
        st.integers(1, 900),
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


@given(STEPS)
@settings(max_examples=60, deadline=None)
async def test_whatever_is_done_some_published_key_signs_and_a_token_lives_unless_its_key_was_retired(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str | int]
) -> None:
    data, clock, ledger = tmp_path_factory.mktemp("ring"), StandingClock(), Ledger()
    gate, folder = await open_gate(data, clock, ledger), KeyFolder(data)
    tokens: list[tuple[str, str, float]] = []
    published = {gate.ring.kid: 0.0}
    hastened, retired = {gate.ring.kid}, set()
    for step in steps:
        now = int(clock.seconds)
        index = folder.read()
        current = signing(index, now)
        assert current is not None
        waits = [entry.kid for entry in index if entry.activates > now]
        older = [entry.kid for entry in index if entry.activates <= now and entry.kid != current.kid]
        if isinstance(step, int):
            clock.advance(step)
        elif step == "rotate" and not waits:
            folder.rotate(now)
        elif step == "now":
            hastened.add(folder.rotate(now, 0).kid)
        elif step == "retire-old" and older:
            retired.add(older[0])
            folder.retire(older[0], now)
        elif step == "retire-waiting" and waits:
            folder.retire(waits[0], now)
        elif step == "restart":
            gate = await open_gate(data, clock, ledger)
        await gate.watch.look()
        for kid in gate.ring.kids:
            published.setdefault(kid, clock.seconds)
        assert gate.ring.kid in gate.ring.kids
        assert gate.ring.kid in hastened or clock.seconds - published[gate.ring.kid] >= 0
        assert all(entry.activates - entry.created >= OVERLAP_SECONDS for entry in folder.read() if entry.kid not in hastened)
        held = {path.stem for path in (data / "keys").glob("*.pem")}
        now_waiting = {entry.kid for entry in folder.read() if entry.activates > clock.seconds}
        assert held == {gate.ring.kid} | now_waiting  # what signs no more is not there any more
        tokens.append((gate.token(), gate.ring.kid, clock.seconds))
        for token, kid, made in tokens:
            alive = clock.seconds < made + delegation.LONGEST_SECONDS
            if kid in retired:
                with pytest.raises(Refused):
                    gate.delegations.verify(token)
            elif alive:
                assert gate.delegations.verify(token).holder == "erp"
    assert [kid for kid, use, _ in ledger.said if use == "sign"][-1] == gate.ring.kid


async def test_an_index_that_cannot_be_read_leaves_the_last_ring_and_its_times_go_on(
    tmp_path: Path, clock: StandingClock, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    gate, folder = await open_gate(tmp_path, clock, ledger), KeyFolder(tmp_path)
    old = gate.ring.kid
    new = folder.rotate(START).kid
    await gate.watch.look()
    index = tmp_path / "keys" / "index.json"
    good = index.read_bytes()
    index.write_bytes(b'{"version": 1, "keys": []}')
    with caplog.at_level(logging.ERROR, "gateway.keys"):
        for _ in range(3):
            clock.advance(OVERLAP_SECONDS // 2)
            await gate.watch.look()
    assert len(caplog.records) == 1
    assert (gate.ring.kid, gate.ring.kids) == (new, {old, new})
    clock.advance(KEEP_SECONDS)
    await gate.watch.look()
    assert gate.ring.kids == {new}
    index.unlink()
    await gate.watch.look()
    assert gate.ring.kid == new
    index.write_bytes(good)
    index.chmod(0o600)
    await gate.watch.look()
    assert gate.ring.kid == new


async def test_a_change_is_recorded_once_the_ledger_is_back_and_after_a_restart_too(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    gate, folder = await open_gate(tmp_path, clock, ledger), KeyFolder(tmp_path)
    first = gate.ring.kid
    ledger.away = True
    second = folder.rotate(START, 0).kid
    folder.retire(first, START)
    await gate.watch.look()
    assert gate.ring.kids == {second}  # what is distrusted does not wait for its record
    assert ledger.said == [(first, "sign", "")]
    ledger.away = False
    await gate.watch.look()
    await gate.watch.look()
    assert ledger.said[1:] == [(second, "sign", first), (first, "none", second)]
    third = folder.rotate(START, 0).kid  # while no gateway runs
    await open_gate(tmp_path, clock, ledger)
    await open_gate(tmp_path, clock, ledger)
    assert ledger.said[3:] == [(third, "sign", second)]


async def test_where_the_key_that_is_due_is_gone_the_one_before_signs_on_and_without_any_nothing_is_signed(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    gate, folder = await open_gate(tmp_path, clock, ledger), KeyFolder(tmp_path)
    old, new = gate.ring.kid, folder.rotate(START).kid
    (tmp_path / "keys" / f"{new}.pem").unlink()
    clock.advance(OVERLAP_SECONDS)
    await gate.watch.look()
    assert gate.ring.kid == old
    assert folder.holds(old)
    clock.advance(KEEP_SECONDS)
    await gate.watch.look()
    assert gate.ring.kids == {new}
    with pytest.raises(Refused):
        gate.token()
    with pytest.raises(ProblemError, match="no private key"):
        await open_gate(tmp_path, clock, ledger)
    folder.rotate(int(clock.seconds), 0)
    await gate.watch.look()
    assert gate.delegations.verify(gate.token())


async def test_a_clock_that_is_set_back_leaves_the_key_signing_and_its_tokens_good(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    gate, folder = await open_gate(tmp_path, clock, ledger), KeyFolder(tmp_path)
    first = gate.ring.kid
    clock.advance(-7200)
    await gate.watch.look()
    assert gate.ring.kid == first
    token, now = gate.token(), int(clock.seconds)
    with pytest.raises(ProblemError) as caught:
        folder.retire(first, now)
    assert caught.value.problems[0].code == "key-signs"
    second = folder.rotate(now, 0).kid
    await gate.watch.look()
    assert (gate.ring.kid, gate.ring.kids) == (second, {first, second})
    assert gate.delegations.verify(token).holder == "erp"
    clock.advance(7200)
    await gate.watch.look()
    assert (gate.ring.kid, gate.ring.kids) == (second, {second})


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o770, 0o777])
async def test_a_folder_that_others_can_reach_is_refused(tmp_path: Path, clock: StandingClock, ledger: Ledger, mode: int) -> None:
    await open_gate(tmp_path, clock, ledger)
    (tmp_path / "keys").chmod(mode)
    with pytest.raises(ProblemError) as caught:
        await open_gate(tmp_path, clock, ledger)
    assert caught.value.problems[0].code == "open-key-file"
    with pytest.raises(ProblemError):
        KeyFolder(tmp_path).rotate(START)


async def test_a_key_file_that_others_can_read_or_that_holds_another_key_is_refused(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    gate = await open_gate(tmp_path, clock, ledger)
    file = tmp_path / "keys" / f"{gate.ring.kid}.pem"
    file.chmod(0o640)
    with pytest.raises(ProblemError) as caught:
        await open_gate(tmp_path, clock, ledger)
    assert caught.value.problems[0].code == "open-key-file"
    file.write_bytes(keyfiles.private_pem(ec.generate_private_key(ec.SECP256R1())))
    file.chmod(0o600)
    with pytest.raises(ProblemError) as caught:
        await open_gate(tmp_path, clock, ledger)
    assert caught.value.problems[0].code == "wrong-key"


GOOD = {"kid": "k", "use": "sig", "created": START, "activates": START, "retires": None, "x": "x", "y": "y"}


@pytest.mark.parametrize(
    "change",
    [
        {"kid": "../../../etc/passwd"}, {"kid": 7}, {"use": "enc"}, {"created": "now"}, {"activates": -1}, {"activates": True},
        {"retires": 1e12}, {"retires": 1 << 40}, {"x": "AAAA"}, {"x": None}, {"d": "AAAA"}, {"kid": "A" * 43},
    ],
    ids=str,
)  # fmt: skip
def test_an_index_that_says_anything_else_is_refused_whole(tmp_path: Path, change: dict[str, object]) -> None:
    folder = KeyFolder(tmp_path)
    folder.opened(START)
    path = tmp_path / "keys" / "index.json"
    document = json.loads(path.read_bytes())
    document["keys"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(ProblemError) as caught:
        folder.read()
    assert caught.value.problems[0].code == "wrong-index"


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_no_bytes_in_the_place_of_the_index_do_anything_but_be_refused(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    data = tmp_path_factory.getbasetemp() / "junk"
    KeyFolder(data).opened(START) if not data.exists() else None
    path = data / "keys" / "index.json"
    path.write_bytes(junk)
    with pytest.raises(ProblemError):
        KeyFolder(data).read()


async def test_configured_keys_sign_and_former_ones_verify_by_their_private_or_their_public_part(
    tmp_path: Path, clock: StandingClock, ledger: Ledger
) -> None:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    files = [tmp_path / name for name in ("now.pem", "next.pem", "before.pem")]
    for file, key in zip(files, keys, strict=True):
        file.write_bytes(keyfiles.private_pem(key))
        file.chmod(0o600)
    files[2].write_bytes(keys[2].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    secrets = [Secret(file=file) for file in files]
    chosen = Delegation(key=secrets[0], former_keys=tuple(secrets[1:]))
    gate = await open_gate(tmp_path / "data", clock, ledger, chosen)
    kids = [es256_jwk(key.public_key())["kid"] for key in keys]
    assert gate.ring.kid == kids[0]
    assert gate.ring.kids == set(kids)
    token = Gate(KeyRing.of(keys[2]), None, clock).token()  # type: ignore[arg-type]  # see above
    assert gate.delegations.verify(token).holder == "erp"
    assert ledger.said == [(kids[0], "sign", "")]
    turned = Delegation(key=secrets[1], former_keys=(secrets[0],))
    await open_gate(tmp_path / "data", clock, ledger, turned)
    assert ledger.said[1:] == [(kids[1], "sign", kids[0]), (kids[2], "none", kids[1])]


def test_former_keys_without_a_key_are_refused() -> None:
    with pytest.raises(ValueError, match="former_keys"):
        Delegation(former_keys=(Secret(env="OLD"),))
