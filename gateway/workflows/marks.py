"""Digests of arguments, so that history tells equal ones without holding them."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from gateway.model import Principal
from policies.workflows.values import written

MARK_CHARS: Final = 32


class Marker:
    """Makes them; without the key nobody can guess a value from one."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mark(self, tenant: str, value: object) -> str | None:
        """The same for equal values of one tenant, whichever protocol said them; None for what is no plain value."""
        text = written(value)
        if text is None:
            return None
        data = f"{tenant}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, data, hashlib.sha256).hex()[:MARK_CHARS]

    def task(self, principal: Principal, protocol: str, target: str, task: str) -> str:
        """Of a person's task at one server or agent, by the id that it has there."""
        said = json.dumps([principal.tenant, principal.subject, protocol, target, task], separators=(",", ":"))
        return hmac.digest(self._key, b"task\0" + said.encode(), hashlib.sha256).hex()

    def marks(self, tenant: str, arguments: Mapping[str, object], names: Iterable[str]) -> Mapping[str, str]:
        """Of those arguments that are there and are plain values."""
        found = {name: self.mark(tenant, arguments[name]) for name in sorted(names) if name in arguments}
        return MappingProxyType({name: mark for name, mark in found.items() if mark is not None})
