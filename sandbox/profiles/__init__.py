"""Profiles are data: one TOML file each, named after the profile, read strictly.  A mistake is an error, never a default."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sandbox.model import Guarantee, Language, Limits, Profile, Strength
from sandbox.names import Destination

_SHIPPED = Path(__file__).parent
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FILE_BYTES = 64 * 1024
_DESTINATIONS = 256


class ProfileError(Exception):
    """A profile's file is wrong.  The message begins with the file's path."""


def load_profiles(folder: Path | None = None) -> Mapping[str, Profile]:
    """The shipped profiles and those of `folder` by name.

    Raises ProfileError for an unknown or missing key, a value out of its bounds, or a name that a shipped profile has already:
    the meaning of a shipped name does not depend on the machine.
    """
    profiles = {path.stem: _read(path) for path in sorted(_SHIPPED.glob("*.toml"))}
    if folder is not None:
        for path in _files(folder):
            if path.stem in profiles:
                msg = f"{path}: a shipped profile is called {path.stem!r}; choose another name"
                raise ProfileError(msg)
            profiles[path.stem] = _read(path)
    return MappingProxyType(profiles)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".toml"))  # noqa: PTH208  glob hides why
    except OSError as error:
        msg = f"{folder}: is not a folder that can be read: {error.strerror}"
        raise ProfileError(msg) from error


def _read(path: Path) -> Profile:
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_BYTES + 1)
        if len(raw) > _FILE_BYTES:
            raise ValueError(f"is longer than {_FILE_BYTES} bytes")
        return _profile(path.stem, tomllib.loads(raw.decode("utf-8")))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        msg = f"{path}: {error}"
        raise ProfileError(msg) from error


KEYS = ("languages", "limits", "network", "packages", "requires", "session", "tools")
"""What a profile's file may say."""


def _profile(name: str, data: dict[str, object]) -> Profile:
    if not _NAME.fullmatch(name):
        raise ValueError("a profile's name is made of a-z, 0-9 and inner hyphens")
    unknown = set(data) - set(KEYS)
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}; known are {', '.join(KEYS)}")
    packages = data.get("packages")
    if packages is not None and not (isinstance(packages, str) and _NAME.fullmatch(packages)):
        raise ValueError("packages must be the name of a set: a-z, 0-9 and inner hyphens")
    return Profile(
        name=name,
        limits=_limits(data.get("limits")),
        network=_network(data.get("network", False)),
        requires=_requires(data.get("requires")),
        languages=_languages(data.get("languages", ["python"])),
        packages=packages,
        tools=_flag(data, "tools"),
        session=_flag(data, "session"),
    )


def _flag(data: dict[str, object], name: str) -> bool:
    value = data.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return value


def _network(data: object) -> tuple[Destination, ...]:
    if data is False:
        return ()
    found = [Destination.parse(text) for text in _texts("network", data, 'false, or a list of "host:port"')]
    if len(found) > _DESTINATIONS:
        raise ValueError(f"network must not name more than {_DESTINATIONS} destinations")
    return tuple(found)


def _languages(data: object) -> frozenset[Language]:
    if data == []:
        return frozenset()
    known = {str(language): language for language in Language}
    found = _texts("languages", data, f"a list of {', '.join(known)}")
    for name in found:
        if name not in known:
            raise ValueError(f"unknown language {name!r}; known are {', '.join(known)}")
    return frozenset(known[name] for name in found)


def _texts(name: str, data: object, wanted: str) -> list[str]:
    if not isinstance(data, list) or not data or not all(isinstance(item, str) for item in data) or len(set(data)) < len(data):
        raise ValueError(f"{name} must be {wanted}, each once")
    return data


def _limits(data: object) -> Limits:
    names = Limits.__slots__
    if not isinstance(data, dict):
        raise ValueError(f"a table [limits] is needed, with {', '.join(names)}")
    if set(data) != set(names):
        unknown, lacking = sorted(set(data) - set(names)), sorted(set(names) - set(data))
        raise ValueError(f"unknown limit {unknown[0]!r}" if unknown else f"limit {lacking[0]!r} is missing")
    for name, value in data.items():
        if type(value) is not int and not (name == "wall_seconds" and type(value) is float):
            raise ValueError(f"limit {name!r} must be a number of whole units, not {value!r}")
    return Limits(**data)


def _requires(data: object) -> Mapping[Guarantee, Strength]:
    if not isinstance(data, dict):
        raise ValueError('a table [requires] is needed: guarantee = "soft" or "hard"')
    words = {strength.word: strength for strength in Strength}
    known = {str(guarantee): guarantee for guarantee in Guarantee}
    found: dict[Guarantee, Strength] = {}
    for name, word in data.items():
        if name not in known:
            raise ValueError(f"unknown guarantee {name!r}; known are {', '.join(known)}")
        if not isinstance(word, str) or word not in words:
            raise ValueError(f"guarantee {name!r} must be one of {', '.join(words)}, not {word!r}")
        found[known[name]] = words[word]
    return MappingProxyType(found)
