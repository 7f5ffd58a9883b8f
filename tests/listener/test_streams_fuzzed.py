"""Mutated streams, cut anywhere: our listener says the same however they are cut, and sees no request that others do not."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.listener import connection
from gateway.listener.chunks import Chunks
from gateway.listener.head import FaultyRequestError, Head, read_head
from tests.listener.streams import Seen, made_of
from tests.listener.test_conformance import BAD_CHUNKS, MALFORMED
from tests.listener.test_stricter import CHUNKED, REFUSED
from tests.listener.wire import request

NEXT = request("GET", "/next?q")
WELL_FORMED = [
    request("GET", "/a?b=c", "Accept: */*"),
    request("POST", "/a", "Content-Type: application/json", body=b'{"id": 1}'),
    CHUNKED + b"5\r\nhello\r\n3\r\n, w\r\n0\r\n\r\n",
    CHUNKED + b"1\r\nx\r\n0\r\nX-Trailer: y\r\n\r\n",
    request("HEAD", "/h"),
    b"GET /old HTTP/1.0\r\n\r\n",
    request("POST", "/e", "Expect: 100-continue", body=b"hello"),
    request("POST", "/nested", body=request("GET", "/inner")),
    request("DELETE", "/x", "Connection: keep-alive"),
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"0", b"5", b"\x85", b"\xff", b"\x0b", b"+", b"-", b"chunked",
    b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"transfer-encoding:\tchunked\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Host: b\r\n",
    b"0\r\n\r\n", b"1;x\r\n", b" HTTP/1.1\r\n", b"GET /in HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.0", b"HTTP/1.1", b"\r\n\r\n",
    b"close",
]  # fmt: skip


def mutated(dice: random.Random) -> bytes:
    """One or two requests, broken in one to three places, and a whole one behind them."""
    data = b"".join(dice.choices(WELL_FORMED, k=dice.choice([1, 1, 2])))
    for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
        at = dice.randrange(len(data) + 1)
        if dice.random() < 0.4:
            starts = [n + 2 for n in range(len(data)) if data[n : n + 2] == b"\r\n"]
            at = dice.choice(starts or [at])
        how = dice.randrange(5)
        if how == 0:
            data = data[:at] + dice.choice(TOKENS) + data[at:]
        elif how == 1:
            data = data[:at] + data[at + dice.randrange(1, 4) :]
        elif how == 2:
            data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
        elif how == 3:
            data = data[:at] + dice.choice(TOKENS) + data[at + dice.randrange(1, 12) :]
        else:
            end = at + dice.randrange(1, 30)
            data = data[:end] + data[at:end] + data[end:]
    return data + NEXT


def cuts(data: bytes, dice: random.Random) -> list[bytes]:
    """The stream in segments of random lengths."""
    places = sorted({0, len(data), *(dice.randrange(len(data) + 1) for _ in range(dice.randrange(1, 6)))})
    return [data[a:b] for a, b in pairwise(places)]


def each_byte(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


CORPUS = {
    **{f"well-formed {n}": data + NEXT for n, data in enumerate(WELL_FORMED)},
    **{name: data + NEXT for name, data in MALFORMED.items()},
    **{name: CHUNKED + data + NEXT for name, data in BAD_CHUNKS.items()},
    **{name: data + NEXT for name, (data, _, _) in REFUSED.items() if len(data) < 4000},
}


@pytest.mark.parametrize("name", CORPUS)
async def test_a_stream_means_the_same_wherever_it_is_cut(name: str) -> None:
    data = CORPUS[name]
    whole = await made_of("lean", [data])
    for at in range(1, len(data)):
        assert await made_of("lean", [data[:at], data[at:]]) == whole, at
    assert await made_of("lean", each_byte(data)) == whole


@pytest.mark.parametrize("seed", range(8))
async def test_mutated_streams_mean_the_same_however_they_are_cut(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(150):
        data = mutated(dice)
        whole = await made_of("lean", [data])
        assert await made_of("lean", cuts(data, dice)) == whole, data
        assert await made_of("lean", each_byte(data)) == whole, data


def strange_to_uvicorn(data: bytes) -> bool:
    """Bytes that uvicorn is known to misread; what it does with them stands in `test_stricter.py`."""
    return b"pgrade" in data


@pytest.mark.parametrize("seed", range(8))
async def test_no_mutation_makes_us_see_a_request_that_uvicorn_does_not(seed: int) -> None:
    dice = random.Random(1000 + seed)
    tally = {"served": 0, "refused": 0, "stricter": 0}
    for _ in range(300):
        data = mutated(dice)
        # Byte by byte, because uvicorn forgets whole requests that came in one segment with a broken one behind them.
        ours, theirs = await made_of("lean", [data]), await made_of("uvicorn", each_byte(data))
        tally["served"] += len(ours.asked)
        tally["refused"] += any(status >= 400 for status in ours.statuses)
        if strange_to_uvicorn(data):
            continue
        tally["stricter"] += ours.asked != theirs.asked
        assert known(ours) == known(theirs)[: len(ours.asked)], data
    assert tally["served"] > 150, tally
    assert tally["refused"] > 75, tally
    assert tally["stricter"] > 5, tally


def known(seen: Seen) -> list[tuple[str, str, str, bytes, tuple[tuple[bytes, bytes], ...]]]:
    """Without the two differences that are ours on purpose: white space after a value, and trailers."""
    return [
        (method, path, query, body, tuple((name, value.rstrip(b" \t")) for name, value in headers if name != b"x-trailer"))
        for method, path, query, body, headers in seen.asked
    ]


NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """nginx, which says for each request that it sees what it saw."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    temp = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temp} server {{ listen 127.0.0.1:{port}; "
        f"location / {{ return 200 '<$request_method $request_uri>'; }} }} }}\n"
    )
    command = [str(NGINX), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


async def seen_by_nginx(port: int, data: bytes) -> list[tuple[str, str, str]]:
    for _ in range(500):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionRefusedError:  # it is starting
            await asyncio.sleep(0.01)
    writer.write(data)
    writer.write_eof()
    said = b""
    try:
        while part := await reader.read(65536):
            said += part
    except ConnectionError:
        pass
    writer.close()
    found = []
    for each in said.split(b"<")[1:]:
        method, _, target = each.partition(b">")[0].decode("latin-1").partition(" ")
        path, _, query = target.partition("?")
        found.append((method, path, query))
    return found


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize("seed", range(2))
async def test_no_mutation_makes_us_see_a_request_that_nginx_does_not(tmp_path: Path, seed: int) -> None:
    dice, served = random.Random(2000 + seed), 0
    with nginx(tmp_path) as port:
        for _ in range(200):
            data = mutated(dice)
            ours = await made_of("lean", [data])
            asked = [(method, path, query) for method, path, query, _, _ in ours.asked if method != "HEAD"]
            served += len(asked)
            theirs = await seen_by_nginx(port, data)
            assert [each for each in asked if each not in theirs] == [], (data, theirs)
    assert served > 100


async def finds_a_difference_between_cuts() -> bool:
    dice = random.Random(0)
    for _ in range(300):
        data = mutated(dice)
        if await made_of("lean", each_byte(data)) != await made_of("lean", [data]):
            return True
    return False


async def finds_a_request_of_our_own() -> bool:
    dice = random.Random(0)
    for _ in range(300):
        data = mutated(dice)
        ours, theirs = await made_of("lean", [data]), await made_of("uvicorn", each_byte(data))
        if not strange_to_uvicorn(data) and known(ours) != known(theirs)[: len(ours.asked)]:
            return True
    return False


async def test_the_fuzz_finds_a_listener_that_depends_on_the_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(raw: bytes) -> None:
        if raw.endswith(b": "):
            raise FaultyRequestError(400, "planted")

    monkeypatch.setattr(connection, "check_unfinished", impatient)
    assert await finds_a_difference_between_cuts()


async def test_the_fuzz_finds_a_listener_that_overlooks_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(raw: bytes) -> Head:
        head = read_head(raw)
        head.length = 0
        return head

    monkeypatch.setattr(connection, "read_head", careless)
    assert await finds_a_request_of_our_own()


async def test_the_fuzz_finds_a_listener_that_takes_trailers_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hasty(Chunks):
        def _line(self, line: bytes) -> None:
            super()._line(line)
            self.done = self.done or self._part == "trailer"

    monkeypatch.setattr(connection, "Chunks", Hasty)
    assert await finds_a_request_of_our_own() or await finds_a_difference_between_cuts()
