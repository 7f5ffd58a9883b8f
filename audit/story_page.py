"""A workflow as one page that stands alone: a picture of who asked whom, and every call with its decision.  A pure function.

The page holds no script and loads nothing; whatever callers wrote is text in it and never markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

from audit.trace import Asked, CallFacts, Shown, Story

ROWS: Final = 2000
"""Of the picture; the calls below it are all there."""
_LANE: Final = 170
_ROW: Final = 26
_TOP: Final = 54
_LEFT: Final = 20

_STYLE: Final = """
:root{--ink:#1b1f24;--dim:#5d6772;--line:#d5dae0;--page:#fff;--card:#f6f7f9;--ok:#11713a;--no:#b3261e;--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--dim:#9aa5b1;--line:#3a424c;--page:#14181d;--card:#1c2229;
--ok:#5bc98a;--no:#ff8a80;--warn:#e3b341}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0 auto;max-width:1200px;padding:1rem}
h1{font-size:1.3rem;margin:.2rem 0}
h2{font-size:1.05rem;margin:1.6rem 0 .5rem}
.strip{border:1px solid var(--line);border-radius:6px;padding:.5rem .8rem;background:var(--card)}
.dim{color:var(--dim)}
.unwitnessed{color:var(--warn);font-weight:600}
.picture{overflow:auto;max-height:80vh;border:1px solid var(--line);border-radius:6px}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg .dim{fill:var(--dim)}
svg .lane{stroke:var(--line)}
svg .allow{stroke:var(--ok);fill:none;stroke-width:1.6}
svg .failed{stroke:var(--warn);fill:none;stroke-width:1.6;stroke-dasharray:5 3}
svg .deny{stroke:var(--no);fill:none;stroke-width:1.6}
svg .wall{stroke:var(--no);stroke-width:5}
svg text.deny{fill:var(--no);stroke:none;font-weight:600}
svg .head{fill:var(--ok);stroke:none}
details{border:1px solid var(--line);border-left:5px solid var(--ok);border-radius:4px;margin:.3rem 0;
padding:.25rem .6rem;content-visibility:auto;contain-intrinsic-size:auto 34px}
details.deny{border-left-color:var(--no)}
summary{cursor:pointer}
summary b{font-weight:600}
.allowed{color:var(--ok);font-weight:600}
.denied{color:var(--no);font-weight:600}
pre{background:var(--card);padding:.5rem;overflow:auto;max-height:22rem;white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse}
td,th{text-align:left;padding:.1rem .8rem .1rem 0;vertical-align:top}
code{font-size:.9em;overflow-wrap:anywhere}
@media print{details{break-inside:avoid}
.picture{max-height:none}}
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the page says of the log that it was made from: its origin and size, and who outside has seen it."""

    origin: str
    size: int
    witnessed: str
    made: int
    """UTC microseconds."""


def page(story: Story, seen: Seen) -> str:
    """The whole document (HTML, UTF-8)."""
    calls = story.calls
    title = f"Workflow {story.workflow}"
    unseen = ' class="unwitnessed"' if seen.witnessed.startswith("unwitnessed") else ""
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f'<meta name="referrer" content="no-referrer"><title>{_text(title)}</title><style>{_STYLE}</style></head><body>',
            f"<h1>{_text(title)}</h1>",
            f"<p>Begun by <b>{_text(story.root.name or 'nobody')}</b>, {_when(story.started)} to {_when(story.ended)}: ",
            f'<span class="allowed">{story.allowed} allowed</span>, <span class="denied">{story.denied} denied</span>, ',
            f"{story.open} without an end.</p>",
            f'<p class="strip">From the ledger <b>{_text(seen.origin)}</b> at {seen.size} records, {_when(seen.made)}. ',
            f"<span{unseen}>{_text(seen.witnessed)}</span><br>",
            '<span class="dim">This page is a picture of the records and proves nothing by itself. Check the log with ',
            "<code>bailiwick audit verify</code>, one record with <code>bailiwick audit prove ID</code>.</span></p>",
            "<h2>Who asked whom</h2>",
            *_picture(calls),
            f"<h2>Calls ({len(calls)})</h2>",
            *map(_card, calls),
            "</body></html>\n",
        )
    )


@dataclass(frozen=True, slots=True)
class _Arrow:
    """One line of the picture: a call, or several that look the same one after the other."""

    first: CallFacts
    count: int


def _arrows(calls: Iterable[CallFacts]) -> Iterator[_Arrow]:
    held: CallFacts | None = None
    count = 0
    for call in calls:
        if held is not None and _looks(call) == _looks(held):
            count += 1
            continue
        if held is not None:
            yield _Arrow(held, count)
        held, count = call, 1
    if held is not None:
        yield _Arrow(held, count)


def _looks(call: CallFacts) -> tuple[str, ...]:
    return (call.by, call.target, call.method, call.resource or call.tool, call.effect, call.reason, call.outcome)


def _picture(calls: tuple[CallFacts, ...]) -> Iterator[str]:
    arrows = list(_arrows(calls))
    shown = arrows[:ROWS]
    lanes: dict[str, int] = {}
    for arrow in shown:
        for who in (*arrow.first.who, _lane(arrow.first)):
            lanes.setdefault(who, len(lanes))
    width, height = _LEFT * 2 + _LANE * len(lanes), _TOP + _ROW * len(shown) + 10
    yield f'<div class="picture" tabindex="0"><svg role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    yield "<title>Each line is a call, from who made it to what it was for; a red wall is a refusal</title>"
    for who, place in lanes.items():
        x = _x(place)
        yield f'<line class="lane" x1="{x}" y1="{_TOP - 12}" x2="{x}" y2="{height}"/>'
        yield f'<text x="{x}" y="22" text-anchor="middle"><title>{_text(who)}</title>{_text(_short(who, 24))}</text>'
    for row, arrow in enumerate(shown):
        yield from _line(arrow, _TOP + _ROW * row + 12, lanes)
    yield "</svg></div>"
    if len(arrows) > ROWS:
        yield f'<p class="dim">The picture shows the first {ROWS} of {len(arrows)} lines; every call is below.</p>'


def _line(arrow: _Arrow, y: int, lanes: dict[str, int]) -> Iterator[str]:
    call = arrow.first
    begin, end = _x(lanes.get(call.by, 0)), _x(lanes[_lane(call)])
    if begin == end:
        end += 40
    way = 1 if end > begin else -1
    denied = call.effect == "deny"
    stop = end - (24 if denied else 7) * way
    said = f"{call.tool or call.action or call.method}{f' ×{arrow.count}' if arrow.count > 1 else ''}"
    told = f"{call.by} → {call.resource or call.target}: {_verdict(call)} (record {call.index})"
    yield f'<g><title>{_text(told)}</title><line class="{_class(call)}" x1="{begin}" y1="{y}" x2="{stop}" y2="{y}"/>'
    if denied:
        yield f'<line class="wall" x1="{stop}" y1="{y - 9}" x2="{stop}" y2="{y + 9}"/>'
        said = f"{said}: {call.reason}"
    else:
        said = said if call.outcome == "ok" else f"{said}: {call.outcome}"
        yield f'<path class="head" d="M{end} {y}l{-8 * way} -4v8z"/>'
    mark = ' class="deny"' if denied else ""
    yield f'<text{mark} x="{min(begin, end) + 8}" y="{y - 5}">{_text(_short(said, 60))}</text></g>'


def _card(call: CallFacts) -> str:
    verdict = f'<span class="{"denied" if call.effect == "deny" else "allowed"}">{_text(_verdict(call))}</span>'
    took = f' <span class="dim">{call.latency_us / 1000:.1f} ms</span>' if call.latency_us is not None else ""
    rows = [
        ("who", " → ".join(call.who)),
        ("proof", call.joined),
        ("asked for", f"{call.action} {call.resource} ({call.proto} {call.method})"),
        ("when", _when(call.at)),
        ("duties", ", ".join(call.obligations)),
        ("streamed", f"{call.chunks} messages, committed to in the record of its end" if call.chunks else ""),
        ("detail", call.detail),
        ("policy", call.policy),
        ("record", f"{call.index}" + (f", its end {call.end_index}" if call.end_index is not None else "")),
        ("id", call.id),
        ("trace", call.trace),
    ]
    table = "".join(f"<tr><th>{name}</th><td><code>{_text(value)}</code></td></tr>" for name, value in rows if value.strip())
    asked = "".join(f"<li>{_asked(each)}</li>" for each in call.asked)
    values = (("why", call.explanation), ("received", call.request), ("returned", call.response))
    parts = "".join(_value(label, shown) for label, shown in values if shown is not None)
    return (
        f'<details class="{call.effect}"><summary>{_text(call.by)} <b>{_text(call.resource or call.target or call.method)}</b> '
        f"{verdict}{took}</summary><table>{table}</table>{f'<ul>{asked}</ul>' if asked else ''}{parts}</details>\n"
    )


def _asked(asked: Asked) -> str:
    spoke = ", ".join(f"{rule.rule} ({rule.source})" for rule in asked.rules)
    near = ", ".join(f"{rule.rule} ({rule.source})" for rule in asked.near)
    said = spoke or ("" if asked.allowed else "no rule grants it")
    mark = '<span class="allowed">✓</span>' if asked.allowed else '<span class="denied">✗</span>'
    more = f" <span class='dim'>near: {_text(near)}</span>" if near else ""
    return f"{mark} {_text(asked.who)} may {_text(f'{asked.action} {asked.resource}'.strip())}? {_text(said)}{more}"


def _value(label: str, shown: Shown) -> str:
    if shown.state != "shown":
        return f'<p class="dim">{label}: {shown.state}, {shown.size} bytes</p>'
    cut = f" (the beginning of {shown.size} bytes)" if shown.cut else ""
    return f"<p>{label}{cut}:</p><pre>{_text(shown.text)}</pre>"


def _class(call: CallFacts) -> str:
    return "deny" if call.effect == "deny" else "allow" if call.outcome in {"ok", "closed"} else "failed"


def _verdict(call: CallFacts) -> str:
    if call.effect == "deny":
        return f"denied: {call.reason}"
    return f"allowed → {call.outcome}"


def _lane(call: CallFacts) -> str:
    if call.proto == "a2a":
        return f"agent:{call.target}"
    return call.target or call.resource.partition(".")[0] or "the gateway"


def _x(place: int) -> int:
    return _LEFT + _LANE // 2 + _LANE * place


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _when(at: int) -> str:
    return datetime.fromtimestamp(at / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _text(text: str) -> str:
    """Text, with what would be invisible or turn it around said in letters."""
    return escape("".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text))
