"""Paths and hosts, read strictly: what two readers could read differently is None."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def clean_path(path: str) -> tuple[bool, tuple[str, ...]] | None:
    """(absolute, segments); None for a path that two readers could read differently."""
    if not path or any(c in "\\%" or ord(c) < 32 or ord(c) == 127 for c in path) or path != path.strip() or path[0] == "~":
        return None
    segments = tuple(s for s in path.split("/") if s not in ("", "."))
    if any(s.strip(" .") == "" or s != s.strip(" ") for s in segments):  # `..`, and what some systems trim to it
        return None
    return path.startswith("/"), segments


_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_QUAD = re.compile(r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}")


def host_of(text: str) -> str | None:
    """The host of an http(s) URL, or a bare host name; None for whatever two readers could read differently."""
    if len(text) > 4096 or not text.isascii() or not text.isprintable() or any(c in "\\@ \"'<>^`{|}%" for c in text):
        return None
    host = text
    if "://" in text:
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            return None
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            return None
        host = parts.hostname
    host = host.lower()
    if len(host) > 253 or not _HOST.fullmatch(host):
        return None
    last = host.rsplit(".", 1)[-1]
    numeric = last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last)
    return None if numeric and not _QUAD.fullmatch(host) else host  # 2130706433 and 0x7f.1 are addresses to some
