"""One copy of the suite for all of a session's campaigns, each of which is carried out once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from tests.sandbox.escapes.suite import Suite

Campaign = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def suite() -> Iterator[Suite]:
    with Suite() as made:
        yield made


@pytest.fixture(scope="session")
def campaign(suite: Suite) -> Campaign:
    return cache(suite.campaign)
