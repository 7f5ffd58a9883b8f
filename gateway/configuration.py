"""`bailiwick.yaml` and `BAILIWICK_…` variables to `Settings`: everything that is wrong is said at once, with its place.

No value that could be a secret is ever shown.  Order of precedence: environment, file, default.
"""

from __future__ import annotations

import difflib
import json
import os.path
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway import located_yaml
from gateway.contradictions import contradictions
from gateway.located_yaml import Mark, Value
from gateway.problem import Problem, ProblemError
from gateway.schema_walk import is_secret, kind_of, members, step
from gateway.settings import Settings

MAX_BYTES = 1024 * 1024
PREFIX = "BAILIWICK_"
RESERVED = frozenset({"BAILIWICK_DEBUG", "BAILIWICK_CONFIG", "BAILIWICK_TOKEN"})
"""Variables of that prefix which are not settings: tracebacks, the file's place, a caller's own token."""

_SENSITIVE = re.compile(r"secret|token|passw|credential|api.?key|private|authori[sz]ation|cookie|://[^/\s]*@", re.IGNORECASE)
_BY_REFERENCE = (
    "write a reference instead: {env: NAME_OF_A_VARIABLE} or {file: secrets/name}; `prefix: 'Bearer '` may stand beside it"
)

Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and where each of them was said.

    values and keys  place of each value and key in the file, by its path, as ("mcp", "erp", "url").
    variables        the environment variable that said it, by the same path.
    """

    settings: Settings
    file: Path
    lines: tuple[str, ...] = ()
    keys: Mapping[Steps, Mark] = field(default_factory=dict)
    values: Mapping[Steps, Mark] = field(default_factory=dict)
    variables: Mapping[Steps, str] = field(default_factory=dict)

    def problem(self, code: str, message: str, path: Steps, help: str = "") -> Problem:  # noqa: A002  Problem's own word
        """A problem of one setting, at the place where it, or the nearest group around it, was said."""
        return _Places(self.file, self.lines, self.keys, self.values, self.variables).problem(code, message, path, help)


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Settings of one file and environment.  Raises `ProblemError` with every problem; never returns half of them."""
    return read(path, environ).settings


def read(path: Path, environ: Mapping[str, str]) -> Configuration:
    """As `load`, together with the place of each setting, for checks that come later."""
    text = _text(path)
    document = located_yaml.parse(text)
    lines = tuple(text.splitlines())
    variables: dict[Steps, str] = {}
    places = _Places(path, lines, document.keys, document.values, variables)
    problems = [_fault(fault, places) for fault in document.faults]
    if document.value is None:
        raise ProblemError(*problems)
    if not isinstance(document.value, dict):
        raise ProblemError(places.problem("wrong-type", "the file must be a mapping of settings, as `server:`", ()))
    tree: dict[str, Value] = document.value
    problems += _override(tree, environ, variables)
    problems += _inline_secrets(tree, Settings, (), places)
    settings, invalid = _validate(tree, places)
    problems += invalid
    if problems or settings is None:
        raise ProblemError(*sorted(problems, key=_reading_order))
    settings = _absolute(settings, path.absolute().parent)
    configuration = Configuration(settings, path, lines, document.keys, document.values, variables)
    if wrong := list(contradictions(configuration)):
        raise ProblemError(*wrong)
    return configuration


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        inside = path / "bailiwick.yaml"
        there = os.path.isfile(inside)  # noqa: PTH113  never raises, whoever may look
        help_ = f"did you mean {inside}?" if there else "`bailiwick init` writes a commented one"
        raise ProblemError(Problem("unreadable-file", f"cannot be read: {reason}", str(path), help_)) from error
    if len(data) > MAX_BYTES:
        raise ProblemError(Problem("too-large", f"larger than {MAX_BYTES} bytes", str(path)))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProblemError(Problem("not-utf8", "not UTF-8 text", f"{path}:{line}:1")) from error


