"""What `init --from` writes: an adoption as YAML for the gateway and as JSON for the client it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gateway.cli.adopt import Adoption, Dialect, Reference, Server

TOKEN = "BAILIWICK_TOKEN"
"""Variable in which a client finds its person's access token."""


def mcp_yaml(adoption: Adoption) -> str:
    """The `mcp:` group of the settings."""
    if not adoption.servers:
        return "mcp: {}\n"
    return "mcp:\n" + "".join(line + "\n" for server in adoption.servers for line in _server(server))


def tools_hints(adoption: Adoption) -> str:
    """Comments for `tools.yaml`: what the security team has to add before anything of these servers can be called."""
    if not adoption.servers:
        return ""
    lines = [
        "",
        "# To be registered: a tool that does not stand under `tools:` can be neither called nor seen.  Names and arguments are",
        "# those that the server lists once it runs; then a line in grants/ says who may call it.",
    ]
    lines += [f"#   {server.slug}.<tool>: {{args: {{<argument>: string}}, risk: medium}}" for server in adoption.servers]
    return "\n".join(lines) + "\n"


def tests_hints(adoption: Adoption) -> str:
    """Comments for the bundle's tests: of each server one call that must be allowed, and the same that must be denied."""
    lines = ["  # Once a tool of these servers is granted, the same call for somebody who may, and for somebody who may not:"]
    for server in adoption.servers:
        call = f"tool: {server.slug}.<tool>, args: {{<argument>: <value>}}"
        lines.append(f"  # - {{who: ada, via: <agent>, {call}, expect: allow}}")
        lines.append(f"  # - {{who: stranger, via: <agent>, {call}, expect: deny}}")
    return "\n".join(lines) + "\n" if adoption.servers else ""


def client_json(adoption: Adoption, base: str) -> dict[str, object]:
    """The client's configuration that points to the gateway at `base`, in the shape that came in."""
    servers = {server.name: _client_entry(adoption.dialect, f"{base}/mcp/{server.slug}") for server in adoption.servers}
    if adoption.dialect == "vscode":
        ask = {"type": "promptString", "id": "bailiwick-token", "description": "Access token for Bailiwick", "password": True}
        return {"inputs": [ask], "servers": servers}
    return {"mcpServers": servers}


def _client_entry(dialect: Dialect, url: str) -> dict[str, object]:
    if dialect == "vscode":
        return {"type": "http", "url": url, "headers": {"Authorization": "Bearer ${input:bailiwick-token}"}}
    if dialect == "cursor":
        return {"url": url, "headers": {"Authorization": f"Bearer ${{env:{TOKEN}}}"}}
    if dialect == "claude-desktop":  # its file knows child processes alone; the bridge reads the header from its environment
        bridge = ["-y", "mcp-remote", url, "--header", "Authorization:${AUTHORIZATION}"]
        return {"command": "npx", "args": bridge, "env": {"AUTHORIZATION": "Bearer <access token>"}}
    return {"type": "http", "url": url, "headers": {"Authorization": f"Bearer ${{{TOKEN}}}"}}


def _server(server: Server) -> list[str]:
    lines = [f"  {server.slug}:"]
    if server.url:
        lines.append(f"    url: {quoted(server.url)}")
    if server.command:
        lines.append(f"    command: [{', '.join(quoted(word) for word in server.command)}]")
    if server.cwd:
        lines.append(f"    cwd: {quoted(server.cwd)}")
    return lines + _references("env", server.env) + _references("headers", server.headers)


def _references(key: str, references: Mapping[str, Reference]) -> list[str]:
    if not references:
        return []
    return [f"    {key}:", *(f"      {quoted(name)}: {_reference(reference)}" for name, reference in references.items())]


def _reference(reference: Reference) -> str:
    parts = [f"env: {quoted(reference.env)}" if reference.env else f"file: {quoted(reference.file)}"]
    if reference.prefix:
        parts.append(f"prefix: {quoted(reference.prefix)}")
    return "{" + ", ".join(parts) + "}"


def quoted(text: str) -> str:
    """Text as a double-quoted YAML scalar, whatever it holds."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else (f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}") for c in escaped)
