"""Transcripts that can be compared: ids, times, addresses and page tokens have names of their own; nothing else is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.receipts import RECEIPT
from tests.a2a.clients.script import ZERO, Step

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_TOKENS = frozenset({"nextPageToken", "pageToken"})


def filled(step: Step, known: Mapping[str, str], said: Mapping[str, Any]) -> Step:
    """A step with words put in: `@…@` as known, `$…` as an earlier step was answered."""
    return {name: _filled(value, known, said) if name in {"params", "then"} else value for name, value in step.items()}


def _filled(value: Any, known: Mapping[str, str], said: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(inner, known, said) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, known, said) for inner in value]
    if not isinstance(value, str):
        return value
    if value.startswith("$"):
        step, *path = value[1:].split(".")
        found: Any = said.get(step)
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, str) and found else ZERO
    for word, text in known.items():
        value = value.replace(f"@{word}@", text)
    return value


def normalised(transcript: Any, names: Mapping[str, str]) -> Any:
    """The transcript with the names of `names` in place of their texts, and of ids, times and page tokens in place of those.

    An id has the same name wherever it stands, and two ids have two: one that stands for another is a difference.
    """
    texts = sorted(names, key=len, reverse=True)
    ids: dict[str, str] = {}
    tokens: dict[str, str] = {}

    def plain(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: plain(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if name in _TOKENS and value:
            return tokens.setdefault(value, f"TOKEN-{len(tokens)}")
        for text in texts:
            value = value.replace(text, names[text])
        value = _ID.sub(lambda found: ids.setdefault(found[0], f"ID-{len(ids)}"), value)
        return _TIME.sub("TIME", value)

    return plain(transcript)


def without_receipts(value: Any) -> Any:
    """The same without the gateway's receipts: the one thing that it adds to what an agent says."""
    if isinstance(value, list):
        return [without_receipts(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {name: without_receipts(inner) for name, inner in value.items()}
    metadata = found.get("metadata")
    if isinstance(metadata, dict) and RECEIPT in metadata:
        metadata.pop(RECEIPT)
        if not metadata:
            found.pop("metadata")
    return found


def receipts(value: Any) -> int:
    """How many receipts stand in it."""
    if isinstance(value, dict):
        return (RECEIPT in value) + sum(receipts(inner) for inner in value.values())
    return sum(receipts(inner) for inner in value) if isinstance(value, list) else 0


def differences(direct: Any, through: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(place, direct, through) of everything that is not the same; ABSENT for what is on one side only."""
    if isinstance(direct, dict) and isinstance(through, dict):
        for name in sorted(direct.keys() | through.keys()):
            yield from differences(direct.get(name, "ABSENT"), through.get(name, "ABSENT"), f"{at}/{name}")
    elif isinstance(direct, list) and isinstance(through, list) and len(direct) == len(through):
        for number, (one, other) in enumerate(zip(direct, through, strict=True)):
            name = one.get("step", number) if isinstance(one, dict) else number
            yield from differences(one, other, f"{at}/{name}")
    elif direct != through or type(direct) is not type(through):
        yield at, direct, through