@dataclass(frozen=True, slots=True)
class _Places:
    file: Path
    lines: tuple[str, ...]
    keys: Mapping[Steps, Mark]
    values: Mapping[Steps, Mark]
    variables: Mapping[Steps, str]

    def problem(self, code: str, message: str, path: Steps, help: str = "", *, at_key: bool = False) -> Problem:  # noqa: A002
        for end in range(len(path), -1, -1):
            if variable := self.variables.get(path[:end]):
                return Problem(code, message, f"environment variable {variable}", help)
            near, exact = path[:end], end == len(path)
            key, value = self.keys.get(near), self.values.get(near)
            # Of a group that begins below its name, the name is what people look for.
            below = key is not None and value is not None and value.line > key.line
            mark = (key if at_key or not exact or below else value) or value
            if mark and (near or exact):
                return self.at(code, message, mark, help, hide=_hidden(path))
        return Problem(code, message, str(self.file), help)

    def at(self, code: str, message: str, mark: Mark, help: str = "", *, hide: bool = False) -> Problem:  # noqa: A002
        line = self.lines[mark.line - 1] if 0 < mark.line <= len(self.lines) else ""
        text = _redacted(line, hide=hide)
        column = min(mark.column, len(text) + 1)
        return Problem(code, message, f"{self.file}:{mark.line}:{mark.column}", help, text, column)


def _hidden(path: Steps) -> bool:
    """Whether the values around here may be secrets, by where they stand."""
    return any(is_secret(step(Settings, path[:end])) for end in range(1, len(path) + 1))


def _redacted(line: str, *, hide: bool) -> str:
    """The line as it may be shown: of one that may hold a secret, only what stands before its first value."""
    if not hide and not _SENSITIVE.search(line):
        return line[:200]
    head, colon, rest = line.partition(":")
    return f"{head}: …"[:200] if colon and rest.strip() else (line[:200] if colon else "…")


def _fault(fault: located_yaml.Fault, places: _Places) -> Problem:
    # Of a broken text nobody knows which part is a value: show the key alone.
    return places.at(fault.code, fault.message, fault.mark, fault.help, hide=True)


def _override(tree: dict[str, Value], environ: Mapping[str, str], variables: dict[Steps, str]) -> list[Problem]:
    """Write `BAILIWICK_SERVER__PORT=…` into the tree; the names that lead nowhere come back as problems."""
    problems = []
    referenced = set(_referenced(tree))
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in RESERVED or name in referenced:
            continue
        place, words = f"environment variable {name}", name.removeprefix(PREFIX).split("__")
        path = _resolve(tree, words)
        if path is None:
            near = difflib.get_close_matches(name, _variables(), 1)
            help_ = (
                f"did you mean {near[0]}?"
                if near
                else "groups and settings are joined by two underscores, as BAILIWICK_SERVER__PORT"
            )
            problems.append(Problem("unknown-variable", "leads to no setting", place, help_))
            continue
        value = located_yaml.parse(environ[name])
        if value.faults:
            problems.append(Problem("yaml-syntax", value.faults[0].message, place, "quote the value if it is text"))
            continue
        if not _place(tree, path, None if value.value == {} and not environ[name].strip() else value.value):
            problems.append(Problem("wrong-type", "stands below something that is not a group", place))
            continue
        variables[path] = name
    return problems


def _variable(path: Steps) -> str:
    return PREFIX + "__".join(str(word) for word in path).upper().replace("-", "_")


def _variables() -> list[str]:
    """Names of all variables that need no id of an agent or server."""
    alone = [_variable((key,)) for key in Settings.model_fields if not members(step(Settings, (key,)))]
    return alone + [_variable((key, inner)) for key in Settings.model_fields for inner in members(step(Settings, (key,)))]


