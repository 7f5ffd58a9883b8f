"""A mapping of a test table on its way to becoming a row: every value of the right type, every name known, or a finding."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from policies.finding import Report, suggest
from policies.model import NOTHING
from policies.reading import Item

MAX_TEXT: Final = 1_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Fields:
    """One mapping; `found` holds its values by name."""

    file: str
    item: Item
    report: Report
    found: dict[str, Item] = field(default_factory=dict)

    def take(self, known: Iterable[str], what: str) -> Fields:
        """Its values by name; a name that is not known is a finding."""
        names = tuple(known)
        if not self.item.is_mapping:
            self.wrong("wrong-type", self.item, f"{what} holds names and their values", "write '{name: value, …}'")
        for key, place, value in self.item.entries():
            if key not in names:
                help_ = suggest(key, names) or f"known are {', '.join(names)}"
                self.wrong("unknown-key", place, f"unknown key '{key[:60]}'", help_)
            else:
                self.found[key] = value
        return self

    def wrong(self, code: str, item: Item, message: str, help_: str = "") -> None:
        self.report.add(code, (self.file, item.line, item.column), message, help_)

    def at(self, key: str) -> Item:
        """Where a value stands, or the mapping where there is none."""
        return self.found.get(key, self.item)

    def text(self, key: str, *, needed: str = "") -> str | None:
        """A text; `needed` says what lacks it."""
        item = self.found.get(key)
        if item is None:
            if needed:
                self.wrong("missing-key", self.item, f"{needed} has no '{key}'", f"add '{key}: …'")
            return None
        if not isinstance(item.value, str) or not item.value.strip() or len(item.value) > MAX_TEXT:
            self.wrong("wrong-type", item, f"'{key}' must be text", "put it in quotes")
            return None
        return item.value.strip()

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of texts; None where the name is not given."""
        item = self.found.get(key)
        if item is None:
            return None
        many = item.value if item.is_list else (item,)
        if not all(isinstance(each.value, str) and each.value.strip() and len(each.value) <= MAX_TEXT for each in many):
            self.wrong("wrong-type", item, f"'{key}' must be a list of texts", f"write '{key}: [a, b]'")
            return None
        return tuple(each.value.strip() for each in many)

    def word(self, key: str, known: Iterable[str], *, needed: str = "") -> str | None:
        """One of the known words."""
        word, names = self.text(key, needed=needed), sorted(known)
        if word is not None and word not in names:
            message = f"{key} '{word[:60]}' is not known"
            self.wrong(f"unknown-{key}", self.at(key), message, suggest(word, names) or f"known are {', '.join(names)}")
            return None
        return word

    def flag(self, key: str) -> bool:
        """True or false; false where it is not given."""
        item = self.found.get(key)
        if item is not None and not isinstance(item.value, bool):
            self.wrong("wrong-type", item, f"'{key}' is true or false")
        return item is not None and item.value is True

    def rows(self, key: str) -> tuple[Item, ...]:
        """A list of anything."""
        item = self.found.get(key)
        if item is None or item.value is None:
            return ()
        if not item.is_list:
            self.wrong("wrong-type", item, f"'{key}' must be a list", "every row starts with '- '")
            return ()
        return tuple(item.value)

    def mapping(self, key: str) -> Mapping[str, object]:
        """A mapping as plain values; empty where it is not given."""
        item = self.found.get(key)
        if item is None:
            return NOTHING
        if not item.is_mapping:
            self.wrong("wrong-type", item, f"'{key}' must hold names and their values", f"write '{key}: {{name: value}}'")
            return NOTHING
        plain = item.plain()
        return plain if isinstance(plain, Mapping) else NOTHING

    def moment(self, key: str) -> int | None:
        """A time with its zone, as microseconds."""
        text = self.text(key)
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None or not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]", text):
            self.wrong("odd-time", self.at(key), f"'{text[:60]}' is no time with a zone", 'write "2026-12-01T22:00:00Z"')
            return None
        return (moment - _EPOCH) // timedelta(microseconds=1)
