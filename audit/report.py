"""What a period of the log comes to: counts, silences, what has no end, what changed, who looked.  A function of its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from audit.facets import facets
from audit.leaf import Kind
from audit.reader import Record

TOP: Final = 50
MOST: Final = 1000
"""Of one list; what is beyond is counted and not shown."""
SILENCE_SECONDS: Final = 180
"""A writer that runs says something at least once a minute; three without a word are a gap."""
SET_BACK_SECONDS: Final = 120
"""A record says when its call arrived, so that neighbours may stand a little out of order; more is a clock that was set back."""

_STARTS: Final = frozenset({Kind.CALL_START, Kind.EGRESS_START})
_ENDS: Final = frozenset({Kind.CALL_END, Kind.CALL_ORPHANED, Kind.EGRESS_END})
_CHANGES: Final = frozenset(
    {
        Kind.POLICY_ACTIVATE, Kind.POLICY_REJECT, Kind.POLICY_RELOAD, Kind.IDENTITY_KILL, Kind.IDENTITY_LIFT, Kind.GRANT_SET,
        Kind.GRANT_REVOKE, Kind.KEY_ACTIVATE, Kind.VAULT_CONSENT, Kind.VAULT_FORGET,
        Kind.DEFINITION_APPROVED,
    }
)  # fmt: skip
_AUDITS: Final = frozenset(
    {
        Kind.AUDIT_READ, Kind.AUDIT_VERIFY, Kind.AUDIT_EXPORT, Kind.AUDIT_REVIEW, Kind.KEY_SHRED, Kind.HOLD_SET, Kind.HOLD_CLEAR,
        Kind.SEGMENT_SEAL, Kind.SEGMENT_RETIRE,
    }
)  # fmt: skip
_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """A record that an auditor would look at.  who: a pseudonym, or an account of the machine; empty: nobody but the gateway."""

    index: int
    at: int
    kind: str
    id: str
    what: str
    who: str = ""


@dataclass(slots=True)
class Boot:
    """One run of one writer, as far as the period shows it.  silence: the longest, in seconds, while it ran."""

    writer: str
    boot: str
    first: int
    last: int
    records: int = 0
    started: bool = False
    stopped: bool = False
    beats: bool = False
    silence: float = 0.0


@dataclass(slots=True)
class Report:
    """A period of one log.

    since, until  of the period, UTC microseconds; first and last the indexes of its records, None where there are none.
    counts        by what: kinds, effects, reasons, outcomes, servers, agents, days; the TOP of each, and how many others.
    persons       how many different people calls were made for.
    gaps          silences of a running writer, missing indexes, times that ran backwards.
    open          calls that began here and have no end in the log; orphaned: those that a later run closed for them.
    """

    origin: str
    size: int
    since: int
    until: int
    first: int | None = None
    last: int | None = None
    records: int = 0
    persons: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    writers: list[Boot] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    open: list[Point] = field(default_factory=list)
    orphaned: list[Point] = field(default_factory=list)
    changes: list[Point] = field(default_factory=list)
    audits: list[Point] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing in it looks as if something were missing."""
        return not self.gaps and not self.open and not self.orphaned

    def to_dict(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {"complete": self.complete, **asdict(self)}


def report(origin: str, records: Iterable[Record], *, size: int, since: int, until: int) -> Report:
    """Read the log, in order and from any record at or before the period's first, and say what the period comes to.

    Records before and after the period are read for what they begin and end.
    """
    making = _Making(Report(origin, size, since, until))
    for record in records:
        making.take(record)
    return making.made()


class _Making:
    def __init__(self, made: Report) -> None:
        self._report = made
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("kinds", "effects", "reasons", "outcomes", "servers", "agents", "days")
        }
        self._boots: dict[tuple[str, str], Boot] = {}
        self._begun: dict[str, Point] = {}
        self._persons: set[str] = set()
        self._expected: int | None = None

    def take(self, record: Record) -> None:
        if self._expected is not None and record.index != self._expected:
            self._gap(f"records {self._expected} to {record.index - 1} are missing")
        self._expected = record.index + 1
        if record.kind in _ENDS:  # an end after the period is an end
            self._begun.pop(str(record.leaf.get("call", "")), None)
        if self._report.since <= record.at < self._report.until:
            self._in(record)

    def _in(self, record: Record) -> None:
        made, said = self._report, facets(record.leaf)
        made.records += 1
        made.first = record.index if made.first is None else made.first
        made.last = record.index
        for name, value in (
            ("kinds", record.kind), ("effects", said.effect), ("reasons", said.reason if said.effect == "deny" else ""),
            ("outcomes", said.outcome), ("servers", said.server), ("agents", said.agent),
            ("days", datetime.fromtimestamp(record.at / _US, UTC).strftime("%Y-%m-%d")),
        ):  # fmt: skip
            if value:
                self._counts[name][value] += 1
        if record.subject:
            self._persons.add(record.subject)
        self._writer(record)
        point = Point(record.index, record.at, record.kind, record.id, _what(record, said.resource), _who(record))
        if record.kind in _STARTS:
            self._begun[record.id] = point
        elif record.kind == Kind.CALL_ORPHANED:
            self._add("orphaned", point)
        elif record.kind in _CHANGES:
            self._add("changes", point)
        elif record.kind in _AUDITS:
            self._add("audits", point)

    def _writer(self, record: Record) -> None:
        stamp = record.leaf.get("writer")
        if not isinstance(stamp, dict):
            return
        key = str(stamp.get("id", "")), str(stamp.get("boot", ""))
        boot = self._boots.get(key)
        if boot is None:
            boot = self._boots[key] = Boot(*key, first=record.at, last=record.at)
        silence = (record.at - boot.last) / _US
        if silence < -SET_BACK_SECONDS:
            self._gap(f"record {record.index}: the clock of {key[0]} went back {-silence:.3f} s")
        boot.silence = max(boot.silence, round(silence, 3))
        boot.last, boot.records = max(boot.last, record.at), boot.records + 1
        boot.started |= record.kind == Kind.WRITER_START
        boot.stopped |= record.kind == Kind.WRITER_STOP
        boot.beats |= record.kind == "writer.heartbeat"

    def _gap(self, text: str) -> None:
        if len(self._report.gaps) < MOST:
            self._report.gaps.append(text)
        else:
            self._report.left_out["gaps"] = self._report.left_out.get("gaps", 0) + 1

    def _add(self, name: str, point: Point) -> None:
        points: list[Point] = getattr(self._report, name)
        if len(points) < MOST:
            points.append(point)
        else:
            self._report.left_out[name] = self._report.left_out.get(name, 0) + 1

    def made(self) -> Report:
        made = self._report
        made.persons = len(self._persons)
        for name, counter in self._counts.items():
            ordered = counter.most_common() if name != "days" else sorted(counter.items())[-366:]
            kept = ordered if name == "days" else ordered[:TOP]
            made.counts[name] = dict(kept)
            if len(counter) > len(kept):
                made.left_out[name] = len(counter) - len(kept)
        made.writers = sorted(self._boots.values(), key=lambda boot: boot.first)
        for boot in made.writers:
            if boot.beats and boot.silence > SILENCE_SECONDS:
                self._gap(f"{boot.writer} said nothing for {boot.silence:.0f} s while it ran")
        for point in self._begun.values():
            self._add("open", point)
        return made


