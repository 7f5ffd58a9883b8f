"""Names that look like others: within a server at a glance, and across servers letter by letter."""

from __future__ import annotations

from collections.abc import Iterable

from policies.lookalike import glance, skeleton
from policies.unseen import shown


class Names:
    """Names of tools that count, by server.  Only tools are called, so only their names can be mistaken for each other."""

    __slots__ = ("_glances", "_servers", "_skeletons")

    def __init__(self, names: Iterable[tuple[str, str]] = ()) -> None:
        """Pairs of server and tool."""
        self._glances: dict[tuple[str, str], set[str]] = {}
        self._skeletons: dict[str, set[tuple[str, str]]] = {}
        self._servers: dict[str, set[str]] = {}
        for server, name in names:
            self.add(server, name)

    def add(self, server: str, name: str) -> None:
        """One more that counts."""
        self._servers.setdefault(name, set()).add(server)
        self._glances.setdefault((server, glance(name)), set()).add(name)
        self._skeletons.setdefault(skeleton(name), set()).add((server, name))

    def like(self, server: str, name: str) -> str:
        """What a name could be mistaken for, as `server.tool`; "" where nothing.

        The very same name at another server is none: the server's name tells them apart, and so they are common.
        """
        near = [(server, other) for other in self._glances.get((server, glance(name)), ()) if other != name]
        near += [(s, other) for s, other in self._skeletons.get(skeleton(name), ()) if s != server and other != name]
        return ".".join(map(shown, min(near))) if near else ""

    def elsewhere(self, server: str) -> dict[str, str]:
        """Names of other servers' tools, and one server that has each; not what this server has itself."""
        return {name: min(servers) for name, servers in self._servers.items() if server not in servers}
