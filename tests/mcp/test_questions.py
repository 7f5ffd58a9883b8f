"""What a server may ask a client, whatever policy says."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.mcp.questions import FORM, SAMPLING, URL, Rules, answered, declared, guessed, kept, question, secretive
from gateway.model import Refused
from gateway.reasons import Code

RULES = Rules(max_tokens=100, url_hosts=frozenset({"pay.example.com"}))


def form(message: str = "What is your name?", **fields: Any) -> dict[str, Any]:
    properties = fields or {"name": {"type": "string"}}
    return {"message": message, "requestedSchema": {"type": "object", "properties": properties}}


def put(method: str, params: object) -> dict[str, Any]:
    return kept(question(method, params), RULES, "erp")


def refused(method: str, params: object) -> bool:
    try:
        put(method, params)
    except Refused as refusal:
        return refusal.code is Code.QUESTION_REFUSED
    return False


def test_a_form_says_which_server_asks_and_is_else_as_it_was() -> None:
    asked = form(name={"type": "string", "title": "Name", "x-vendor": 1})
    assert put("elicitation/create", asked) == {**asked, "message": "erp asks: What is your name?"}


@pytest.mark.parametrize(
    "fields",
    [
        {"password": {"type": "string"}}, {"pass_word": {"type": "string"}}, {"userPassword": {"type": "string"}},
        {"APIKey": {"type": "string"}}, {"api-key": {"type": "string"}}, {"x": {"type": "string", "title": "Your PIN"}},
        {"x": {"type": "string", "description": "the access token of your account"}}, {"x": {"format": "password"}},
        {"pass\u200bword": {"type": "string"}}, {"\uff50assword": {"type": "string"}}, {"otp": {"type": "integer"}},
        {"creditCard": {"type": "string"}}, {"IBAN": {"type": "string"}}, {"x": "not a field"}, {"seed_phrase": {}},
    ],
)  # fmt: skip
def test_a_form_that_asks_for_a_secret_is_refused(fields: dict[str, Any]) -> None:
    assert refused("elicitation/create", form(**fields))


def test_a_message_that_asks_for_a_secret_is_refused_and_common_words_are_not() -> None:
    assert refused("elicitation/create", form("Please type your password"))
    assert not any(
        map(secretive, ("Pinned items", "How many tokens?", "Secretary", "keyboard layout", "Delete report.pdf?", "spin"))
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://pay.example.com/", "https://evil.example.com/", "https://pay.example.com.evil.com/", "https://pay.example.com@evil.com/",
        "https://u:p@pay.example.com/", "https://pay.example.com:8443/", "javascript:alert(1)", "https:\\\\pay.example.com/",
        "//pay.example.com/",
        "https://pay.example.com\\@evil.com/", "https://p\u0430y.example.com/", "https://pay.example.com/ x", "", 7, None,
        "https://[::1/", "https://pay.example.com./",
    ],
)  # fmt: skip
def test_a_person_is_sent_to_listed_hosts_by_https_alone(url: object) -> None:
    assert refused("elicitation/create", {"mode": "url", "message": "Pay", "url": url, "elicitationId": "1"})


def test_a_listed_page_passes() -> None:
    asked = {"mode": "url", "message": "Pay", "url": "https://pay.example.com/invoice?id=7", "elicitationId": "1"}
    assert put("elicitation/create", asked) == {**asked, "message": "erp asks: Pay"}


def test_sampling_is_capped_and_gets_nothing_of_other_servers() -> None:
    asked = {"messages": [], "maxTokens": 5000, "includeContext": "allServers", "temperature": 0.5}
    assert put("sampling/createMessage", asked) == {
        "messages": [],
        "maxTokens": 100,
        "includeContext": "none",
        "temperature": 0.5,
    }
    assert put("sampling/createMessage", {"messages": [], "maxTokens": 50}) == {"messages": [], "maxTokens": 50}
    for tokens in (0, -1, True, "9", None, 1.5):
        assert refused("sampling/createMessage", {"messages": [], "maxTokens": tokens})


@pytest.mark.parametrize("asked", [("tasks/get", {}), ("ping", {}), (None, {}), ("elicitation/create", []), ("roots/list", 7)])
def test_what_is_no_question_is_refused(asked: tuple[object, object]) -> None:
    with pytest.raises(Refused):
        question(*asked)


def test_unknown_modes_and_forms_without_fields_are_refused() -> None:
    with pytest.raises(Refused):
        question("elicitation/create", {"mode": "voice", "message": "hello"})
    assert refused("elicitation/create", {"message": "hello"})
    assert refused("elicitation/create", {"requestedSchema": {"type": "object", "properties": {}}})


def test_what_a_client_declares_is_read_as_older_and_newer_ones_say_it() -> None:
    assert declared({"sampling": {}, "roots": {"listChanged": True}, "elicitation": {}}) == {
        "sampling",
        "roots",
        "elicitation.form",
    }
    assert declared({"elicitation": {"url": {}}}) == {URL}
    assert declared({"elicitation": {"form": {}, "url": {}}}) == {FORM, URL}
    assert declared({"sampling": True, "elicitation": None}) == frozenset()
    assert declared(None) == frozenset()


def test_an_answer_has_the_form_of_its_question() -> None:
    assert answered(FORM, {"action": "accept", "content": {"name": "x"}}) == "accept"
    assert answered(SAMPLING, {"role": "assistant", "content": {}}) == ""
    for needs, result in (
        (FORM, {"action": "maybe"}),
        (FORM, {}),
        (SAMPLING, {"action": "accept"}),
        (SAMPLING, 7),
        ("roots", {}),
    ):
        with pytest.raises(ValueError, match="answer"):
            answered(needs, result)
    assert [guessed(one) for one in ({"action": "decline"}, {"role": "assistant"}, {"roots": []}, {"x": 1}, 12345)] == [
        FORM, SAMPLING, "roots", "", "",
    ]  # fmt: skip
