"""Names of the aggregate: `server__name`, at most 60 characters of `[A-Za-z0-9_-]`, everywhere and always the same (sans-I/O).

A name follows from its server and its own text alone.  What does not fit ends in a digest, and whatever looks as if it ended in
one gets one of its own: so two names meet only where two digests do, and then neither stands.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

SEPARATOR = "__"
LONGEST = 60
_LONGEST_SERVER = 24
_DIGITS = 8
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_OTHER = re.compile(r"[^A-Za-z0-9_-]")
_DIGESTED = re.compile(r"_[0-9a-f]{8}\Z")


class Names:
    """How the tools and prompts of these servers are called in the aggregate.

    Servers' ids are `[a-z0-9-]`: none has an underscore, so the first `__` of a name ends its server.
    """

    def __init__(self, servers: Iterable[str]) -> None:
        """ValueError where two servers would be called alike."""
        self._short = {server: _short(server) for server in servers}
        self._servers = {short: server for server, short in self._short.items()}
        if len(self._servers) != len(self._short):
            twice = sorted(server for server in self._short if self._servers[self._short[server]] != server)
            raise ValueError(f"mcp.{twice[0]}: another server's name is shortened to the same: rename one")

    def shown(self, server: str, name: str) -> str:
        """What the aggregate calls this server's tool or prompt."""
        short = self._short[server]
        room = LONGEST - len(short) - len(SEPARATOR)
        if len(name) > room or _PLAIN.fullmatch(name) is None or _DIGESTED.search(name):
            kept = _OTHER.sub("_", name[: room - _DIGITS - 1])
            name = f"{kept}_{_digest(server, name)}"
        return f"{short}{SEPARATOR}{name}"

    def server(self, shown: str) -> str:
        """The server that a name belongs to, "" where no server is called so; whether it has such a tool is another matter."""
        return self._servers.get(shown.partition(SEPARATOR)[0], "") if SEPARATOR in shown else ""

    def name(self, shown: str) -> str:
        """The server's own name, where the shown one says it; "" where it ends in a digest, or could never have been shown."""
        server = self.server(shown)
        name = shown.partition(SEPARATOR)[2]
        return name if server and name and self.shown(server, name) == shown else ""

    def digested(self, shown: str) -> bool:
        """Whether a name, of whatever server, may be the short one of something: then only the server's list says of what."""
        return SEPARATOR in shown and len(shown) <= LONGEST and _DIGESTED.search(shown) is not None

    def of(self, server: str, names: Iterable[str]) -> dict[str, str]:
        """Shown name to own name, in their order; names that would be shown alike are left out, all of them."""
        shown = [(self.shown(server, name), name) for name in dict.fromkeys(names)]
        count = Counter(each for each, _ in shown)
        return {each: name for each, name in shown if count[each] == 1}


def _short(server: str) -> str:
    if len(server) <= _LONGEST_SERVER:
        return server
    return f"{server[: _LONGEST_SERVER - _DIGITS - 1]}_{_digest(server, '')}"  # no server's id has an underscore


def _digest(server: str, name: str) -> str:
    return hashlib.sha256(f"{server}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
