"""What lint calls an error does not come into force; what it warns of does."""

from __future__ import annotations

import pytest

from gateway.policy.checks import Checks, RefusedBundleError
from tests.gateway.policy.live import texts

EVERYBODY = "p, *, acme, desk.seal, call, allow, -, -, ALL-1\n"


def refusal(files: dict[str, str]) -> list[str]:
    """The codes for which a bundle is refused, with their places."""
    try:
        Checks(require_tests=False).build(files, 0, None)
    except RefusedBundleError as error:
        return [f"{found.code} {found.location}" for found in error.findings]
    return []


def test_a_line_that_allows_everybody_does_not_come_into_force_though_every_test_passes() -> None:
    assert refusal(texts(more=EVERYBODY)) == ["everyone grants/more.csv:1:4"]


def test_a_condition_that_nothing_ever_decides_does_not_come_into_force() -> None:
    files = texts(more="p, role:buyer, acme, desk.seal, call, deny, odd, -, ODD-1\n")
    files["conditions.yaml"] = 'odd: {if: agent.asurance == "bearer", say: a misspelt name}\n'
    assert [each.split(":")[0] for each in refusal(files)] == ["undecidable-condition conditions.yaml"]


def test_an_error_that_a_comment_silences_with_its_reason_does() -> None:
    assert refusal(texts(more=f"# lint: allow everyone because the whole company reads it\n{EVERYBODY}")) == []
    assert refusal(texts(more=f"# lint: allow everyone\n{EVERYBODY}")) == [
        "odd-suppression grants/more.csv:1:1",
        "everyone grants/more.csv:2:4",
    ]


def test_a_warning_does() -> None:
    assert refusal(texts(more="p, role:buyer, acme, desk.read, call, allow, -, -, TWICE-1\n")) == []


def test_a_shadow_bundle_decides_nothing_and_may_hold_what_lint_calls_an_error() -> None:
    pair = Checks().build(texts(more=EVERYBODY), 0, None, decides=False)
    assert "ALL-1" in {rule.id for rule in pair.bundle.rules}
    with pytest.raises(RefusedBundleError):
        Checks().build(texts(more=EVERYBODY), 0, None)
