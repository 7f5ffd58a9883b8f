"""Resources that servers have linked to in their answers, since a link need not stand in any list.  Bounded, of this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from policies import uri as uris

CALLERS = 1024
LINKS = 256
"""Of one caller; the oldest make room."""
_PARTS = 1000

Whose = tuple[str, str, tuple[str, ...]]


class Links:
    """Who was given which link by which server: known to that caller alone."""

    def __init__(self, callers: int = CALLERS, links: int = LINKS) -> None:
        self._callers = callers
        self._links = links
        self._seen: OrderedDict[Whose, OrderedDict[tuple[str, str], None]] = OrderedDict()

    def note(self, whose: Whose, server: str, result: Mapping[str, Any]) -> None:
        """Remember the links of one result."""
        found = [form for uri in _uris(result) if (form := uris.form_of(uri)) is not None]
        if not found:
            return
        own = self._seen.setdefault(whose, OrderedDict())
        self._seen.move_to_end(whose)
        for form in found:
            own[form, server] = None
            own.move_to_end((form, server))
        while len(own) > self._links:
            own.popitem(last=False)
        while len(self._seen) > self._callers:
            self._seen.popitem(last=False)

    def of(self, whose: Whose, form: str) -> frozenset[str]:
        """The servers that have linked to it in an answer to this caller."""
        return frozenset(server for uri, server in self._seen.get(whose, ()) if uri == form)


def _uris(result: Mapping[str, Any]) -> Iterator[str]:
    for block in _blocks(result):
        inner = block.get("resource") if block.get("type") == "resource" else block
        uri = inner.get("uri") if isinstance(inner, dict) and block.get("type") in {"resource", "resource_link"} else None
        if isinstance(uri, str):
            yield uri


def _blocks(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    content, messages = result.get("content"), result.get("messages")
    parts = list(content[:_PARTS]) if isinstance(content, list) else []
    if isinstance(messages, list):
        said = [message.get("content") for message in messages[:_PARTS] if isinstance(message, dict)]
        parts += [part for each in said for part in (each if isinstance(each, list) else [each])]
    yield from (part for part in parts if isinstance(part, dict))
