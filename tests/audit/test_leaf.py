"""What a leaf is: canonical whatever was put in, never too large, never an exception."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import leaf, verify
from audit.leaf import MAX_LEAF, Commitment, Kind, Stamp
from audit.model import Entry, Value

STAMP = Stamp("gw-1", "0" * 32, 7, "ab" * 32, 123456)
PSEUDONYM = "s_" + "5" * 32

text = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
in_profile = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), inner, max_size=4)
    ),
    max_leaves=25,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | text | st.floats() | st.binary(max_size=5) | st.decimals(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(text | st.integers(), inner, max_size=4),
    max_leaves=25,
)


def compose(fields: dict[str, Any], *, subject: str | None = None) -> bytes:
    return leaf.compose(Entry("call.start", "id-1", 5, subject, fields), "example.org/log", STAMP, PSEUDONYM if subject else None)


def without_own(data: bytes) -> dict[str, Any]:
    own = {"v", "kind", "id", "log", "ts", "writer", "subject"}
    return {name: value for name, value in leaf.parse(data).items() if name not in own}


@given(st.dictionaries(st.sampled_from(["a", "tool", "decision"]), in_profile))
def test_a_record_in_the_profile_is_written_as_rfc_8785_writes_it_and_nothing_is_changed(fields: dict[str, Any]) -> None:
    data = compose(fields)
    assert data == rfc8785.dumps(leaf.parse(data))
    assert without_own(data) == fields


@given(st.dictionaries(st.sampled_from(["a", "tool", "decision"]), anything))
def test_whatever_a_record_holds_there_is_a_canonical_leaf_that_the_verifier_accepts(fields: dict[str, Any]) -> None:
    data = compose(fields)
    assert data == rfc8785.dumps(leaf.parse(data))
    assert verify.parse_record(data) == leaf.parse(data)
    assert len(data) <= MAX_LEAF


@pytest.mark.parametrize(
    "hostile",
    [
        {"tool": "\ud800"},
        {"tool": "x" * 3_000_000},
        {"tool": ["x" * 900] * 5000},
        {"tool": {"é": 1, "\\xe9": 2, "\ud800": 3}},
        {"tool": 2**20000},
        {"tool": -(2**53)},
        {"tool": float("nan"), "b": float("inf"), "c": -0.0, "d": 1e300},
        {"tool": Decimal("1e5"), "b": b"bytes", "c": {1, 2}, "d": object()},
        {f"field{n:03}": "\u0000" * 400 for n in range(500)},
        {"k" * 5000: "v", "k" * 5001: "w"},
    ],
    ids=lambda value: next(iter(value))[:8],
)
def test_a_hostile_record_has_a_leaf_of_bounded_size(hostile: dict[str, Any]) -> None:
    data = compose(hostile, subject="user:corp/ann")
    assert data == rfc8785.dumps(leaf.parse(data))
    assert len(data) <= MAX_LEAF
    assert leaf.parse(data)["id"] == "id-1"


def test_a_record_nested_without_end_has_a_leaf() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    round_and_round: dict[str, Any] = {}
    round_and_round["again"] = round_and_round
    wide: Any = "x"
    for _ in range(30):
        wide = [wide, wide]  # 2^30 texts, were it written out
    for value in (deep, round_and_round):
        assert leaf.parse(compose({"a": value}))["cut"]
    shared = leaf.compose(Entry("call.start", "id-1", 5, None, {"a": MappingProxyType({"w": wide})}), "log", STAMP, None)
    assert len(shared) <= MAX_LEAF


def test_an_over_long_text_is_cut_and_ends_in_a_digest_of_the_whole() -> None:
    long = "ä" * 20_000
    found = leaf.parse(compose({"tool": long, "other": "short"}))
    assert found["cut"] == 1
    assert found["other"] == "short"
    assert str(found["tool"]).startswith("äää")
    assert hashlib.sha256(long.encode()).hexdigest() in str(found["tool"])


def test_a_forged_mark_of_a_cut_does_not_count_as_one() -> None:
    assert "cut" not in leaf.parse(compose({"tool": "[cut: 5 bytes, sha256:00]"}))


def test_fields_that_fill_a_leaf_go_by_their_digest_and_the_small_ones_stay() -> None:
    found = leaf.parse(compose({"big": [str(n) * 100 for n in range(250)], "small": "kept"}))
    assert found["small"] == "kept"
    assert str(found["big"]).startswith("[cut: ")


def test_numbers_outside_the_profile_become_texts() -> None:
    found = without_own(compose({"a": 1.5, "b": 2**53, "c": Decimal("1.10"), "d": True, "e": 2**53 - 1}))
    assert found == {"a": "1.5", "b": str(2**53), "c": "1.10", "d": True, "e": 2**53 - 1}


def test_enumerated_texts_and_read_only_mappings_are_recorded_as_what_they_are() -> None:
    class Colour(StrEnum):
        RED = "red"

    assert without_own(compose({"a": Colour.RED, "b": MappingProxyType({"c": (1, 2)})})) == {"a": "red", "b": {"c": [1, 2]}}


def replaced(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: replaced(item) for name, item in value.items()}
    if isinstance(value, list):
        return [replaced(item) for item in value]
    return PSEUDONYM if value == "@subject" else value


quotes = st.sampled_from(["@subject", '"@subject', '@subject"', '"@subject"', ',"@subject",', '\\"@subject', "\\", '"', "x"])


@given(
    st.recursive(
        quotes, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(quotes | st.just("@subject"), inner), max_leaves=12
    )
)
@settings(max_examples=300)
def test_the_pseudonym_stands_for_exactly_the_values_that_mean_the_subject(value: Any) -> None:
    assert without_own(compose({"a": value}, subject="user:corp/ann")) == {"a": replaced(value)}


def test_without_a_subject_nothing_is_replaced() -> None:
    assert without_own(compose({"a": "@subject"})) == {"a": "@subject"}


def test_a_leaf_holds_its_writers_chain_and_the_commitments() -> None:
    entry = Entry("call.start", "id-1", 5, "user:corp/ann", {}, (Value("args", b"x"),))
    made = leaf.compose(entry, "example.org/log", STAMP, PSEUDONYM, {"args": Commitment("cc", 1, "o_1")})
    assert leaf.parse(made) == {
        "v": 1,
        "kind": "call.start",
        "id": "id-1",
        "log": "example.org/log",
        "ts": 5,
        "subject": PSEUDONYM,
        "writer": {"id": "gw-1", "boot": "0" * 32, "wseq": 7, "wprev": "ab" * 32, "mono": 123456},
        "args": {"c": "cc", "n": 1, "op": "o_1"},
    }


@pytest.mark.parametrize(
    "entry",
    [
        Entry("call.begin", "id", 5),
        Entry("call.start", "", 5),
        Entry("call.start", 'a"b', 5),
        Entry("call.start", "a b", 5),
        Entry("call.start", "x" * 129, 5),
        Entry("call.start", "id", -1),
        Entry("call.start", "id", 2**53),
        Entry("call.start", "id", 5, None, {"writer": "me"}),
        Entry("call.start", "id", 5, None, {"subject": "me"}),
        Entry("call.start", "id", 5, None, {"args": 1}, (Value("args", b""),)),
        Entry("call.start", "id", 5, None, {}, (Value("Args", b""),)),
        Entry("call.start", "id", 5, None, {}, (Value("kind", b""),)),
        Entry("call.start", "id", 5, None, {}, (Value("a", b""), Value("a", b""))),
        Entry("call.start", "id", 5, None, {}, tuple(Value(f"v{n}", b"") for n in range(17))),
    ],
)
def test_an_entry_that_is_none_is_refused(entry: Entry) -> None:
    with pytest.raises(ValueError, match=r".+"):
        leaf.check(entry)


@pytest.mark.parametrize(
    "data",
    [
        b"{}x",
        b'{"b":1,"a":2}',
        b'{"a":1, "b":2}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":9007199254740992}',
        b'{"a":1,"a":1}',
        b'{"\xc3\xa9":1}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"[]",
        b'{"a":NaN}',
        b"",
        b"[" * 100_000,
    ],
)
def test_bytes_that_are_not_the_only_spelling_of_a_record_are_refused_by_reader_and_verifier_alike(data: bytes) -> None:
    for parse in (leaf.parse, verify.parse_record):
        with pytest.raises(ValueError, match=r".+"):
            parse(data)


def test_the_verifier_knows_the_same_kinds() -> None:
    assert {kind.value for kind in Kind} == verify.KINDS
