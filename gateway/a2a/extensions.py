"""A2A's extensions: one is active in a call where the caller asks for it, the agent's settings allow it and its card offers it.

Of any other nothing goes on: not its name in a header or a message, nor what is said under its name in metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from a2a.types import a2a_pb2 as pb

from gateway.a2a.errors import EXTENSION_REQUIRED, INVALID_REQUEST, RpcId, RpcRefused
from gateway.a2a.wire import UNSAID_VERSION
from gateway.model import Arrival
from gateway.reasons import Code

HEADER: Final = "A2A-Extensions"
OLD_HEADER: Final = "X-A2A-Extensions"
MAX_ASKED: Final = 32
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x2b\x2d-\x7e]{1,500}")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://|urn:|tag:|[a-z0-9-]+(?:\.[a-z0-9-]+)+/", re.IGNORECASE)
"""How a key begins that is an extension's: a URI, or, as some write it, an address without its scheme."""
_AFTER: Final = frozenset("/#?:")


@dataclass(frozen=True, slots=True)
class Declared:
    """The extensions that an agent's card names, by URI, and those of them without which it takes no message."""

    offered: frozenset[str]
    required: frozenset[str]

    @classmethod
    def by(cls, card: pb.AgentCard) -> Declared:
        """As the card says."""
        named = card.capabilities.extensions
        return cls(frozenset(each.uri for each in named), frozenset(each.uri for each in named if each.required))


Declaring = Callable[[str], Declared | None]
"""What an agent's card says of extensions; None while no card of it was read."""


def header_of(version: str) -> str:
    """Where extensions are named in this version of the protocol."""
    return OLD_HEADER if version == UNSAID_VERSION else HEADER


def listed(values: Iterable[str]) -> tuple[str, ...]:
    """The URIs in header values, in order, each once; ValueError for what is none, and for too many."""
    found = tuple(dict.fromkeys(uri for value in values for each in value.split(",") if (uri := each.strip())))
    if len(found) > MAX_ASKED or not all(_URI.fullmatch(uri) for uri in found):
        raise ValueError("extensions")
    return found


def active(arrival: Arrival, version: str, allowed: frozenset[str], declared: Declared | None) -> tuple[str, ...]:
    """The extensions of this call; `RpcRefused` for a header that names none."""
    values = [*arrival.every(HEADER.lower())]
    if version == UNSAID_VERSION:
        values += arrival.every(OLD_HEADER.lower())
    if not values:
        return ()
    try:
        asked = listed(values)
    except ValueError:
        raise RpcRefused(Code.MALFORMED, HEADER, rpc_code=INVALID_REQUEST) from None
    return tuple(uri for uri in asked if uri in allowed and (declared is None or uri in declared.offered))


def echoed(values: Iterable[str], actives: Sequence[str]) -> tuple[str, ...]:
    """Of those that an agent says it activated, the ones that are active; none where it says anything else."""
    try:
        return tuple(uri for uri in listed(values) if uri in actives)
    except ValueError:
        return ()


def demand(declared: Declared | None, actives: Sequence[str], version: str, rpc_id: RpcId) -> None:
    """`RpcRefused` where the agent takes no message without an extension that is not active."""
    if declared is not None and not declared.required <= frozenset(actives):
        code = INVALID_REQUEST if version == UNSAID_VERSION else EXTENSION_REQUIRED  # for which 0.3 has no code of its own
        raise RpcRefused(Code.INVALID_PARAMS, "an extension is required", rpc_code=code, rpc_id=rpc_id)


def narrow(request: Any, actives: Sequence[str]) -> None:
    """Drop from a request, in place, what it says of extensions that are not active."""
    if isinstance(request, pb.SendMessageRequest):
        message = request.message
        kept = [uri for uri in message.extensions if uri in actives]
        del message.extensions[:]
        message.extensions.extend(kept)
        _narrow(message.metadata, actives)
        for part in message.parts:
            _narrow(part.metadata, actives)
    if isinstance(request, pb.SendMessageRequest | pb.CancelTaskRequest):
        _narrow(request.metadata, actives)


def _narrow(metadata: Any, actives: Sequence[str]) -> None:
    if not metadata.fields:
        return
    bare = [_bare(uri) for uri in actives]
    for key in [key for key in metadata.fields if _ADDRESS.match(key) and not any(_belongs(_bare(key), uri) for uri in bare)]:
        del metadata.fields[key]


def _bare(uri: str) -> str:
    return _SCHEME.sub("", uri, count=1)


def _belongs(key: str, uri: str) -> bool:
    """Whether a key of metadata is an extension's: its URI, or something below that."""
    return key == uri or (key.startswith(uri) and (uri[-1:] in _AFTER or key[len(uri)] in _AFTER))
