"""What a record keeps of what was received and what the decision was made from; of what a duty withholds, a commitment alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import orjson

from audit.model import Value
from audit.privacy import SALT_SIZE, commitment
from gateway.model import Call
from policies.model import AccessRequest

ORIGINALS: Final = "originals"
"""The leaf's member: by value, commitment (`c`) and length (`n`) of what was received where it is not kept itself."""
SALT: Final = "original_salt"
"""The value with the commitment's salt, in hex: with it, whoever has the original can show that it was that."""


def facts(call: Call | None, request: AccessRequest | None) -> tuple[Value, ...]:
    """What was received, as it was on the wire, and what else the decision was made from."""
    received = (Value("request", call.arrival.body),) if call is not None and call.arrival.body else ()
    if request is None:
        return received
    known = {"groups": sorted(request.groups), "context": request.context, "at": request.at}
    return (*received, Value("facts", orjson.dumps(known, default=_plain, option=orjson.OPT_SORT_KEYS)))


def withheld(
    call: Call | None, request: AccessRequest | None, said: bytes | None
) -> tuple[tuple[Value, ...], Mapping[str, object] | None]:
    """The same with `said` in place of what was received (None: nothing), and for the leaf the commitment to that."""
    if call is None or not call.arrival.body:
        return facts(call, request), None
    salt, originals = committed("request", call.arrival.body)
    return ((Value("request", said),) if said else ()) + (salt, *facts(None, request)), originals


def committed(name: str, original: bytes) -> tuple[Value, Mapping[str, object]]:
    """The salt that is kept, sealed, and for the leaf the commitment to what is not."""
    salt = os.urandom(SALT_SIZE)
    return Value(SALT, salt.hex().encode()), {name: {"c": commitment(salt, name, original), "n": len(original)}}


def _plain(value: object) -> object:
    """Mappings and numbers that JSON does not know by name."""
    return dict(value) if isinstance(value, Mapping) else str(value)
