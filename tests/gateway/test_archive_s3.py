"""A bucket as the archive: put once, read back, under a lock that it enforces; a server not written here checks signatures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from audit.archive import ArchiveError
from audit.model import TamperedError
from gateway.anchors.s3 import BucketClient, Credentials
from gateway.archive_s3 import BucketArchive
from gateway.model import wall_clock
from gateway.upstream.client import Upstreams

from .test_anchors import SECRET, s3

__all__ = ["s3"]  # the fixture

KEEP = 1_800_000_000_000_000


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams()
    yield made
    await made.aclose()


def archive(address: str, prefix: str, upstreams: Upstreams, *, locked: bool = False) -> BucketArchive:
    bucket = BucketClient(address, "ledger", prefix, Credentials("AKIA1", SECRET, "eu-central-1"), upstreams.send, wall_clock)
    return BucketArchive(bucket, asyncio.get_running_loop(), object_lock=locked)


async def test_a_file_is_taken_once_and_given_back(s3: str, tmp_path: Path, upstreams: Upstreams) -> None:
    place = archive(s3, tmp_path.name, upstreams)

    def work() -> bytes:
        place.put("a/b.zst", b"one" * 100_000, KEEP)
        place.put("a/b.zst", b"one" * 100_000, KEEP)
        with pytest.raises(TamperedError, match="other contents"):
            place.put("a/b.zst", b"two", KEEP)
        with pytest.raises(ArchiveError, match="404"):
            place.get("a/c.zst")
        return place.get("a/b.zst")

    assert await asyncio.to_thread(work) == b"one" * 100_000


class Locking(BaseHTTPRequestHandler):
    """A bucket that notes what lock it is asked for, and has none where its name says so."""

    asked: list[dict[str, str]]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(400 if "unlocked" in self.path else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@pytest.fixture
def locking() -> Iterator[tuple[str, list[dict[str, str]]]]:
    asked: list[dict[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Noting", (Locking,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_lock_is_asked_for_until_the_records_time_and_signed(
    locking: tuple[str, list[dict[str, str]]], upstreams: Upstreams
) -> None:
    address, asked = locking
    await asyncio.to_thread(archive(address, "x", upstreams, locked=True).put, "a", b"data", KEEP)
    (headers,) = asked
    assert headers["x-amz-object-lock-mode"] == "COMPLIANCE"
    assert headers["x-amz-object-lock-retain-until-date"] == "2027-01-15T08:00:00Z"
    assert "x-amz-object-lock-retain-until-date" in headers["authorization"]
    assert headers["if-none-match"] == "*"
    with pytest.raises(ArchiveError, match="Object Lock"):
        await asyncio.to_thread(archive(address, "unlocked", upstreams, locked=True).put, "a", b"data", KEEP)


async def test_a_bucket_that_is_away_is_said(upstreams: Upstreams) -> None:
    away = archive("http://127.0.0.1:9", "x", upstreams)
    with pytest.raises(ArchiveError, match="cannot be reached"):
        await asyncio.to_thread(away.put, "a", b"data", KEEP)
    with pytest.raises(ArchiveError, match="cannot be reached"):
        await asyncio.to_thread(away.get, "a")
