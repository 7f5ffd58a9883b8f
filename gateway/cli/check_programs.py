"""What can be known to be wrong with MCP servers that the gateway is to start, without starting any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.sandbox.program import Command, UnfitError, command_of, exposed, unread
from gateway.sandbox.user_folders import UserFolders, place_of
from gateway.settings import Secret
from gateway.settings_outbound import UNCAGED
from gateway.upstream.registry import McpTarget
from sandbox.profiles import ProfileError, load_profiles

if TYPE_CHECKING:
    from gateway.cli.check import Found
    from gateway.configuration import Configuration
    from gateway.settings_outbound import Mcp


def programs(configuration: Configuration) -> Iterator[Found]:
    """Profiles that there are not, programs that cannot run in a cage, and what one could read that it should not."""
    from gateway.cli.check import Found  # noqa: PLC0415  which asks this module

    settings = configuration.settings
    try:
        profiles = load_profiles(settings.sandbox.profiles)
    except ProfileError as error:
        yield Found("error", configuration.problem("bad-profile", str(error), ("sandbox", "profiles")))
        return
    for name, key in exposed(settings):
        text = "the program could read the gateway's own data: it would not be started, and the gateway neither"
        yield Found("error", configuration.problem("data-in-view", text, ("mcp", name, key), "give it a folder of its own"))
    closed = UserFolders(place_of(settings), b"").unfit()
    for name, server in settings.mcp.items():
        if server.command is None:
            continue
        if server.folder is not None and closed:
            yield Found("error", configuration.problem("closed-folders", closed, ("mcp", name, "folder"), "set sandbox.folders"))
        if server.sandbox == UNCAGED:
            text = f"the program of '{name}' runs without a cage, with all rights of the gateway: its files, keys, network"
            yield Found(
                "warning",
                configuration.problem("uncaged", text, ("mcp", name, "sandbox"), "leave `sandbox` out, or name a profile"),
            )
        elif server.sandbox not in profiles:
            text = f"there is no profile '{server.sandbox}'"
            help_ = f"there are {', '.join(sorted(profiles))}, and `{UNCAGED}`"
            yield Found("error", configuration.problem("unknown-profile", text, ("mcp", name, "sandbox"), help_))
        else:
            if server.shared and profiles[server.sandbox].network:
                text = f"'{name}' is shared and its profile has a network: each connection is decided for somebody"
                help_ = "leave `shared` out, or name a profile without a network"
                yield Found("error", configuration.problem("shared-network", text, ("mcp", name, "shared"), help_))
            yield from _of(configuration, name, server, network=bool(profiles[server.sandbox].network))


def _of(configuration: Configuration, name: str, server: Mcp, *, network: bool) -> Iterator[Found]:
    from gateway.cli.check import Found  # noqa: PLC0415  see above

    target = McpTarget(name, "stdio", command=server.command or (), folder=server.cwd, read=server.read)
    try:
        command = command_of(target, network=network)
    except UnfitError as error:
        yield Found("warning", configuration.problem("unfit-program", str(error), ("mcp", name, "command"), error.help))
        return
    for path in unread(target, command):
        text = f"{path} is an argument of the program, and is not among what it may read"
        yield Found(
            "warning", configuration.problem("unread-argument", text, ("mcp", name, "command"), "add it to `read` if it shall be")
        )
    yield from _secrets(configuration, name, command)


def _secrets(configuration: Configuration, name: str, command: Command) -> Iterator[Found]:
    from gateway.cli.check import Found, walked  # noqa: PLC0415  see above

    seen = [Path(os.path.realpath(path)) for path in command.read]
    for path, secret in walked(configuration.settings, Secret):
        if secret.file is not None and any(Path(os.path.realpath(secret.file)).is_relative_to(each) for each in seen):
            text = f"the program of '{name}' could read this secret's file"
            yield Found("warning", configuration.problem("secret-in-view", text, (*path, "file"), "keep secrets elsewhere"))
