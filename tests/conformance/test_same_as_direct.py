"""The official conformance suite, run against a server and against the gateway in front of it: the verdicts are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests import npm
from tests.conformance.legs import FOLDER, KNOWN, LEGS, Leg, Verdicts, counted, differences, judge
from tests.conformance.world import side_by_side

PAGE = FOLDER.parents[1] / "docs" / "reference" / "conformance.md"
pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

Pair = tuple[Verdicts, Verdicts]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    npm.installed(FOLDER, "the conformance suite")
    with side_by_side(tmp_path_factory.mktemp("gateway")) as both:
        yield both


@pytest.fixture(scope="module", params=LEGS, ids=lambda leg: leg.name)
def judged(request: pytest.FixtureRequest, urls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Leg, Pair]:
    """A leg, and both of its answers."""
    leg: Leg = request.param
    return leg, judge(leg, *urls, tmp_path_factory.mktemp(leg.name))


def test_the_reference_server_passes_every_check(judged: tuple[Leg, Pair]) -> None:
    leg, (direct, _) = judged
    failed = [check for check, verdict in direct.items() if verdict == "FAILURE"]
    assert (failed, counted(direct)) == ([], (leg.passed, 0))


def test_the_suite_says_the_same_of_the_gateway_as_of_the_server(judged: tuple[Leg, Pair]) -> None:
    """`differences.json` is what would be left to do: what is not listed there fails, and so does what is listed and gone."""
    leg, (direct, through) = judged
    known = json.loads(KNOWN.read_text()).get(leg.name, {})
    found = differences(direct, through)
    assert {check: pair for check, pair in found.items() if check not in known} == {}, "the gateway is told from its server"
    assert sorted(known.keys() - found.keys()) == [], "these are the same now: take them out of differences.json"


def test_the_page_has_the_figures_of_every_leg() -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \|.*\| (\d+), 0 \| (\d+), 0 \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(leg.name, str(leg.passed), str(leg.passed)) for leg in LEGS]
