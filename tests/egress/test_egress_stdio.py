"""An MCP server in its cage, with the gateway's own proxy: it reaches what its profile lists, and nothing else."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sandbox.bwrap import BwrapRunner
from sandbox.model import Guarantee
from sandbox.profiles import load_profiles
from tests.egress.test_egress_cage import bwrap  # noqa: F401  a fixture
from tests.egress.world import World
from tests.stdio.world import caged, open_folder, speaker

API = "api.example.com"
SHIPPED = load_profiles()["mcp-stdio"]
REQUIRES = {name: strength for name, strength in SHIPPED.requires.items() if name is not Guarantee.NET_NONE}
FETCHES = """
import ssl, urllib.request
trusted = ssl.create_default_context(cadata=authority)
for name, url in urls.items():
    try:
        said[name] = urllib.request.urlopen(url, context=trusted, timeout=20).read().decode()
    except OSError as error:
        said[name] = None
"""


async def test_a_listed_host_is_reached_and_no_other(
    outside: World,
    bwrap: BwrapRunner,  # noqa: F811
    certificate: Callable[[str], tuple[ssl.SSLContext, Path]],
    tmp_path: Path,
) -> None:
    server, trusted = certificate(API)
    authority = trusted.read_text()
    async with outside.listening(API, tls=server) as target, outside.listening("other.example.com", tls=server) as other:
        outside.destinations = [each for each in outside.destinations if str(each) == target]
        profile = replace(SHIPPED, name="listed", requires=REQUIRES, network=tuple(outside.destinations))
        with open_folder() as folder:
            program = speaker(folder, sandbox="listed")
            network = lambda _intent, _profile: (outside.serving(), lambda: 2)  # noqa: E731
            async with caged(tmp_path, program, bwrap, profile=profile, network=network) as scene:
                urls = {"listed": f"https://{target}/", "other": f"https://{other}/"}
                said = await scene.does(FETCHES, urls=urls, authority=authority)
            (end,) = scene.entries("sandbox.end")
    assert said == {"listed": "hello", "other": None}
    assert outside.reached == [API]
    assert end.fields["guarantees"]["net_allowlist"] == "hard"
    assert end.fields["connections"] == 2
