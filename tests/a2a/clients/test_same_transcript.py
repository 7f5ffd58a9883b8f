"""The official clients get of an agent through the gateway what they get of it directly, operation by operation."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import pytest

from gateway.a2a.operations import OPERATIONS
from tests.a2a.clients.conftest import BINDINGS, Transcripts
from tests.a2a.clients.script import SCRIPT
from tests.a2a.clients.transcript import differences, normalised, receipts
from tests.a2a.pairs import KINDS, REACHED

pytestmark = pytest.mark.timeout(400)
CLIENTS = [
    pytest.param(client, binding, marks=[pytest.mark.node] if client == "npm" else [])
    for client, bindings in BINDINGS.items()
    for binding in bindings
]

CARD = "the card says how to reach the gateway and with what credential, nothing of where the agent is, and is signed"
TEXT = "the gateway refuses this itself, by the same code: the words of the text are its own"
FIRST = "a task that is not the caller's is unknown before anybody asks what its agent can do"
KNOWN = {
    "/*card/said/provider/url": CARD,
    "/*card/said/signatures": "the gateway signs what it publishes; the reference agent does not",
    "/*card/said/securityRequirements*": CARD,
    "/*card/said/securitySchemes*": CARD,
    "/read with too little/raised/[mt]e*": TEXT,
    "/no page/raised/[mt]e*": TEXT,
    "/less than a page/raised/[mt]e*": TEXT,
    "/not a token/raised/[mt]e*": TEXT,
    "/send to nothing/raised/[mt]e*": TEXT,
    "/stream to nothing/raised/[mt]e*": TEXT,
}
"""Where a transcript through the gateway differs, and why it has to; what differs anywhere else is a fault."""
MINIMAL = {
    "/follow nothing/*": FIRST,
    "/create for nothing/*": FIRST,
    "/get of nothing/*": FIRST,
    "/list of nothing/*": FIRST,
    "/delete of nothing/*": FIRST,
}


def known(kind: str) -> dict[str, str]:
    return KNOWN | (MINIMAL if kind == "minimal" else {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("client", "binding"), CLIENTS)
def test_a_transcript_through_the_gateway_is_the_one_of_the_agent_itself(
    transcripts: Transcripts, client: str, kind: str, binding: str
) -> None:
    direct, through = (transcripts.of(client, kind, binding, side) for side in ("direct", "through"))
    found = [each for each in differences(direct, through) if not any(fnmatchcase(each[0], place) for place in known(kind))]
    assert found == []


@pytest.mark.parametrize("kind", REACHED)
def test_a_transcript_is_the_same_however_the_gateway_reaches_the_agent(transcripts: Transcripts, kind: str) -> None:
    pair = (("full", "direct"), (kind, "through"))
    direct, through = (transcripts.of("python", each, "JSONRPC", side) for each, side in pair)
    found = [each for each in differences(direct, through) if not any(fnmatchcase(each[0], place) for place in KNOWN)]
    assert found == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_difference_that_is_listed_is_there(transcripts: Transcripts, kind: str) -> None:
    places = [
        place
        for binding in BINDINGS["python"]
        for place, _, _ in differences(*(transcripts.of("python", kind, binding, side) for side in ("direct", "through")))
    ]
    assert [pattern for pattern in KNOWN if not any(fnmatchcase(place, pattern) for place in places)] == (
        ["/*card/said/securityRequirements*"] if kind == "auth" else []
    )


@pytest.mark.parametrize(("client", "binding"), CLIENTS)
def test_a_transcript_has_every_operation_and_most_of_them_went_well(transcripts: Transcripts, client: str, binding: str) -> None:
    said = {entry["step"]: entry for entry in transcripts.raw(client, "full", binding, "through")}
    assert list(said) == [step["step"] for step in SCRIPT]
    well = {step["op"] for step in SCRIPT if "raised" not in said[step["step"]]}
    assert well >= OPERATIONS.keys() | {"Card"}
    raised = [entry.get("raised", {}) for entry in said.values()]
    assert [each for each in raised if each.get("type") == "TimeoutError" or each.get("text") == "too late"] == []
    assert said["follow"]["then"]["parts"], "what was called beside a stream"


@pytest.mark.parametrize(("client", "binding"), CLIENTS)
def test_of_all_that_a_client_hears_the_receipts_alone_are_added(transcripts: Transcripts, client: str, binding: str) -> None:
    direct, through = (transcripts.raw(client, "full", binding, side) for side in ("direct", "through"))
    assert receipts(direct) == 0
    single = [step["step"] for step in SCRIPT if step["op"] in {"SendMessage", "GetTask", "CancelTask"}]
    told = [entry for entry in through if entry["step"] in single and "raised" not in entry]
    assert {receipts(entry["said"]) for entry in told} == {1}
    streams = [entry for entry in through if entry["step"].startswith("stream ") and "raised" not in entry]
    assert [(receipts(entry["said"][:-1]), receipts(entry["said"][-1])) for entry in streams] == [(0, 1)] * len(streams)


def test_two_agents_that_differ_have_transcripts_that_differ(transcripts: Transcripts) -> None:
    full, minimal = (transcripts.of("python", kind, "JSONRPC", "direct") for kind in ("full", "minimal"))
    places = {place.split("/")[1] for place, _, _ in differences(full, minimal)}
    assert {"card", "create", "stream in chunks"} <= places


def test_a_planted_difference_is_noticed_wherever_it_is(transcripts: Transcripts) -> None:
    """Every value of a real transcript in turn: changed, or (an id) exchanged for another one."""
    wanted = {"card", "rich", "goes on", "stream in chunks", "second page", "get", "after the end"}
    real = [entry for entry in transcripts.of("python", "full", "JSONRPC", "through")[:-1] if entry["step"] in wanted]
    places = list(leaves(real))
    assert len(places) > 150
    for place in places:
        planted = copy.deepcopy(real)
        holder = planted
        for name in place[:-1]:
            holder = holder[name]
        holder[place[-1]] = other(holder[place[-1]])
        assert list(differences(real, planted)), place
        gone = copy.deepcopy(real)
        holder = gone
        for name in place[:-1]:
            holder = holder[name]
        del holder[place[-1]]
        assert list(differences(real, gone)), place


def test_an_id_in_the_place_of_another_is_noticed(transcripts: Transcripts) -> None:
    real = transcripts.raw("python", "full", "JSONRPC", "through")
    text = json.dumps(real)
    ids = sorted(set(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", text)))
    often = [each for each in ids if text.count(each) > 1]
    assert len(often) > 20
    for one, another in pairwise(often):
        at = text.rindex(one)
        planted = json.loads(text[:at] + another + text[at + len(one) :])
        assert list(differences(normalised(real, {}), normalised(planted, {}))), one


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        if isinstance(each, dict | list) and each:
            yield from leaves(each, (*at, name))
        else:
            yield (*at, name)


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return value + 1 if isinstance(value, int | float) else 0
