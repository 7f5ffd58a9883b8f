"""Whose name a TLS client asks for: what the proxy reads is what a server would, or the connection ends."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.egress import hello as module
from gateway.egress.hello import HELLO_BYTES, Answer, Hello, HelloError
from tests.egress.hellos import ECH, GREASE, made, message, real, records, retry_request, server_hello, server_name
from tests.upstream.certificates import self_signed

NAME = b"api.example.com"


def reads(data: bytes, size: int = 0, *, again: bool = False, name: str = NAME.decode()) -> bool:
    """Whether the bytes hold a whole hello for the name; HelloError as the proxy would."""
    hello = Hello(name, again=again)
    found = [hello.feed(data[at : at + (size or len(data) or 1)]) for at in range(0, len(data), size or len(data) or 1)]
    return any(found)


GOOD = {
    "TLS 1.3": real(NAME.decode()),
    "TLS 1.2": real(NAME.decode(), most=ssl.TLSVersion.TLSv1_2),
    "upper case": made(NAME.upper()),
    "GREASE": made(NAME, (GREASE, b""), (0x3A3A, b"\0"), (51, b"\0\x05\x2a\x2a\0\x01\0")),
    "GREASE cipher": records(message([server_name(NAME)], ciphers=b"\x2a\x2a\x13\x01")),
    "three records": records(message([server_name(NAME)]), 1, 30),
    "a record a byte": records(message([server_name(NAME)]), *range(1, 60)),
    "the name cut in two": records(message([server_name(NAME)]), message([server_name(NAME)]).index(NAME) + 4),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
def test_a_whole_hello_for_the_name_passes_however_it_is_cut(data: bytes) -> None:
    assert reads(data)
    assert reads(data, 1)
    assert not reads(data[:-1])
    hello = Hello(NAME.decode())
    assert hello.feed(data + b"\x14\x03\x03")
    assert hello.taken() == (data, b"\x14\x03\x03")


TWICE = [server_name(NAME), server_name(NAME)]
BAD = {
    "another name": made(b"evil.test"),
    "a name beneath": made(b"x.api.example.com"),
    "a name that only ends so": made(b"xapi.example.com"),
    "trailing dot": made(b"api.example.com."),
    "nul": made(b"api.example.com\0"),
    "nul and another": made(b"api.example.com\0.evil.test"),
    "empty name": made(b""),
    "no name": records(message([(43, b"\x02\x03\x04")])),
    "no extensions": records(message(None)),
    "two names": records(message([server_name(NAME, b"evil.test")])),
    "no names": records(message([server_name()])),
    "name of another kind": records(message([server_name(NAME, kind=1)])),
    "said twice": records(message(TWICE)),
    "ECH": made(NAME, (ECH, b"\0" * 64)),
    "ESNI": made(NAME, (0xFFCE, b"\0" * 64)),
    "bytes after the extensions": records(message([server_name(NAME)], after=b"\0")),
    "another message behind": records(message([server_name(NAME)]) + b"\x01\0\0\0"),
    "odd ciphers": records(message([server_name(NAME)], ciphers=b"\x13\x01\0")),
    "HTTP": b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
    "CONNECT inside CONNECT": b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n",
    "SSLv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "server hello": server_hello(),
    "alert": records(b"\x02\x28", kind=21),
    "data first": records(b"\0" * 16, kind=23) + made(NAME),
    "change of ciphers first": records(b"\x01", kind=20) + made(NAME),
    "heartbeat first": records(b"\x01\0\0", kind=24) + made(NAME),
    "empty record": b"\x16\x03\x01\0\0" + made(NAME),
    "alert in between": records(message([server_name(NAME)]), 9)[:14] + records(b"\x01\x00", kind=21),
    "version 2": b"\x16\x02\x01" + made(NAME)[3:],
    "too long a record": b"\x16\x03\x01\xff\xff",
}  # fmt: skip


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_anything_else_is_refused_at_once_or_byte_by_byte(data: bytes) -> None:
    for size in (0, 1):
        with pytest.raises(HelloError):
            reads(data, size)


def test_what_is_no_tls_is_refused_at_its_first_byte() -> None:
    with pytest.raises(HelloError, match="no TLS"):
        Hello("a.test").feed(b"G")


def test_a_hello_that_never_ends_is_bounded() -> None:
    hello = Hello("a.test")
    endless = b"\x01\xff\xff\xff" + bytes(1 << 14)
    for _ in range(HELLO_BYTES // ((1 << 14) + 5)):
        assert not hello.feed(records(endless[: 1 << 14]))
    with pytest.raises(HelloError, match="longer"):
        hello.feed(records(endless[: 1 << 14]) * 2)


def test_before_a_second_hello_only_early_data_and_the_change_of_ciphers_pass() -> None:
    before = records(b"\x01", kind=20) + records(b"\0" * 40, kind=23)
    assert reads(before + made(NAME), again=True)
    assert reads(before + made(NAME), 1, again=True)
    for wrong in (before + made(b"evil.test"), records(b"\x01\x00", kind=21), before + made(NAME, (ECH, b"")), b"GET /"):
        with pytest.raises(HelloError):
            reads(wrong, again=True)


def test_a_server_that_asks_for_another_hello_is_told_from_one_that_does_not() -> None:
    for data, retry in (
        (retry_request(), True),
        (server_hello(), False),
        (records(b"\x02\x28", kind=21), False),
        (b"HTTP/1.1", False),
    ):
        assert Answer().feed(data) is retry
        answer = Answer()
        found = [answer.feed(data[at : at + 1]) for at in range(len(data))]
        assert next((each for each in found if each is not None), None) is retry
    cut = records(retry_request()[5:], 2, 20)
    assert Answer().feed(cut) is True


# --- against OpenSSL's own server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(tmp_path_factory.mktemp("certificate"), NAME.decode()))
    return context


def seen_by(server: ssl.SSLContext, data: bytes) -> list[str | None]:
    """The names that OpenSSL's server takes the bytes to ask for; none where it never comes to that."""
    seen: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: seen.append(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(data)
    with suppress(ssl.SSLError):
        server.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    return seen


def corpus(count: int, seed: int) -> Iterator[bytes]:
    """Real and made hellos, damaged a little: bytes changed, cut out, doubled, records cut anew, names planted."""
    rng = random.Random(seed)
    seeds = [*GOOD.values(), *(data for data in BAD.values() if data[:1] == b"\x16"), made(b"evil.test"), real("evil.test")]
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(data) or 1)
            match rng.randrange(5):
                case 0 if data:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randrange(1, 4)]
                case 2:
                    data[at:at] = data[at : at + rng.randrange(1, 40)]
                case 3 if NAME in data:
                    data = data.replace(NAME, rng.choice([b"evil.example.co", b"api.example.net", b"API.EXAMPLE.COM"]))
                case _ if len(data) > 60:
                    data = bytearray(records(bytes(data[5:]), rng.randrange(1, 50)))
        yield bytes(data)


