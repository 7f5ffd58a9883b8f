"""What a caller asks of the sandbox, read strictly: the tools' schemas, and their arguments as one value (sans-I/O)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from sandbox.model import Language

RUNS: Final[Mapping[str, Language]] = MappingProxyType(
    {"run_python": Language.PYTHON, "run_shell": Language.SHELL, "run_javascript": Language.JAVASCRIPT}
)
"""Tool → what its code is written in."""
ENVIRONMENTS: Final = "list_environments"

_SAID: Final = {
    Language.PYTHON: ("Run Python", "Run a Python program"),
    Language.SHELL: ("Run a shell script", "Run a POSIX shell script (/bin/sh)"),
    Language.JAVASCRIPT: ("Run JavaScript", "Run a JavaScript program (an ES module, in Node.js)"),
}
_PROPERTIES: Final[Mapping[str, Any]] = {
    "code": {"type": "string", "description": "The program."},
    "network": {
        "type": "boolean",
        "default": False,
        "description": "Whether it shall reach the hosts that its profile lists. Most profiles list none: then it must be false.",
    },
    "memory_mb": {"type": "number", "exclusiveMinimum": 0, "description": "Memory that it may need."},
    "files": {
        "type": "object",
        "description": 'Files of its working folder by relative name: text, or {"base64": "…"}.',
        "additionalProperties": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"base64": {"type": "string"}},
                    "required": ["base64"],
                    "additionalProperties": False,
                },
            ]
        },
    },
    "stdin": {"type": "string", "description": "What it reads from standard input."},
    "arguments": {"type": "array", "items": {"type": "string"}, "description": "Its command line's arguments."},
    "profile": {
        "type": "string",
        "description": "Under which profile it shall run; `list_environments` names those you may use.",
    },
    "session": {
        "type": "boolean",
        "default": False,
        "description": "Whether it finds the files that earlier runs of this workflow left, and leaves its own to later ones.",
    },
}
_REQUIRED: Final = ("code",)


@dataclass(frozen=True, slots=True)
class Asked:
    """One run that is asked for.

    profile    what the caller named, None where it named none.  It is a wish: what counts is what was decided.
    memory_mb  None where nothing is said.
    """

    language: Language
    code: str
    files: Mapping[str, bytes]
    stdin: bytes
    arguments: tuple[str, ...]
    profile: str | None
    session: bool
    network: bool
    memory_mb: int | float | Decimal | None


class WrongError(Exception):
    """The caller asks for what cannot be; the message says what to correct, and may be shown to a model."""


def definitions(languages: frozenset[Language]) -> list[dict[str, Any]]:
    """The tools as MCP lists them: a run for each of these languages; none at all without any."""
    if not languages:
        return []
    return [*(_definition(tool, language) for tool, language in RUNS.items() if language in languages), _LISTING]


_LISTING: Final = {
    "name": ENVIRONMENTS,
    "title": "List the sandbox's environments",
    "description": "Say under which profiles you may run code here: languages, limits, packages, network, and what is proven.",
    "inputSchema": {"type": "object", "properties": {}, "additionalProperties": False},
    "annotations": {"readOnlyHint": True, "openWorldHint": False},
}


def _definition(tool: str, language: Language) -> dict[str, Any]:
    title, what = _SAID[language]
    return {
        "name": tool,
        "title": title,
        "description": f"{what} in an isolated sandbox. Returns what it prints, and the files that it leaves in its working "
        "folder. Nothing else of this machine can be read or changed.",
        "inputSchema": {
            "type": "object",
            "properties": dict(_PROPERTIES),
            "required": list(_REQUIRED),
            "additionalProperties": False,
        },
        "annotations": {"readOnlyHint": False, "destructiveHint": False, "openWorldHint": False},
    }


def read(tool: str, arguments: Mapping[str, Any]) -> Asked:
    """The run that a call of one of `RUNS` asks for; WrongError otherwise."""
    unknown = sorted(set(arguments) - set(_PROPERTIES))
    if unknown:
        raise WrongError(f"There is no argument {unknown[0][:64]!r}; there are {', '.join(_PROPERTIES)}.")
    code = arguments.get("code")
    if not isinstance(code, str):
        raise WrongError("code is a text.")
    stdin, profile = arguments.get("stdin", ""), arguments.get("profile")
    if not isinstance(stdin, str) or not isinstance(profile, str | None):
        raise WrongError("stdin and profile are texts.")
    given = arguments.get("arguments", [])
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise WrongError("arguments is a list of texts.")
    for name in ("network", "session"):
        if not isinstance(arguments.get(name, False), bool):
            raise WrongError(f"{name} is true or false.")
    return Asked(
        language=RUNS[tool],
        code=code,
        files=_files(arguments.get("files", {})),
        stdin=_bytes("stdin", stdin),
        arguments=tuple(given),
        profile=profile,
        session=arguments.get("session", False),
        network=arguments.get("network", False),
        memory_mb=_memory(arguments.get("memory_mb")),
    )


def _memory(value: object) -> int | float | Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not value > 0:
        raise WrongError("memory_mb is a number above 0.")
    return value


def _files(value: object) -> Mapping[str, bytes]:
    if not isinstance(value, dict):
        raise WrongError("files is an object of names and contents.")
    return MappingProxyType({name: _content(name, content) for name, content in value.items()})


def _content(name: str, content: object) -> bytes:
    if isinstance(content, str):
        return _bytes(name, content)
    encoded = content.get("base64") if isinstance(content, dict) and len(content) == 1 else None
    if not isinstance(encoded, str):
        raise WrongError(f'files: {name[:64]!r} is neither a text nor {{"base64": "…"}}.')
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise WrongError(f"files: {name[:64]!r} is not Base64.") from None


def _bytes(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        raise WrongError(f"{name[:64]!r} is not text.") from None
