"""Profiles are data: one TOML file each, named after the profile, read strictly.  A mistake is an error, never a default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sandbox.model import Guarantee, Limits, Profile, Strength

_SHIPPED = Path(__file__).parent
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FILE_BYTES = 64 * 1024


class ProfileError(Exception):
    """A profile's file is wrong.  The message begins with the file's path."""


def load_profiles(folder: Path | None = None) -> Mapping[str, Profile]:
    """The shipped profiles and those of `folder` by name.

    Raises ProfileError for an unknown or missing key, a value out of its bounds, or a name that a shipped profile has already:
    the meaning of a shipped name does not depend on the machine.
    """
    profiles = {path.stem: _read(path) for path in sorted(_SHIPPED.glob("*.toml"))}
    if folder is not None:
        if not folder.is_dir():
            msg = f"{folder}: is not a folder"
            raise ProfileError(msg)
        for path in sorted(folder.glob("*.toml")):
            if path.stem in profiles:
                msg = f"{path}: a shipped profile is called {path.stem!r}; choose another name"
                raise ProfileError(msg)
            profiles[path.stem] = _read(path)
    return MappingProxyType(profiles)


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


def _profile(name: str, data: dict[str, object]) -> Profile:
    if not _NAME.fullmatch(name):
        raise ValueError("a profile's name is made of a-z, 0-9 and inner hyphens")
    unknown = set(data) - {"network", "limits", "requires"}
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}; known are limits, network, requires")
    if data.get("network", False) is not False:
        raise ValueError("network must be false; allow-lists of hosts are not offered")
    return Profile(name, _limits(data.get("limits")), False, _requires(data.get("requires")))


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
