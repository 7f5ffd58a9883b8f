"""Legacy session ids, sealed: the upstream's own id, and what its client can do.  Possession is no authentication."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.mcp.errors import RpcRefused
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Principal
from gateway.reasons import Code

_LONGEST = 2048
_LONGEST_UPSTREAM = 512


class Session(msgspec.Struct, frozen=True, gc=False):
    """A session as the gateway knows it, which is as its client tells it, sealed.

    upstream  the upstream's own id; opens: see `Call.opens`; linked: see `Call.linked`.
    declared  what the client may be asked: see `gateway/mcp/asking.py`.
    """

    upstream: str
    opens: bool = False
    declared: frozenset[str] = frozenset()
    linked: str = ""


class Sessions:
    """Makes and opens session ids."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed

    def seal(self, upstream: str, *, server: str, principal: Principal, opens: bool = False, declared: Iterable[str] = ()) -> str:
        """The id that the client gets for the upstream's session `upstream`; printable ASCII."""
        inner = [upstream, opens, sorted(declared)]
        return self._sealed.seal(Purpose.SESSION, inner, server=server, principal=principal)

    def open(self, sealed: str, *, server: str, principal: Principal) -> Session:
        """UNKNOWN_SESSION for another server's, another caller's, an ended or a forged one."""
        if len(sealed) > _LONGEST:
            raise RpcRefused(Code.UNKNOWN_SESSION, "not a session id")
        try:
            upstream, opens, declared = self._sealed.open(Purpose.SESSION, sealed, server=server, principal=principal)
        except UnknownValueError as error:
            raise RpcRefused(Code.UNKNOWN_SESSION, str(error)) from None
        linked = self._sealed.mark(Purpose.SESSION, server, upstream, principal=principal)
        return Session(upstream, opens, frozenset(declared), linked)


def valid_upstream_id(text: str) -> bool:
    """Whether an upstream's session id is one (visible ASCII) and can be carried."""
    return 0 < len(text) <= _LONGEST_UPSTREAM and text.isascii() and text.isprintable() and " " not in text
