"""These tests run on the loop that `bailiwick serve` runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Factories:
    """One loop, so that no test's name says which."""
    return {"uvloop": uvloop.new_event_loop}
