"""Every check of A2A 1.0 says the same of an agent and of the gateway in front of its twin, but where the gateway does better."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest

from tests.a2a.conformance import cards, errors, framing, listing, streams, tasks, webhooks
from tests.a2a.conformance.verdicts import CHECKS, PASSED, WIRES, Check, judged
from tests.a2a.pairs import KINDS, REACHED, SIDES, Pairs, pairs

TOPICS = (cards, errors, framing, listing, streams, tasks, webhooks)
pytestmark = pytest.mark.timeout(120)
ROWS = [(found, kind, binding) for found in CHECKS.values() for kind in found.kinds for binding in found.bindings]

IMPROVED: dict[str, str] = {
    "a_version_that_is_not_served_is_refused[with a patch]": "a version is major and minor, and no other word",
    "a_version_may_stand_in_the_query": "the query is where clients that set no header say it",
    "a_body_of_another_media_type_is_refused": "what is not said to be JSON is not read as it",
    "what_is_no_json_is_a_parse_error[no text]": "bytes in no encoding of JSON are no internal error",
    "params_that_are_none_are_invalid[a part that is a text]": "the letters of a text are no members",
    "params_that_are_none_are_invalid[a state that is none]": "a name that no enum has is no wish for everything",
    "a_list_of_what_no_word_means_is_refused[a state that is none]": "likewise",
    "members_that_nobody_knows_are_ignored": "what a later version adds does no harm",
    "a_version_that_is_not_served_is_refused[*|GRPC": "the SDK looks at no version over gRPC",
    "without_a_credential_nothing_is_done[*|GRPC": "the reference agent asks for a credential over HTTP alone",
}
"""Checks that the SDK's agent fails and the gateway in front of it passes, and why; after `|` the binding where that is so."""
PATTERNS = [pattern.replace("[", "[[]", 1) for pattern in IMPROVED]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    with pairs(tmp_path_factory.mktemp("gateway")) as found:
        yield found


@pytest.mark.parametrize(("found", "kind", "binding"), ROWS, ids=[f"{row[0].name}-{row[1]}-{row[2]}" for row in ROWS])
async def test_a_verdict_is_the_same_direct_and_through_the_gateway(both: Pairs, found: Check, kind: str, binding: str) -> None:
    direct, through = await asyncio.gather(*(judged(found, both, kind, binding, side) for side in SIDES))
    assert through == PASSED
    if any(fnmatchcase(name, pattern) for name in (found.name, f"{found.name}|{binding}") for pattern in PATTERNS):
        assert direct != PASSED, "no improvement any more: take it out of the list"
    else:
        assert direct == PASSED


@pytest.mark.parametrize("kind", REACHED)
@pytest.mark.parametrize(
    "found", [row[0] for row in ROWS if row[1:] == ("full", "JSONRPC") and len(row[0].bindings) > 1], ids=lambda found: found.name
)
async def test_a_verdict_is_the_same_however_the_gateway_reaches_the_agent(both: Pairs, found: Check, kind: str) -> None:
    assert await judged(found, both, kind, "JSONRPC", "through") == PASSED


def test_every_improvement_names_checks_that_there_are() -> None:
    names = {name for found, _, binding in ROWS for name in (found.name, f"{found.name}|{binding}")}
    assert [pattern for pattern in PATTERNS if not any(fnmatchcase(name, pattern) for name in names)] == []


def test_every_topic_is_judged_over_every_binding_at_every_kind_of_agent() -> None:
    assert {(kind, binding) for _, kind, binding in ROWS} == {(kind, binding) for kind in KINDS for binding in WIRES}
    assert len(ROWS) > 500
