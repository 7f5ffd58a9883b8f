"""What the ledger says of servers' definitions: seen first, changed, held back, refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final

from audit.model import Entry, Value
from gateway.mcp.definitions import TOO_LARGE, TWICE, UNREADABLE
from gateway.model import new_id
from policies.lock import shown_definition
from policies.unseen import shown

if TYPE_CHECKING:
    from gateway.mcp.definitions import Live, Place, Told
    from policies.lock import Key

log = logging.getLogger("gateway.mcp")

_AT_ONCE: Final = 64
"""Definitions of one record."""
_NO_DEFINITION: Final = frozenset({TWICE, UNREADABLE, TOO_LARGE})


def seen(place: Place, first: Iterable[Told], live: Mapping[Key, Live], call: str, at: int) -> Iterator[Entry]:
    """Definitions that were never seen before, and count from now on because they were seen first."""
    rest = iter(first)
    while some := list(islice(rest, _AT_ONCE)):
        fields: dict[str, object] = {
            "target": place.server,
            "era": _era(place),
            "call": call,
            "definitions": [
                {"what": t.key[0], "name": t.key[1], "digest": t.digest, "signs": _signs(live.get(t.key))} for t in some
            ],
        }
        said = "".join(shown_definition(t.entry) for t in some)
        yield Entry("definition.seen", new_id(at), at, None, fields, (Value("said", said.encode()),))


def held(  # noqa: PLR0917  what a record of it says, in its order
    place: Place, told: Told, why: str, before: str, live: Live | None, call: str, at: int, left: int
) -> Entry:
    """A definition that is not let through, and why; `before` is the digest of what counts, "" where nothing does."""
    kind = "definition.refused" if why in _NO_DEFINITION else "definition.changed" if before else "definition.quarantined"
    fields: dict[str, object] = {
        "target": place.server,
        "era": _era(place),
        "call": call,
        "what": told.key[0],
        "name": told.key[1],
        "why": why,
        "digest": told.digest,
        "before": before,
        "signs": _signs(live),
    }
    if live is not None and live.alike:
        fields["like"] = live.alike
    if left:
        fields["suppressed"] = left
    log.warning("the %s %s of %s is held back: %s", told.key[0], shown(told.key[1])[:_MOST_NAMED], place.server, why)
    said = (Value("said", shown_definition(told.entry)[:_MOST_SAID].encode()),) if told.digest else ()
    return Entry(kind, new_id(at), at, None, fields, said)


_MOST_SAID: Final = 512 * 1024
_MOST_NAMED: Final = 200


def _era(place: Place) -> str:
    return "legacy" if place.legacy else "modern"


def _signs(live: Live | None) -> list[str]:
    return sorted({sign.rule for sign in live.signs}) if live is not None else []
