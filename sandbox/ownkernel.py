"""Whether this process runs on a kernel of its own: gVisor says so in the kernel's log, which it makes up for its guests."""

from __future__ import annotations

import ctypes
from typing import Final

_READ_ALL: Final = 3  # SYSLOG_ACTION_READ_ALL
_BYTES: Final = 1 << 16


def evidence() -> str:
    """What shows that gVisor is the kernel here, "" where nothing does.

    A host's log could be made to say it too, by who is root there: that is why an operator has to say so as well.
    """
    text = ctypes.create_string_buffer(_BYTES)
    count = ctypes.CDLL(None).klogctl(_READ_ALL, text, _BYTES - 1)
    first = text.raw[: max(count, 0)].split(b"\n", 1)[0].decode("utf-8", "replace")
    return f"the kernel's log begins with '{first.split('] ')[-1]}'" if "Starting gVisor" in first else ""
