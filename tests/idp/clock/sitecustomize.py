"""A process whose PYTHONPATH leads here reads its clocks through a file of eight bytes: by how many seconds time has passed."""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

if place := os.environ.get("CLOCK_FILE"):
    with Path(place).open("rb") as _file:
        _ahead = mmap.mmap(_file.fileno(), 8, prot=mmap.PROT_READ)
    _monotonic, _time, _time_ns = time.monotonic, time.time, time.time_ns

    def _passed() -> int:
        return int(struct.unpack("<q", _ahead[:8])[0])

    time.monotonic = lambda: _monotonic() + _passed()
    time.time = lambda: _time() + _passed()
    time.time_ns = lambda: _time_ns() + _passed() * 1_000_000_000
