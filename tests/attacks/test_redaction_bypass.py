"""A field that policy blanks, carried past the walk of keys: as a document inside a text, escaped, or spelled out in prose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.obligations.blank import redact
from gateway.obligations.detect import MARK

SECRET = "DE02120300000000202051"
FIELDS = frozenset({"iban", "bank_account"})
DOCUMENT = json.dumps({"supplier": "S-77", "IBAN": SECRET})


@pytest.mark.parametrize(
    "structured",
    [
        {"result": DOCUMENT},  # what SDKs make of a tool that returns a text
        {"rows": [{"raw": json.dumps([json.loads(DOCUMENT)])}]},
        {"result": json.dumps(DOCUMENT)},
        {"result": json.dumps({"again": DOCUMENT})},
        {"result": f'{{"\\u0069ban": "{SECRET}"}}'},
        {"result": f'{{"\\u0069ban": "{SECRET}", "broken": "\\ud800"}}'},
        {"result": f"{{'iban': '{SECRET}'}}"},  # a document of another language
        {"result": f"supplier;IBAN\nS-77;{SECRET}"},
        {"note": f"The IBAN is {SECRET}."},
    ],
    ids=["json", "nested", "twice", "inside", "escaped", "broken", "repr", "csv", "prose"],
)
def test_a_blanked_field_is_not_carried_by_a_text_inside_the_result(structured: dict[str, Any]) -> None:
    for result in (
        {"structuredContent": structured},
        {"content": [{"type": "text", "text": json.dumps(structured)}]},
        {"content": [], "_meta": {"debug": structured}},
    ):
        assert SECRET not in json.dumps(redact(result, FIELDS))


def test_a_link_does_not_carry_it_either() -> None:
    link = {"type": "resource_link", "uri": f"data:,iban={SECRET}", "name": "account", "description": f"bank_account {SECRET}"}
    assert SECRET not in json.dumps(redact({"content": [link]}, FIELDS))


def test_texts_that_name_no_blanked_field_stay_as_they_are() -> None:
    structured = {"path": "C:\\temp", "said": 'a "quoted" word', "part": "the ibanez guitar", "number": "12", "doc": '{"a": 1}'}
    assert redact({"structuredContent": structured}, FIELDS) == {"structuredContent": structured}
    assert redact({"structuredContent": {"doc": DOCUMENT}}, FIELDS)["structuredContent"]["doc"] == json.dumps(
        {"supplier": "S-77", "IBAN": MARK}, separators=(",", ":")
    )