def when(at: int) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(at / _US, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _what(record: Record, resource: str) -> str:
    """What was done or read: in the words of the record, where it has some, else what it was done to."""
    leaf = record.leaf
    if record.kind == Kind.AUDIT_EXPORT:
        return f"{leaf.get('scope', '')}: {leaf.get('records', '')} of records {leaf.get('first', '')} to {leaf.get('stop', '')}"
    if record.kind == Kind.KEY_SHRED:
        return record.subject or ""
    return str(leaf.get("wanted", "")) or resource or str(leaf.get("policy", ""))[:19]


def _who(record: Record) -> str:
    """Who did it: an account of the machine, or a person; of an erasure who agreed to it."""
    leaf = record.leaf
    return str(leaf.get("by") or leaf.get("approver") or (record.subject if record.kind != Kind.KEY_SHRED else "") or "")


def describe(made: Report) -> str:
    """The report for people."""
    lines = [
        f"{made.origin}: {made.records} of {made.size} records, {when(made.since)} to {when(made.until)}",
        f"  records {made.first} to {made.last}; calls for {made.persons} persons" if made.records else "  nothing was recorded",
    ]
    for name, found in made.counts.items():
        if found:
            more = f", and {made.left_out[name]} others" if name in made.left_out else ""
            lines.append(f"  {name}: " + ", ".join(f"{value} {count}" for value, count in found.items()) + more)
    for boot in made.writers:
        begun = "started" if boot.started else "ran"
        ended = "stopped in good order" if boot.stopped else "has not stopped in good order (yet)"
        said = f"{boot.records} records, longest silence {boot.silence:.0f} s"
        lines.append(f"  {boot.writer} ({boot.boot[:8]}) {begun}, {ended}: {said}")
    for title, points in (("changes", made.changes), ("the audit itself", made.audits)):
        if points:
            lines.append(f"  {title}:")
            lines += [
                f"    {point.index:>8} {when(point.at)} {point.kind} {point.what}".rstrip()
                + (f" by {point.who}" if point.who else "")
                for point in points
            ]
    lines += [f"  LOOK: {gap}" for gap in made.gaps]
    for title, points in (("has no end", made.open), ("ended with its writer", made.orphaned)):
        lines += [f"  LOOK: {point.kind} {point.id} {point.what} {title} (record {point.index})" for point in points]
    lines.append("nothing looks as if it were missing" if made.complete else "something to look at")
    return "\n".join(lines)
