"""The bench of one decision measures what it says: real bundles, questions of both answers, bars that can be missed."""

from __future__ import annotations

import pytest

from bench import decisions
from policies.bundle import load_texts
from policies.engine import Engine


@pytest.mark.parametrize("count", [10, 200, 2000])
def test_its_bundles_have_the_rules_they_say_and_its_questions_meet_as_many_at_every_size(count: int) -> None:
    bundle = load_texts(decisions.texts(count))
    engine = Engine(bundle)
    assert (len(bundle.rules), engine.path) == (count, "indexed")
    made = [engine.decide(request) for request in decisions.asked(count, 200)]
    assert 0.4 < sum(decision.allowed for decision in made) / len(made) < 0.9
    heard = sum(len(decision.matched) for decision in made) / len(made)
    assert 1 < heard < 5


def test_a_bar_that_is_missed_is_said_to_be() -> None:
    report = decisions.measure(1, 30, sizes=(10, 100), stock_seconds=0.01)
    assert [bar["bar"] for bar in report["bars"]] == [
        "one principal's decision, median us", "100 rules / 10 rules", "loading 100 rules, s",
    ]  # fmt: skip
    for row in report["rules"].values():
        row["us"] = 1e9
    assert decisions.bars(report)[0]["met"] is False
    assert "MISS" in decisions.render(report | {"bars": decisions.bars(report)})
