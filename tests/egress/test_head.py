"""The head of a CONNECT has one reading, or none."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.egress import head as module
from gateway.egress.head import HEAD_BYTES, Head, HeadError, Target

GOOD = b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nUser-Agent: x\r\n\r\n"
API = Target("api.example.com", 443)


def read(data: bytes, size: int = 0) -> Target | int:
    """The target, or the status of the refusal; 0 for a head that is not whole.  Fed in pieces of `size`, or at once."""
    head = Head()
    try:
        for at in range(0, len(data), size or len(data)):
            if (target := head.feed(data[at : at + (size or len(data))])) is not None:
                return target if at + (size or len(data)) >= len(data) else 400
    except HeadError as error:
        return error.status
    return 0


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        b"CONNECT api.example.com:443 HTTP/1.0\r\n\r\n",  # Python's http.client, up to 3.11
        b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: 127.0.0.1:3128\r\nConnection: close\r\n\r\n",  # Node's http
        b"CONNECT API.Example.com:443 HTTP/1.1\r\nhost: api.example.com\r\n\r\n",
        GOOD.replace(
            b"User-Agent: x", b"Proxy-Authorization: Basic eDp5\r\nUser-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive"
        ),
    ],
)
def test_the_heads_of_real_clients_are_read_at_once_and_one_byte_at_a_time(data: bytes) -> None:
    assert read(data) == API
    assert read(data, 1) == API
    assert read(data, 7) == API


def asking(target: bytes, *fields: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"CONNECT " + target + b" " + version + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


BAD_TARGETS = {
    "nul": b"api.example.com\0.evil.test:443",
    "nul at the end": b"api.example.com\0:443",
    "user": b"user@api.example.com:443",
    "escape": b"api%2eexample.com:443",
    "trailing dot": b"api.example.com.:443",
    "two dots": b"api..example.com:443",
    "space": b"api.example.com :443",
    "tab": b"api.example.com\t:443",
    "underscore": b"a_b.example.com:443",
    "hyphen": b"-api.example.com:443",
    "fullwidth dot": "api．example.com:443".encode(),
    "ideographic dot": "api。example.com:443".encode(),
    "umlaut": "bücher.example:443".encode(),
    "decimal address": b"2130706433:443",
    "octal address": b"0177.0.0.1:443",
    "hexadecimal address": b"0x7f.0.0.1:443",
    "short address": b"127.1:443",
    "address": b"127.0.0.1:443",
    "ipv6": b"[::1]:443",
    "ipv6 zone": b"[fe80::1%25eth0]:443",
    "ipv6 mapped": b"[::ffff:127.0.0.1]:443",
    "ipv6 bare": b"::1:443",
    "no port": b"api.example.com",
    "empty port": b"api.example.com:",
    "port 0": b"api.example.com:0",
    "port with zero": b"api.example.com:0443",
    "port with sign": b"api.example.com:+443",
    "port too large": b"api.example.com:65536",
    "port in digits of another script": "api.example.com:４４３".encode(),
    "empty": b"",
    "only a port": b":443",
    "absolute": b"http://api.example.com:443",
    "with a path": b"api.example.com:443/",
    "long label": b"a" * 64 + b".example.com:443",
    "long name": b"a." * 126 + b"example:443",
    "wildcard": b"*.example.com:443",
}


@pytest.mark.parametrize("target", BAD_TARGETS.values(), ids=BAD_TARGETS.keys())
def test_a_target_that_is_not_a_plain_name_and_port_is_refused(target: bytes) -> None:
    assert read(asking(target)) in (400, 403)
    assert read(asking(target), 1) in (400, 403)


BAD_HEADS = {
    "second host": asking(b"api.example.com:443", b"Host: api.example.com:443", b"Host: api.example.com:443"),
    "another host": asking(b"api.example.com:443", b"Host: evil.test:443"),
    "another port in host": asking(b"api.example.com:443", b"Host: api.example.com:80"),
    "length": asking(b"api.example.com:443", b"Content-Length: 5") + b"abcde",
    "length of nothing": asking(b"api.example.com:443", b"Content-Length: 0"),
    "chunks": asking(b"api.example.com:443", b"Transfer-Encoding: chunked"),
    "upgrade": asking(b"api.example.com:443", b"Upgrade: h2c"),
    "space before the colon": asking(b"api.example.com:443", b"Host : api.example.com:443"),
    "folded line": asking(b"api.example.com:443", b"X: a", b" b"),
    "bare LF": GOOD.replace(b"\r\n", b"\n"),
    "one bare LF": GOOD.replace(b"x\r\n", b"x\nHost: evil.test\r\n"),
    "bare CR": GOOD.replace(b"x\r\n", b"x\rHost: evil.test\r\n"),
    "nul in a field": asking(b"api.example.com:443", b"X: a\0b"),
    "no colon": asking(b"api.example.com:443", b"Host"),
    "empty name": asking(b"api.example.com:443", b": x"),
    "two spaces": asking(b" api.example.com:443"),
    "another version": asking(b"api.example.com:443", version=b"HTTP/2.0"),
    "no version": b"CONNECT api.example.com:443\r\n\r\n",
    "lower-case method": GOOD.replace(b"CONNECT", b"connect"),
    "leading empty line": b"\r\n" + GOOD,
    "leading space": b" " + GOOD,
    "pipelined": GOOD + b"GET / HTTP/1.1\r\n\r\n",
    "connect inside": GOOD + GOOD,
}


@pytest.mark.parametrize("data", BAD_HEADS.values(), ids=BAD_HEADS.keys())
def test_a_head_that_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    assert read(data) == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x05\x01\x00", 400),
        (b"\x04\x01\x01\xbb\x7f\x00\x00\x01\x00", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405),
        (b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 405),
        (b"POST ", 405),
        (b"\0", 400),
    ],
)
def test_what_is_no_connect_is_refused_at_its_first_bytes(data: bytes, status: int) -> None:
    assert read(data) == status
    assert read(data, 1) == status


def test_plain_http_is_told_what_to_do_instead() -> None:
    with pytest.raises(HeadError, match="use https://"):
        Head().feed(b"GET http://api.example.com/ HTTP/1.1\r\n\r\n")


def test_a_head_is_bounded_in_bytes_and_in_fields() -> None:
    assert read(b"CONNECT api.example.com:443 HTTP/1.1\r\nX: " + b"a" * HEAD_BYTES) == 431
    assert read(b"CONNECT " + b"a" * HEAD_BYTES, 1000) == 431
    assert read(asking(b"api.example.com:443", *[b"X: y"] * 65)) == 431


# --- against another definition of what is right

FORBIDDEN = rb"(?!host:|content-length:|transfer-encoding:|upgrade:|expect:|trailer:|te:)"
FIELD = rb"(?:" + FORBIDDEN + rb"[!#$%&'*+.^_`|~0-9a-z-]{1,64}:[\t\x20-\x7e\x80-\xff]*\r\n)"
HEAD = re.compile(
    rb"CONNECT ((?=[^:]{1,253}:)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?):([1-9][0-9]{0,4})"
    rb" HTTP/1\.[01]\r\n"
    + FIELD
    + rb"*(?:host:[ \t]*(?:\1(?::\2)?|127\.0\.0\.1:3128|localhost:3128)[ \t]*\r\n)?"
    + FIELD
    + rb"*\r\n",
    re.IGNORECASE,
)


def expected(data: bytes) -> Target | None:
    """The grammar as one expression: slow, and written without a look at the parser."""
    found = HEAD.fullmatch(data)
    if found is None or not data.startswith(b"CONNECT ") or b"HTTP/" not in data.split(b"\r\n")[0] or int(found[2]) > 65535:
        return None
    return Target(found[1].decode().lower(), int(found[2]))


def mutated(rng: random.Random) -> bytes:
    """A head that is right, or nearly so."""
    right = [b"api.example.com:443", b"a.b:1", b"xn--bcher-kva.example:65535"]
    target = rng.choice(right if rng.random() < 0.7 else [*BAD_TARGETS.values()])
    fields = [
        b"Host: " + target,
        b"User-Agent: x",
        b"Content-Length: 0",
        b"X:",
        b"Proxy-Authorization: Basic eDp5",
        b"Host: b.test",
        b"X : y",
    ]
    data = bytearray(asking(target, *rng.sample(fields, rng.randrange(4)), version=rng.choice([b"HTTP/1.1", b"HTTP/1.0"])))
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(data))
        piece = rng.choice(
            [b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b".", b":", b"%", b"@", b"\x80", b"_", b"-", b"0", b"A", b""]
        )
        data[at : at + rng.randrange(2)] = piece
    return bytes(data)


def disagreements(count: int, seed: int = 7) -> Iterator[bytes]:
    """Heads on which the parser and the grammar differ, or on which it matters how they come in."""
    rng = random.Random(seed)
    for _ in range(count):
        data = mutated(rng)
        found = [read(data, size) for size in (0, 1, rng.randrange(2, 20))]
        wanted = expected(data)
        agreed = all(each == wanted if wanted is not None else not isinstance(each, Target) for each in found)
        if not agreed:
            yield data


def test_the_parser_agrees_with_the_grammar_on_a_fuzzed_corpus() -> None:
    assert list(disagreements(4000)) == []
    rng = random.Random(7)
    assert sum(expected(mutated(rng)) is not None for _ in range(4000)) > 200  # and it is not only refusals that agree


Plant = Callable[[pytest.MonkeyPatch], None]
PLANTED: dict[str, Plant] = {
    "an underscore is a letter": lambda m: m.setattr(module, "_LABEL", re.compile(rb"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")),
    "a label may end in a hyphen": lambda m: m.setattr(module, "_LABEL", re.compile(rb"[a-z0-9-]{1,63}")),
    "an empty label is one": lambda m: m.setattr(module, "_LABEL", re.compile(rb"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?")),
    "a name is matched at its beginning": lambda m: m.setattr(module, "_LABEL", re.compile(rb"[a-z0-9][\x20-\x2d\x2f-\x7e]*")),
    "a port may begin with zero": lambda m: m.setattr(module, "_PORT", re.compile(rb"[0-9]{1,5}")),
    "a length is no framing": lambda m: m.setattr(module, "_FRAMING", frozenset()),
    "a space may stand before the colon": lambda m: m.setattr(
        module, "_FIELD", re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})[ \t]*:[ \t]*([\t\x20-\x7e\x80-\xff]*)")
    ),
    "a field may hold anything": lambda m: m.setattr(module, "_FIELD", re.compile(rb"([^:]+):(.*)", re.DOTALL)),
    "fields are not looked at": lambda m: m.setattr(module, "_check", lambda *_: None),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED.keys())
def test_the_comparison_finds_a_planted_mistake(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert next(disagreements(4000), None) is not None


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail_otherwise_than_by_a_refusal(data: bytes) -> None:
    for size in (0, 1):
        if data:
            read(data, size)
            read(b"CONNECT " + data, size)