def _referenced(value: Value) -> Iterator[str]:
    """Every name of a variable that the file refers to by `env:`; these may begin as they like."""
    if isinstance(value, dict):
        if isinstance(name := value.get("env"), str):
            yield name
        for inner in value.values():
            yield from _referenced(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _referenced(inner)


def _resolve(tree: Value, words: list[str]) -> Steps | None:
    """The setting's path that upper-case words mean, or None."""
    path: list[str | int] = []
    here: Value = tree
    for word in words:
        schema = step(Settings, tuple(path))
        kind = kind_of(schema)
        key: str | int
        if kind == "group":
            key = word.lower()
            if key not in members(schema):
                return None
        elif kind == "mapping":
            present = list(here) if isinstance(here, dict) else []
            key = next((k for k in present if k.upper().replace("-", "_") == word), word.lower().replace("_", "-"))
        elif kind == "list" and word.isdigit() and isinstance(here, list) and int(word) < len(here):
            key = int(word)
        else:
            return None
        path.append(key)
        here = here.get(key) if isinstance(here, dict) and isinstance(key, str) else _item(here, key)
    return tuple(path) if path else None


def _item(here: Value, key: str | int) -> Value:
    return here[key] if isinstance(here, list) and isinstance(key, int) else None


def _place(tree: dict[str, Value], path: Steps, value: Value) -> bool:
    here: Any = tree
    for key in path[:-1]:
        if isinstance(here, dict) and here.get(str(key)) is None:
            here[str(key)] = {}
        here = here[key]
        if not isinstance(here, dict | list):
            return False
    here[path[-1]] = value
    return True


def _inline_secrets(value: Value, schema: object, path: Steps, places: _Places) -> Iterator[Problem]:
    """Every place where a secret stands, or seems to, although only a reference may."""
    if is_secret(schema):
        if value is not None and not isinstance(value, dict):
            yield places.problem(
                "inline-secret", f"{_dotted(path)}a secret does not stand in the file", path, _BY_REFERENCE, at_key=True
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _inline_secrets(inner, step(schema, (key,)), (*path, key), places)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _inline_secrets(inner, step(schema, (index,)), (*path, index), places)
    elif isinstance(value, str) and re.search(r"://[^/\s@]*:[^/\s@]+@", value) and path not in places.variables:
        help_ = "send it as a header: headers: {Authorization: {env: NAME, prefix: 'Basic '}}"
        if path[0] in ("state", "ledger"):
            help_ = f"give the URL in {_variable(path)}, or the password in ~/.pgpass"
        yield places.problem("inline-secret", f"{_dotted(path)}a password does not stand in the file", path, help_)


def _validate(tree: dict[str, Value], places: _Places) -> tuple[Settings | None, list[Problem]]:
    try:
        # By way of JSON, because strictness there means what people expect: "8080" is no number, a list may be a tuple.
        return Settings.model_validate_json(json.dumps(tree), strict=True), []
    except ValidationError as error:
        found: list[dict[str, Any]] = [dict(each) for each in error.errors(include_url=False, include_input=False)]
        # A plain value where a secret's reference belongs has been reported already, in better words.
        return None, [_invalid(each, places) for each in found if not (each["type"] == "model_type" and _hidden(each["loc"]))]


def _reading_order(problem: Problem) -> tuple[int, int]:
    parts = problem.location.rsplit(":", 2)
    return (int(parts[1]), int(parts[2])) if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit() else (0, 0)


def _invalid(error: dict[str, Any], places: _Places) -> Problem:
    kind, said = str(error["type"]), tuple(error["loc"])
    key = said[-1:] if kind == "extra_forbidden" else ()  # whatever it looks like
    # Where either of two kinds may stand, the kind's own name is no step of the way.
    path: Steps = (*(each for each in said[: len(said) - len(key)] if each == "[key]" or "[" not in str(each)), *key)
    if kind == "extra_forbidden":
        known = members(step(Settings, path[:-1]))
        near = difflib.get_close_matches(str(path[-1]).lower().replace("-", "_"), known, 1)
        help_ = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return places.problem("unknown-key", f"{_dotted(path[:-1])}unknown key '{path[-1]}'", path, help_, at_key=True)
    if kind == "missing":
        return places.problem("missing-key", f"{_dotted(path[:-1])}'{path[-1]}' is missing", path[:-1], at_key=True)
    if path and path[-1] == "[key]":
        path = path[:-1]
        return places.problem(
            "invalid-name", f"'{path[-1]}' is not a name that may stand here", path, _help_of(kind), at_key=True
        )
    message = (
        str(error["msg"])
        .removeprefix("Value error, ")
        .replace("Input should", "must")
        .replace("String should", "must")
        .replace("be an object", "be a mapping")
    )
    code = "wrong-type" if kind.endswith(("_type", "_parsing")) else "invalid-value"
    return places.problem(code, f"{_dotted(path)}{message}", path, _help_of(kind))


def _help_of(kind: str) -> str:
    return {
        "string_type": "put the value in quotes if it is meant as text",
        "string_pattern_mismatch": "ids are lower-case letters, digits and hyphens: at most 63, no hyphen first or last",
        "int_type": "write the number without quotes",
        "tuple_type": "write a list, as [a, b]",
        "bool_type": "write true or false",
    }.get(kind, "")


def _dotted(path: Steps) -> str:
    return ".".join(str(part) for part in path) + ": " if path else ""


def _absolute(settings: Settings, base: Path) -> Settings:
    """The same settings with every relative path below the file's folder."""
    anchored = _anchor(settings, base)
    assert isinstance(anchored, Settings)  # noqa: S101  a model stays what it is
    return anchored


def _anchor(value: object, base: Path) -> object:
    if isinstance(value, Path):
        return value if value.is_absolute() else base / value
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: _anchor(getattr(value, name), base) for name in type(value).model_fields})
    if isinstance(value, dict):
        return {key: _anchor(inner, base) for key, inner in value.items()}
    return tuple(_anchor(inner, base) for inner in value) if isinstance(value, tuple) else value