def fooled(server: ssl.SSLContext, count: int = 6000, seed: int = 11) -> Iterator[bytes]:
    """Bytes that the proxy lets pass for NAME and in which a server sees another name, or none."""
    for data in corpus(count, seed):
        try:
            passed = reads(data)
        except HelloError:
            continue
        seen = seen_by(server, data) if passed else []
        if any(name is None or name.lower() != NAME.decode() for name in seen):
            yield data


def test_no_damaged_hello_passes_under_one_name_and_reaches_a_server_under_another(server: ssl.SSLContext) -> None:
    assert list(fooled(server)) == []
    passing = sum(1 for data in GOOD.values() if [name.lower() for name in seen_by(server, data) if name] == [NAME.decode()])
    assert passing >= 3  # the server really says what it saw


def _contains(body: bytes) -> bytes:
    return NAME if NAME in body.lower() else b""


def _first_of_several(body: bytes) -> bytes:
    at = body.lower().find(NAME)
    return NAME if at >= 0 or b"\0\0" in body else b""


def _last_words(body: bytes) -> bytes:
    return NAME if body.lower().endswith(NAME) or NAME[-5:] in body else b""


PLANTED = {"a search for the name": _contains, "a guess": _first_of_several, "the end of the name": _last_words}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED.keys())
def test_the_comparison_finds_a_planted_mistake(
    server: ssl.SSLContext, planted: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "server_name", planted)
    assert next(fooled(server), None) is not None


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_the_reader_fail_otherwise_than_by_a_refusal(data: bytes, again: bool) -> None:
    for start in (b"", b"\x16\x03\x01", made(NAME)[:60]):
        if start + data:
            try:
                reads(start + data, again=again)
            except HelloError:
                continue
