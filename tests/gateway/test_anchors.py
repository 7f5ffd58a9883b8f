"""Anchors take checkpoints elsewhere: a folder, a git remote, an S3-compatible server and a time-stamping authority, all real."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint as notes
from audit.checkpoint import Checkpoint, Vkey
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError, Receipt
from audit.store_proofs import ProofStore
from audit.store_read import SqlReader
from audit.tile_folder import write
from gateway.anchors.anchor import Anchor, AnchorConflictError, AnchorFailedError, name_of
from gateway.anchors.anchoring import Anchoring, Post
from gateway.anchors.folder import FolderAnchor
from gateway.anchors.git import GitAnchor
from gateway.anchors.s3 import BucketAnchor, BucketClient, Credentials, signed
from gateway.anchors.timestamp import TimestampAnchor
from gateway.upstream.client import Upstreams
from tests.go_program import built

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OWN = Vkey.of("example.org/ledger", KEY)
SECRET = "s3cr3t-of-the-bucket"


def head(size: int, root: int = 7) -> Checkpoint:
    return Checkpoint(OWN.name, size, bytes([root]) * 32)


def note(size: int, root: int = 7, key: Ed25519PrivateKey = KEY) -> str:
    return notes.sign(head(size, root), key)


async def put(anchor: Anchor, size: int, root: int = 7) -> None:
    await anchor.put(head(size, root), note(size, root))


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams(connect_seconds=5, idle_seconds=5)
    yield made
    await made.aclose()


# ------------------------------------------------------------------------------------------------ folder, git and bucket
def git(*words: str, at: Path, said: str = "") -> str:
    return subprocess.run(["git", *words], cwd=at, check=True, capture_output=True, text=True, input=said).stdout


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where an S3-compatible server listens that verifies signatures."""
    program = built("./s3", tmp_path_factory.mktemp("go"))
    server = subprocess.Popen([str(program), "ledger", "AKIA1", SECRET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://{server.stdout.readline().strip()}"
    finally:
        server.communicate("")


class Kept:
    """What an anchor holds, as somebody who never saw the gateway reads it."""

    def __init__(self, kind: str, folder: Path, upstreams: Upstreams, address: str = "") -> None:
        self.kind, self.folder = kind, folder
        self.anchor: Anchor
        if kind == "folder":
            self.anchor = FolderAnchor(folder / "mailbox", OWN)
        elif kind == "git":
            git("init", "-q", "--bare", "remote.git", at=folder)
            self.anchor = GitAnchor(folder / "own.git", str(folder / "remote.git"), "checkpoints", OWN)
        else:
            credentials = Credentials("AKIA1", SECRET, "eu-central-1")
            self.anchor = BucketAnchor(BucketClient(address, "ledger", folder.name, credentials, upstreams.send, now), OWN)

    async def held(self, size: int) -> str:
        if self.kind == "folder":
            return (self.folder / "mailbox" / name_of(size)).read_text()
        if self.kind == "git":
            commits = git("log", "--format=%H %s", "checkpoints", at=self.folder / "remote.git").splitlines()
            commit = next(line.split()[0] for line in commits if line.endswith(f" {size} records"))
            return git("show", f"{commit}:checkpoint", at=self.folder / "remote.git")
        assert isinstance(self.anchor, BucketAnchor)
        status, body = await self.anchor._bucket.ask("GET", name_of(size), {}, b"")
        assert status == 200
        return body.decode()


def now() -> int:
    return int(datetime.now(UTC).timestamp() * 1_000_000)


@pytest.fixture(params=["folder", "git", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, upstreams: Upstreams) -> Kept:
    return Kept(request.param, tmp_path, upstreams, request.getfixturevalue("s3") if request.param == "s3" else "")


@pytest.mark.timeout(500)  # Go may have to compile the server first
async def test_every_checkpoint_is_kept_as_it_was_signed_and_the_same_twice_is_once(kept: Kept) -> None:
    for size in (3, 9, 9, 1000):
        await put(kept.anchor, size)
    for size in (3, 9, 1000):
        assert await kept.held(size) == note(size)


@pytest.mark.timeout(500)
async def test_a_log_that_was_rewritten_to_the_same_size_is_a_conflict_and_nothing_is_overwritten(kept: Kept) -> None:
    await put(kept.anchor, 9)
    with pytest.raises(AnchorConflictError, match="another checkpoint of 9 records"):
        await put(kept.anchor, 9, root=8)
    assert await kept.held(9) == note(9)


@pytest.mark.parametrize("kind", ["folder", "git"])
async def test_a_log_that_was_set_back_is_a_conflict(kind: str, tmp_path: Path, upstreams: Upstreams) -> None:
    kept = Kept(kind, tmp_path, upstreams)
    await put(kept.anchor, 9)
    with pytest.raises(AnchorConflictError, match=r"holds a checkpoint of 9 records, and there are 5: the log was set back"):
        await put(kept.anchor, 5)
    assert await kept.held(9) == note(9)


async def test_a_thief_of_the_folder_cannot_pass_off_his_own_checkpoint_as_the_logs(tmp_path: Path) -> None:
    (tmp_path / name_of(50)).write_text(note(50, key=Ed25519PrivateKey.generate()))
    with pytest.raises(AnchorConflictError, match="what is no checkpoint of this log"):
        await put(FolderAnchor(tmp_path, OWN), 60)


async def test_a_folder_that_cannot_be_written_is_a_failure_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnchorFailedError, match="folder"):
        await put(FolderAnchor(tmp_path / "file" / "inner", OWN), 3)


# -------------------------------------------------------------------------------------------------------------------- git
async def test_our_own_repository_may_be_lost(tmp_path: Path, upstreams: Upstreams) -> None:
    kept = Kept("git", tmp_path, upstreams)
    await put(kept.anchor, 3)
    shutil.rmtree(tmp_path / "own.git")
    await put(kept.anchor, 9)
    assert git("log", "--format=%s", "checkpoints", at=tmp_path / "remote.git").splitlines() == [
        "example.org/ledger: 9 records", "example.org/ledger: 3 records",
    ]  # fmt: skip


async def test_a_branch_that_holds_something_else_is_not_overwritten(tmp_path: Path, upstreams: Upstreams) -> None:
    kept = Kept("git", tmp_path, upstreams)
    await put(kept.anchor, 3)
    remote = tmp_path / "remote.git"
    blob = git("hash-object", "-w", "--stdin", at=remote, said="mine").strip()
    tree = git("mktree", at=remote, said=f"100644 blob {blob}\tcheckpoint\n").strip()
    who = ("-c", "user.name=x", "-c", "user.email=x@y")
    commit = git(*who, "commit-tree", tree, "-m", "x", at=tmp_path / "remote.git").strip()
    git("update-ref", "refs/heads/checkpoints", commit, at=tmp_path / "remote.git")
    with pytest.raises(AnchorConflictError, match="no checkpoint of this log"):
        await put(kept.anchor, 9)
    assert git("rev-parse", "checkpoints", at=tmp_path / "remote.git").strip() == commit


async def test_hooks_and_questions_of_git_are_not_run(tmp_path: Path) -> None:
    """A template that plants hooks, and a remote that wants a password: nothing is run, nothing is asked, it fails at once."""
    git("init", "-q", "--bare", "remote.git", at=tmp_path)
    anchor = GitAnchor(tmp_path / "own.git", str(tmp_path / "remote.git"), "checkpoints", OWN)
    await put(anchor, 3)
    hook = tmp_path / "own.git/hooks/pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\nexit 1\n")
    hook.chmod(0o755)
    await put(anchor, 9)
    assert not (tmp_path / "hooked").exists()
    absent = GitAnchor(tmp_path / "other.git", str(tmp_path / "nowhere.git"), "checkpoints", OWN)
    with pytest.raises(AnchorFailedError, match="git ls-remote: "):
        await put(absent, 3)


# --------------------------------------------------------------------------------------------------------------------- S3
def test_a_request_is_signed_as_the_documentation_of_s3_has_it() -> None:
    """Amazon's own example of a PUT (Signature Version 4, "Authenticating Requests: Using the Authorization Header")."""
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    headers = {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
    at = datetime(2013, 5, 24, tzinfo=UTC)
    sent = signed(
        credentials, "PUT", "examplebucket.s3.amazonaws.com", "/test%24file.text", headers, b"Welcome to Amazon S3.", at
    )
    assert sent["authorization"].endswith("Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")


@pytest.mark.timeout(500)
async def test_a_wrong_secret_is_refused_by_the_server_and_shown_nowhere(s3: str, tmp_path: Path, upstreams: Upstreams) -> None:
    credentials = Credentials("AKIA1", "another-secret", "eu-central-1")
    anchor = BucketAnchor(BucketClient(s3, "ledger", tmp_path.name, credentials, upstreams.send, now), OWN)
    with pytest.raises(AnchorFailedError, match="the bucket answers 403") as caught:
        await put(anchor, 3)
    assert "another-secret" not in f"{caught.value}{credentials!r}"


async def test_a_bucket_that_is_away_is_a_failure(tmp_path: Path, upstreams: Upstreams) -> None:
    anchor = BucketAnchor(BucketClient("http://127.0.0.1:9", "ledger", "", Credentials("a", "b", "c"), upstreams.send, now), OWN)
    with pytest.raises(AnchorFailedError, match="cannot be reached"):
        await put(anchor, 3)


# ------------------------------------------------------------------------------------------------------------- timestamps
CONFIG = """\
[req]
distinguished_name = dn
prompt = no
[dn]
CN = Test TSA
[tsa]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
[ca]
basicConstraints = critical,CA:TRUE
[tsa_config]
serial = serial
crypto_device = builtin
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ordering = no
tsa_name = yes
ess_cert_id_alg = sha256
"""


def openssl(*words: str, at: Path, said: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], cwd=at, check=True, capture_output=True, input=said).stdout


@contextmanager
def authority(folder: Path) -> Iterator[SimpleNamespace]:
    """`openssl ts` behind HTTP, with a root of its own.  `spoil` changes the reply before it is sent."""
    if shutil.which("openssl") is None:
        pytest.skip("SKIPPED LOUDLY: openssl is not on this machine: no authority can be asked")
    folder.mkdir()
    (folder / "tsa.cnf").write_text(CONFIG)
    (folder / "serial").write_text("01\n")
    make = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-config", "tsa.cnf", "-extensions", "ca")
    openssl(*make, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test root", at=folder)
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-config", "tsa.cnf", "-keyout", "tsa.key", "-out", "tsa.csr", at=folder)
    sign = ("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30")
    openssl(*sign, "-extfile", "tsa.cnf", "-extensions", "tsa", "-out", "tsa.pem", at=folder)
    here = SimpleNamespace(spoil=lambda reply: reply, folder=folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (folder / "query.tsq").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            words = (
                "ts",
                "-reply",
                "-config",
                "tsa.cnf",
                "-section",
                "tsa_config",
                "-queryfile",
                "query.tsq",
                "-out",
                "reply.tsr",
            )
            openssl(*words, at=folder)
            reply = here.spoil((folder / "reply.tsr").read_bytes())
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    here.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield here
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ProofStore]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    journal = await opened(url)
    await journal.close()
    made = ProofStore(url)
    yield made
    made.close()


async def opened(url: str) -> Journal:
    clock = iter(range(1_763_800_000_000_000, 2**53))
    return await Journal.open(
        url=url,
        origin=OWN.name,
        signing_key=KEY,
        seal_key=bytes(32),
        writer="gw",
        clock=lambda: next(clock),
        checkpoint_seconds=3600,
    )


def tokens(path: Path) -> list[tuple[int, str, bytes]]:
    import sqlite3

    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT size, authority, token FROM ledger_timestamps").fetchall()
    connection.close()
    return rows


async def test_an_authoritys_token_is_kept_written_out_with_the_tiles_and_verified_by_openssl_alone(
    tmp_path: Path, upstreams: Upstreams, store: ProofStore
) -> None:
    with authority(tmp_path / "tsa") as tsa:
        roots = x509.load_pem_x509_certificates((tsa.folder / "ca.pem").read_bytes())
        posts = {"tsa": Post(TimestampAnchor("tsa", tsa.url, roots, store, upstreams.send), 3600)}
        anchoring, recorded = Anchoring(store, OWN, posts, now), list[Entry]()

        async def append(entry: Entry) -> Receipt:
            recorded.append(entry)
            return Receipt(OWN.name, entry.id, 9, b"")

        anchoring.recording(append)
        assert await anchoring.once("tsa")
        rows = SqlReader(f"sqlite:///{tmp_path / 'ledger.db'}")
        try:
            write(rows, tmp_path / "www", key=str(OWN))
        finally:
            rows.close()
        (token,) = (tmp_path / "www/timestamps").glob("*.tsa.tsr")
        signed = token.with_name(token.name.replace(".tsa.tsr", ".checkpoint"))
        assert signed.read_text() == (tmp_path / "www/checkpoint").read_text()
        words = ("ts", "-verify", "-data", str(signed), "-in", str(token), "-CAfile", "ca.pem")
        assert b"Verification: OK" in openssl(*words, at=tsa.folder)
        (said,) = recorded
        size = notes.parse(signed.read_text())[0].size
        digest = f"sha256:{hashlib.sha256(token.read_bytes()).hexdigest()}"
        assert (said.kind, said.fields) == ("anchor.timestamp", {"anchor": "tsa", "size": size, "token": digest})


async def test_a_token_by_somebody_else_or_of_something_else_is_not_kept(
    tmp_path: Path, upstreams: Upstreams, store: ProofStore
) -> None:
    with authority(tmp_path / "tsa") as tsa, authority(tmp_path / "other") as other:
        roots = x509.load_pem_x509_certificates((tsa.folder / "ca.pem").read_bytes())
        with pytest.raises(AnchorFailedError, match="does not verify"):
            await TimestampAnchor("tsa", other.url, roots, store, upstreams.send).put(head(9), note(9))
        earlier = tsa.folder / "earlier.tsr"
        anchor = TimestampAnchor("tsa", tsa.url, roots, store, upstreams.send)
        await anchor.put(head(5), note(5))
        earlier.write_bytes(tokens(tmp_path / "ledger.db")[0][2])
        tsa.spoil = lambda _: earlier.read_bytes()  # an old token, played again
        with pytest.raises(AnchorFailedError, match="does not verify"):
            await anchor.put(head(9), note(9))
        tsa.spoil = lambda reply: reply[:-20]
        with pytest.raises(AnchorFailedError, match="does not verify"):
            await anchor.put(head(9), note(9))
    assert [row[0] for row in tokens(tmp_path / "ledger.db")] == [5]


# --------------------------------------------------------------------------------------------------------------- the loop
class Fickle:
    """An anchor that fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.took: list[int] = []

    async def put(self, head: Checkpoint, note: str) -> None:
        if self.failures:
            self.failures -= 1
            raise AnchorFailedError("says no")
        self.took.append(head.size)


async def test_an_anchor_that_fails_is_named_until_it_takes_and_has_a_place_of_its_own(store: ProofStore, tmp_path: Path) -> None:
    good, bad = Fickle(0), Fickle(2)
    anchoring = Anchoring(store, OWN, {"good": Post(good, 60), "bad": Post(bad, 60)}, now)
    assert [await anchoring.once("good"), await anchoring.once("bad")] == [True, False]
    assert anchoring.faults == {"bad": "says no"}
    assert list(anchoring.anchored) == ["good"]
    assert [await anchoring.once("bad"), await anchoring.once("bad")] == [False, True]
    assert (anchoring.faults, good.took == bad.took, len(bad.took)) == ({}, True, 1)
    again = Anchoring(store, OWN, {"good": Post(good, 60), "bad": Post(bad, 60)}, now)  # as after a restart
    assert await again.once("good")
    assert len(good.took) == 1  # nothing new, nothing pushed
    journal = await opened(f"sqlite:///{tmp_path / 'ledger.db'}")
    await journal.append(Entry("decision.deny", "d-1", 1))
    await journal.close()
    assert await again.once("good")
    assert good.took[1] > good.took[0]


async def test_a_ledger_that_was_set_back_behind_its_folder_is_not_opened(store: ProofStore, tmp_path: Path) -> None:
    posts = {"mailbox": Post(FolderAnchor(tmp_path / "mailbox", OWN), 60)}
    await asyncio.to_thread(Anchoring(store, OWN, posts, now).check_before_start)
    await put(posts["mailbox"].anchor, 1000)
    with pytest.raises(LedgerUnavailableError, match=r"the anchor mailbox holds a checkpoint of 1000 records.*set back"):
        await asyncio.to_thread(Anchoring(store, OWN, posts, now).check_before_start)


async def test_what_our_key_did_not_sign_keeps_nobody_from_starting(store: ProofStore, tmp_path: Path) -> None:
    folder = tmp_path / "mailbox"
    folder.mkdir()
    (folder / name_of(1000)).write_text(note(1000, key=Ed25519PrivateKey.generate()))
    posts = {"mailbox": Post(FolderAnchor(folder, OWN), 60)}
    anchoring = Anchoring(store, OWN, posts, now)
    await asyncio.to_thread(anchoring.check_before_start)
    assert not await anchoring.once("mailbox")  # but it is said
    assert "no checkpoint of this log" in anchoring.faults["mailbox"]
