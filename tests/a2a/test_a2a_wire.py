"""Reading: one text, one meaning; what is sent on reads back as what was checked."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from a2a.types import a2a_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from gateway.a2a.wire import UnreadableError, dump, load, to_json, to_proto

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
structs = st.dictionaries(texts, values, max_size=3)
parts = st.fixed_dictionaries({"text": texts}) | st.fixed_dictionaries({"data": values}, optional={"metadata": structs})
requests = st.fixed_dictionaries(
    {
        "message": st.fixed_dictionaries(
            {"messageId": texts, "role": st.sampled_from(["ROLE_USER", "ROLE_AGENT"]), "parts": st.lists(parts, max_size=3)},
            optional={"taskId": texts, "contextId": texts, "referenceTaskIds": st.lists(texts, max_size=3), "metadata": structs},
        )
    },
    optional={"tenant": texts, "metadata": structs, "unheardOf": values},
)


@given(requests)
def test_what_is_sent_on_reads_back_as_what_was_checked(request: Any) -> None:
    checked = to_proto(load(json.dumps(request).encode(), depth=64), pb.SendMessageRequest())
    again = to_proto(load(dump(to_json(checked)), depth=64), pb.SendMessageRequest())
    assert again == checked


@given(st.binary(max_size=60))
def test_reading_noise_fails_in_one_way_only(noise: bytes) -> None:
    with suppress(UnreadableError):
        to_proto(load(noise, depth=8), pb.SendMessageRequest())


@given(values)
def test_reading_json_of_another_shape_fails_in_one_way_only(value: Any) -> None:
    for wrapped in (value, {"message": value}, {"message": {"parts": [value], "metadata": value, "taskId": value}}):
        with suppress(UnreadableError):
            to_json(to_proto(wrapped, pb.SendMessageRequest()))


@pytest.mark.parametrize(
    "text",
    [
        '{"message": {"taskId": "a", "task_id": "a"}}',
        '{"message": {"parts": [{"mediaType": "a", "media_type": "b"}]}}',
        '{"configuration": {"returnImmediately": true, "return_immediately": false}}',
        '{"message": {"role": 1}}',
        '{"message": {"role": "role_user"}}',
        '{"message": {"parts": [{"text": "a", "raw": ""}]}}',
        '{"message": {"messageId": 5}}',
        '{"message": [1]}',
        '{"message": "hi"}',
        '{"message": {"parts": ["hi"]}}',
        '{"message": {"parts": [{"text": "a"}, 1]}}',
        '{"configuration": "hi"}',
        '{"configuration": {"historyLength": 1.5}}',
        '{"configuration": {"historyLength": 99999999999}}',
        '{"message": {"metadata": {"a": 1%s}}}' % ("0" * 400),
        '{"message": {"parts": [{"data": {"a": -1%s}}]}}' % ("0" * 400),
    ],
)
def test_what_readers_could_read_differently_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError):
        to_proto(load(text.encode(), depth=16), pb.SendMessageRequest())


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":1}',
        "[NaN]",
        "[-Infinity]",
        "[1e400]",
        "[01]",
        "[1,]",
        "{'a':1}",
        '"\t"',
        "",
        " ",
        "1 2",
    ],
)
def test_text_that_is_not_strict_json_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError):
        load(text.encode(), depth=8)


def test_depth_and_pieces_are_bounded_exactly() -> None:
    assert load(b"[[[1]]]", depth=3) == [[[1]]]
    assert load(b"[1,2,3]", depth=3, nodes=4) == [1, 2, 3]
    for text, bounds in ((b"[[[[1]]]]", {"depth": 3}), (b"[1,2,3,4]", {"depth": 3, "nodes": 4})):
        with pytest.raises(UnreadableError):
            load(text, **bounds)
