"""Asked of an interpreter before it is used: the files that it needs, the Landlock of its kernel, the warden's modules compiled.

Reads the modules' sources as JSON, prints one JSON object.
"""

# ruff: noqa: PTH112, PTH113, PTH118, PTH208  runs under any interpreter, before anything is known of it
from __future__ import annotations

import base64
import ctypes
import importlib
import json
import marshal
import os
import select  # noqa: F401  the warden needs it
import struct  # noqa: F401  the warden needs it
import sys
import sysconfig
from contextlib import suppress

_NOT_NEEDED = ("_test", "_xx", "xx", "_tkinter", "_ctypes_test", "readline", "nis", "_curses", "_gdbm", "_dbm")


def _libraries(folders: list[str]) -> list[str]:
    """Every file that the standard library's extensions are linked with."""
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            module = name.split(".")[0]
            if ".so" in name and not module.startswith(_NOT_NEEDED):
                try:
                    importlib.import_module(module)
                except ImportError:
                    continue  # its library is not installed
    with suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")  # glibc opens it when a thread ends
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
        mapped = {line.split(None, 5)[5].strip() for line in maps if line.count(" ") > 5 and "/" in line}
    return sorted(path for path in mapped if path.startswith("/") and os.path.isfile(path))


def _entries(folder: str) -> list[str]:
    """A folder of the standard library: whole, or, where packages are installed in it, what else it holds but links that leave.

    A rule for each file costs a cage as much as the rest of its closing.
    """
    if not any(os.path.exists(os.path.join(folder, name)) for name in ("site-packages", "dist-packages")):  # noqa: PTH110
        return [folder]
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.realpath(os.path.join(folder, name))
        if name not in {"site-packages", "dist-packages", "test"} and path.startswith(os.path.realpath(folder) + os.sep):
            found.append(path)
    return found


def _compiled() -> str:
    """The modules as this very interpreter loads them; to be loaded by it alone, in a cage that is not closed yet."""
    modules = [(name, compile(source, name, "exec")) for name, source in json.load(sys.stdin)]
    return base64.b64encode(marshal.dumps(modules)).decode("ascii")


def main() -> None:
    """Print what `sandbox/interpreter.py` reads."""
    folders = [os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    folders = sorted({folder for folder in folders if os.path.isdir(folder)})
    dynload = [path for path in sys.path if os.path.basename(path) == "lib-dynload" and os.path.isdir(path)]  # noqa: PTH119
    executable = os.path.realpath(sys.executable)
    mapped = _libraries(dynload)
    loader = [path for path in mapped if os.path.basename(path).startswith("ld-")]  # noqa: PTH119
    cache = [path for path in ("/etc/ld.so.cache",) if os.path.isfile(path)]
    libc = ctypes.CDLL(None, use_errno=True)
    abi = libc.syscall(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint32(1))  # LANDLOCK_CREATE_RULESET_VERSION
    print(
        json.dumps(
            {
                "version": list(sys.version_info[:3]),
                "executable": executable,
                "execute": sorted({executable, *loader}),
                "read": sorted({*(path for folder in folders for path in _entries(folder)), *mapped, *cache, *dynload}),
                "list": folders,
                "modules": _compiled(),
                "abi": abi,
                "abi_errno": ctypes.get_errno() if abi < 0 else 0,
            }
        )
    )


if __name__ == "__main__":
    main()
