"""JSON as editors write it: comments and trailing commas are accepted, a name that stands twice is not.

Bounded; positions in errors are those of the original text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from gateway.problem import Problem, ProblemError

MAX_BYTES = 1024 * 1024
_COMMENT = r"//[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/"
_TOKEN = re.compile(rf'"(?:[^"\\\n]|\\.)*+"|{_COMMENT}|,(?=(?:\s|{_COMMENT})*+[}}\]])')


def read(path: Path) -> dict[str, object]:
    """The object in a file.  Raises `ProblemError` where it cannot be read or is not one object; never shows its content."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProblemError(Problem("unreadable-file", f"cannot be read: {error.strerror}", str(path))) from error
    if len(data) > MAX_BYTES:
        raise ProblemError(Problem("too-large", f"larger than {MAX_BYTES} bytes", str(path)))
    try:
        text = plain(data.decode("utf-8-sig"))
        value = json.loads(text, object_pairs_hook=_once)
        json.dumps(value, ensure_ascii=False).encode()  # an escape may spell what no file can hold
    except json.JSONDecodeError as error:
        raise ProblemError(Problem("not-json", f"not JSON: {error.msg}", f"{path}:{error.lineno}:{error.colno}")) from error
    except _TwiceError as error:
        raise ProblemError(Problem("duplicate-key", f"the name '{error}' stands in one object twice", str(path))) from error
    except RecursionError as error:
        raise ProblemError(Problem("too-deep", "nested deeper than is accepted", str(path))) from error
    except UnicodeDecodeError as error:
        raise ProblemError(Problem("not-utf8", "not UTF-8 text", str(path))) from error
    except UnicodeEncodeError as error:
        raise ProblemError(Problem("not-utf8", "an escape like \\ud800 that stands alone is no character", str(path))) from error
    if not isinstance(value, dict):
        raise ProblemError(Problem("wrong-type", "not a JSON object", str(path)))
    return value


def plain(text: str) -> str:
    """The text with comments and trailing commas blanked, every other character at its place."""
    return _TOKEN.sub(lambda found: found[0] if found[0].startswith('"') else re.sub(r"[^\n]", " ", found[0]), text)


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found
