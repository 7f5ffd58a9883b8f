"""The form of a token, before anything is verified: junk is refused, never a crash, and never slow."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.identity.keys import b64url
from gateway.identity.strictjson import loads
from gateway.identity.token import MAX_CHARS, VerifiedCache, read
from gateway.model import Refused
from gateway.reasons import Code

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text("abcXYZ019-_.=", max_size=60))
@example("a.b.c\n")
@example("..")
def test_any_text_is_read_or_refused_as_a_bad_credential(text: str) -> None:
    try:
        read(text)
    except Refused as refusal:
        code = refusal.code
    else:
        code = Code.INVALID_CREDENTIAL
    assert code is Code.INVALID_CREDENTIAL


HEADER, PAYLOAD = b64url(b'{"alg":"ES256","typ":"at+jwt","kid":"k"}'), b64url(b'{"a":"bcd"}')


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}.{PAYLOAD}.AB",  # the last bits of B belong to no byte
        f"{HEADER}.{PAYLOAD[:-1]}{chr(ord(PAYLOAD[-1]) + 1)}.AA",
        f"{HEADER}.{PAYLOAD}.AAAAA",
        f"{HEADER}.{PAYLOAD}.AA\n",
        f"{HEADER}.{PAYLOAD}.AA==",
        f" {HEADER}.{PAYLOAD}.AA",
        f"{HEADER}.{PAYLOAD}.",
    ],
)
def test_one_token_has_one_spelling(text: str) -> None:
    assert read(f"{HEADER}.{PAYLOAD}.AA").unverified_claims == {"a": "bcd"}
    with pytest.raises(Refused):
        read(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_in_header_and_payload_are_read_or_refused(header: bytes, payload: bytes) -> None:
    with contextlib.suppress(Refused):
        read(f"{b64url(header)}.{b64url(payload)}.AA")


def test_the_longest_hostile_text_of_strings_costs_one_pass() -> None:
    for junk in (
        b'[[[[[[[[[[[[[["' + b'\\"' * 150_000,
        b'[[[[[[[[[[[[[["' + b'\\"' * 150_000 + b"\\",
        b'"\\' * 150_000 + b"[" * 20,
    ):
        with pytest.raises(ValueError, match=r"not JSON|too deep"):
            loads(junk, 12)
    with pytest.raises(Refused):
        read("A" * (MAX_CHARS + 1))


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_what_json_means_is_what_is_read(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        parsed = loads(text, 1000)
    except ValueError:
        with pytest.raises(UnicodeDecodeError):
            text.decode("utf-8")
    else:
        assert parsed == value


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":{"a":1,"a":1}}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"1" * 21,
        b'"\\ud800"',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":1} {}',
        b"{'a':1}",
        b'"\n"',
        b"\xff",
        b"",
        b"[" * 13 + b"]" * 13,
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text, 12)


def test_brackets_inside_strings_are_no_depth() -> None:
    assert loads(json.dumps(["[" * 100 + '\\"{']).encode(), 3) == ["[" * 100 + '\\"{']


def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago() -> None:
    cache: VerifiedCache[str] = VerifiedCache(most=2)
    key = object()
    for name in ("a", "b"):
        cache.put(name, name, key, now=100, ends=1000)  # type: ignore[arg-type]
    assert cache.get("a", 100) is not None
    cache.put("c", "c", key, now=100, ends=1000)  # type: ignore[arg-type]
    assert [cache.get(name, 100) is not None for name in "abc"] == [True, False, True]
    assert cache.get("a", 160) is None
    cache.put("d", "d", key, now=100, ends=130)  # type: ignore[arg-type]
    assert cache.get("d", 129) is not None
    assert cache.get("d", 130) is None
