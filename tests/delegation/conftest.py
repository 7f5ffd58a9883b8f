"""One gateway, six agents and a tool server for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.delegation.world import Chained, chained


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chained]:
    with chained(tmp_path_factory.mktemp("chained")) as running:
        yield running
