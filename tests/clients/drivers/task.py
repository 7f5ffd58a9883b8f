"""What every driver in Python is asked, and how it answers: one JSON object in, one out.  Knows no client and no gateway.

In: `{"targets": [{"kind", "url", "prefix", "others", "headers"}]}`, `others` being tools of other servers.  Out: by client and
kind, a report; `failed` where a step went wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

PERMITTED = {"n": 1}
DENIED = {"n": 5000}
RESOURCE = "test://static-text"
PROMPT = "test_simple_prompt"

Ask = Callable[[dict[str, Any], dict[str, Any]], Awaitable[None]]
"""Fills a report about a target."""


def said(error: BaseException) -> str:
    """An exception as a report tells of it, with those inside a group."""
    inner = [said(one) for one in getattr(error, "exceptions", ())]
    return " + ".join(inner) if inner else f"{type(error).__name__}: {error}"


async def raised(step: Awaitable[Any]) -> str:
    """What the step raised, "" where it did not."""
    try:
        await step
    except Exception as error:  # noqa: BLE001  whatever a client raises is the answer
        return said(error)
    return ""


async def _all(clients: dict[str, Ask], targets: list[dict[str, Any]]) -> dict[str, Any]:
    reports: dict[str, Any] = {}
    for client, ask in clients.items():
        for target in targets:
            report: dict[str, Any] = {}
            try:
                async with asyncio.timeout(150):
                    await ask(target, report)
                report["closed"] = True
            except Exception as error:  # noqa: BLE001  a failure is told, with the steps that went well
                report["failed"] = said(error) + "".join(traceback.format_tb(error.__traceback__)[-2:])
            reports.setdefault(client, {})[target["kind"]] = report
    return reports


def answer(clients: dict[str, Ask]) -> None:
    """Ask every client about every target of the task on stdin; the reports go to stdout."""
    targets = json.load(sys.stdin)["targets"]
    print(json.dumps(asyncio.run(_all(clients, targets))))
