"""Log records that can be found by trace: each carries the trace and span id of the call it was written in, one line a record."""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from gateway.model import Trace

CURRENT: ContextVar[Trace | None] = ContextVar("bailiwick_trace", default=None)
"""The call that this task works for; for logs alone, nothing is ever decided by it."""


class TraceFilter(logging.Filter):
    """Adds `trace_id` and `span_id` to every record: of `extra={"trace": …}`, else of the current call, else empty."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record pass."""
        trace = getattr(record, "trace", None) or CURRENT.get()
        record.trace_id = trace.trace_id if trace is not None else ""
        record.span_id = trace.span_id if trace is not None else ""
        return True


class TextLines(logging.Formatter):
    """`time level logger message`, and the trace where there is one.  A message cannot begin a line of its own."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  logging's own name
        """UTC, to the millisecond (RFC 3339)."""
        moment = time.strftime(datefmt or "%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{moment}.{int(record.msecs):03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        """One line, and indented lines for an exception."""
        trace_id, span_id = _ids(record)
        trace = f" trace_id={trace_id} span_id={span_id}" if trace_id else ""
        line = f"{self.formatTime(record)} {record.levelname} {record.name} {_one_line(record.getMessage())}{trace}"
        if record.exc_info:
            line += "\n" + "\n".join("    " + _one_line(part) for part in self.formatException(record.exc_info).splitlines())
        return line


class JsonLines(TextLines):
    """One JSON object a line: `time`, `level`, `logger`, `message`, `trace_id`, `span_id`, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        line = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        trace_id, span_id = _ids(record)
        if trace_id:
            line |= {"trace_id": trace_id, "span_id": span_id}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def handler(stream: TextIO, *, as_json: bool) -> logging.Handler:
    """A handler for the `gateway` logger (and whoever else should be found by trace)."""
    made = logging.StreamHandler(stream)
    made.addFilter(TraceFilter())
    made.setFormatter(JsonLines() if as_json else TextLines())
    return made


def _ids(record: logging.LogRecord) -> tuple[str, str]:
    return str(getattr(record, "trace_id", "")), str(getattr(record, "span_id", ""))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
