"""Secrets are taken out before anything is sealed, by a list that is on record; nothing else is touched, or made slow."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import detectors
from audit.detectors import DETECTORS, LIST, NAMES, redacted, suspects
from audit.model import Value
from audit.reader import Ledger

from .conftest import SEAL_KEY, Open, start

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJqYW5lIn0.c2lnbmF0dXJlLW9mLXNvbWUtbGVuZ3Ro"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYkHQx9\n-----END EC PRIVATE KEY-----"
SECRETS = {
    "private-key": (PEM, "MHcCAQEEIIrYkHQx9"),
    "header": ("GET / HTTP/1.1\nCookie: session=0123456789abcdef; theme=dark", "0123456789abcdef"),
    "bearer": ("curl -H 'X: Bearer 0123456789abcdef0123'", "0123456789abcdef0123"),
    "jwt": (f"here it is: {JWT}.", JWT),
    "url-password": ("postgresql://app:hunter2@db/erp", "hunter2"),
    "aws-key": ("id AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    "github": ("ghp_" + "a1B2" * 9, "a1B2"),
    "gitlab": ("glpat-abcdEFGH1234ijklMNOP", "abcdEFGH1234"),
    "slack": ("xoxb-1234567890-abcdefghij", "1234567890-abc"),
    "api-key": ("sk-proj-abcdefghij0123456789", "abcdefghij0123456789"),
    "google-key": ("AIza" + "Sy0" * 11 + "ab", "Sy0Sy0"),
    "agent-secret": ("bws_clerk_" + "Ab0-" * 8, "Ab0-Ab0-"),
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_known_by_its_form_wherever_it_stands(kind: str) -> None:
    text, secret = SECRETS[kind]
    for data in (text.encode(), json.dumps({"note": text, "n": 1}).encode(), json.dumps([f"a\n{text}"], indent=2).encode()):
        left, count = redacted(data)
        assert count == 1, (kind, left)
        assert secret.encode() not in left
        assert f"[secret: {kind}]".encode() in left
    assert json.loads(redacted(json.dumps({"note": text, "n": 1}).encode())[0])["n"] == 1


@pytest.mark.parametrize("name", ["password", "Authorization", "api_key", "apiKey", "client-secret", "refreshToken", "PWD"])
@pytest.mark.parametrize("form", ['{"%s":"x\\"y"}', '{"a": 1, "%s" : "x\\"y"}', '{\n  "%s": "x\\"y"\n}'])
def test_a_member_that_is_named_as_a_secret_loses_its_text_however_short(name: str, form: str) -> None:
    left, count = redacted((form % name).encode())
    assert count == 1
    assert json.loads(left)[name] == "[secret: named]"


def test_every_detector_has_an_example_here() -> None:
    assert {*SECRETS, "named"} == {detector.name for detector in DETECTORS}


EACH = [(re.compile(detector.pattern, re.DOTALL), detector) for detector in DETECTORS]
MARKS = [b"-----BEGIN PRIVATE KEY-----", *(mark for detector in DETECTORS for mark in detector.marks), *NAMES]
scraps = st.sampled_from([
    *MARKS, *(mark.upper() for mark in MARKS), *(text.encode() for text, _ in SECRETS.values()),
    b"0" * 16, b"a1B2_-" * 7, b"A" * 16, b'"', b'" :\v "', b": ", b"@", b"\\", b"\\n", b"\n", b"\0",
    b" ", b".", b"-", b"_", b"\xff", b"z", b'"pwd":"\\\n"',
]) | st.binary(max_size=3)  # fmt: skip
pieced = st.lists(scraps, max_size=8).map(b"".join)
matching = st.sampled_from(EACH).flatmap(lambda each: st.from_regex(each[0]))


@settings(max_examples=400, deadline=None)
@given(st.lists(pieced | st.builds(lambda *parts: b"".join(parts), pieced, matching, pieced), max_size=6))
def test_a_text_that_a_detector_matches_is_always_a_suspect_whatever_stands_beside_it(texts: list[bytes]) -> None:
    found = suspects(texts)
    for number, text in enumerate(texts):
        matches = [detector.name for pattern, detector in EACH if pattern.search(text)]
        assert number in found or not matches, (text, matches)


@pytest.mark.parametrize("left_out", DETECTORS, ids=lambda detector: str(detector.name))
def test_the_one_search_for_all_detectors_needs_each_of_them(left_out: detectors.Detector) -> None:
    text = b'{"pwd": "x"}' if left_out.name == "named" else SECRETS[left_out.name][0].encode()
    assert detectors.looking(DETECTORS).search(text)
    assert not detectors.looking(other for other in DETECTORS if other != left_out).search(text)


def test_few_texts_are_suspects_and_each_beyond_the_first_search_too() -> None:
    texts = [b"nothing"] * 300
    for number in (0, 5, 6, 63, 64, 200, 299):
        texts[number] = b'{"password": "x"}'
    texts[100] = b"a much too large text " * 5000
    assert suspects(texts) == {0, 5, 6, 63, 64, 100, 200, 299}


ORDINARY = [
    {"supplier": "S-17", "amount": 500, "max_tokens": 4096, "nextPageToken2": "abc", "note": "bearer of news, basic needs"},
    {"id": "019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b", "url": "https://example.org/a@b", "mail": "jane@example.org", "tokens": ["a"]},
    {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}, "structuredContent": {"password": None, "token": 7}},
    {"task": "risk-assessment-of-sk-1", "text": "eyJ is how JSON begins; AKIA is a prefix; ghp_ too"},
]


@pytest.mark.parametrize("body", ORDINARY, ids=str)
def test_what_is_no_secret_stays_as_it_came(body: dict[str, object]) -> None:
    data = json.dumps(body).encode()
    assert redacted(data) == (data, 0)
    assert suspects([data]) == set()


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=12), st.text(max_size=40) | st.integers(), max_size=5))
def test_json_stays_json_of_the_same_shape(value: object) -> None:
    left, _ = redacted(json.dumps({"v": value, "password": "x", "t": JWT}).encode())
    assert json.loads(left).keys() == {"v", "password", "t"}


@pytest.mark.parametrize("hostile", [
    b"eyJaaaaaaaaaaaa1-", b"sk-", b"-----BEGIN PRIVATE KEY-----", b'"token":"\\"', b"a1://b:c", b"Bearer 1 ", b"cookie:1",
    b"xoxb-1-", b'"token" : "', b"github_pat_", b"AKIA1-", b"eyJaaaaaaaaaaaa1.aaaaa.",
])  # fmt: skip
def test_no_text_takes_more_than_a_steady_time_for_its_length(hostile: bytes) -> None:
    def seconds(size: int) -> float:
        data = hostile * (size // len(hostile))
        began = time.process_time()
        redacted(data)
        return time.process_time() - began

    assert seconds(400_000) < 2.0  # a quadratic search of so much takes minutes


async def test_what_is_sealed_and_committed_to_is_what_is_left_and_the_record_says_so(path: Path, open_journal: Open) -> None:
    journal = await open_journal(f"sqlite:///{path}")
    body = json.dumps({"name": "login", "password": "hunter2", "amount": 5}).encode()
    await journal.append(start("c1", "user:corp/ann", Value("request", body), Value("facts", b"{}")))
    await journal.append(start("c2", "user:corp/ann", Value("request", b'{"amount": 5}')))
    with Ledger.open(f"sqlite:///{path}", SEAL_KEY) as log:
        found, plain = log.get("c1"), log.get("c2")
        assert found is not None
        assert plain is not None
        assert json.loads(bytes(log.open_value(found, "request") or b"")) == {  # type: ignore[arg-type]
            "name": "login", "password": "[secret: named]", "amount": 5
        }  # fmt: skip
        assert found.leaf["secrets"] == {"detectors": LIST, "request": 1}
        assert "secrets" not in plain.leaf
        begun = next(record for record in log.records() if record.kind == "writer.start")
        assert begun.leaf["detectors"] == LIST
    assert not any(b"hunter2" in file.read_bytes() for file in path.parent.iterdir())


def test_a_secret_at_a_seam_of_a_large_body_is_found() -> None:
    members = [f'"k{n}": "{"ab c " * 40}", "password": "hunter{n}"' for n in range(2000)]
    left, count = redacted(("{" + ", ".join(members) + "}").encode())
    assert count == 2000
    assert b"hunter" not in left


def test_the_digest_changes_with_the_list() -> None:
    assert LIST.startswith(f"{detectors.VERSION} sha256:")
    assert len(LIST.rpartition(":")[2]) == 64
