"""An MCP client's configuration as the gateway's: values in, values out, nothing is read or written here.

What looks like a secret, or may be one, goes to a file of its own; what cannot be carried over is said, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import HttpUrl

from gateway.problem import Problem
from gateway.sandbox.program import FETCHING

Dialect = Literal["claude-desktop", "claude-code", "cursor", "vscode"]

_KNOWN = frozenset({"type", "url", "serverUrl", "command", "args", "env", "headers", "cwd", "disabled"})
_HOP = frozenset({"host", "content-length", "connection", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive"})
_HTTP_TYPES = frozenset({"http", "streamable-http", "streamablehttp", "streamable_http"})
_SECRET_NAME = re.compile(
    r"secret|token|passw|pwd|credential|api[-_]?key|access[-_]?key|private|bearer|(?:^|[-_])(?:auth|authorization|sig|key)(?:$|[-_])",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(sk|pk|rk)[-_][A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_|xox[a-z]-|AKIA[A-Z0-9]{12}|eyJ[A-Za-z0-9_-]{10,}"
    r"|glpat-|AIza[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{20,}|hf_[A-Za-z0-9]{16,}|[Bb]earer\s+\S+|://[^/\s:@]*:[^/\s@]+@|PRIVATE KEY"
)
_LONG_RANDOM = re.compile(r"(?=[^\s]*[0-9])(?=[^\s]*[A-Za-z])[A-Za-z0-9+/_=-]{32,}")
_SCHEME = re.compile(r"((?:Bearer|Basic|Token|ApiKey)\s+)(?=\S)", re.IGNORECASE)
_ENV = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}")
_INPUT = re.compile(r"\$\{input:([^}]+)\}")


@dataclass(frozen=True, slots=True)
class Reference:
    """How a value is referred to in the gateway's settings."""

    env: str = ""
    file: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """One MCP server, as `mcp.<slug>` of the settings."""

    slug: str
    name: str
    url: str = ""
    command: tuple[str, ...] = ()
    cwd: str = ""
    env: Mapping[str, Reference] = field(default_factory=dict)
    headers: Mapping[str, Reference] = field(default_factory=dict)


@dataclass(slots=True)
class Adoption:
    """What came of a client's configuration.

    secrets    file below the folder, as `secrets/erp-token`, to the text that belongs in it.
    variables  environment variables that the gateway will read.
    left_out   names of the servers that could not be carried over; a note says why.
    notes      everything that was changed or could not be carried over.
    """

    dialect: Dialect
    servers: list[Server] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def adopt(client: Mapping[str, object], file: str) -> Adoption | None:
    """Every server of a client's configuration; None where it holds no servers in any known shape."""
    entries, dialect = _entries(client, file)
    if entries is None:
        return None
    adoption = Adoption(dialect)
    taken = {"sandbox"}  # the built-in server's
    fit = frozenset(name for name in entries if slug_of(name) == name)  # these keep their names, whatever stands before them
    for name, entry in entries.items():
        before = len(adoption.servers)
        _Entry(adoption, name, entry if isinstance(entry, dict) else {}, file, taken, fit).carry()
        if len(adoption.servers) == before:
            adoption.left_out.append(name)
    return adoption


def slug_of(name: str) -> str:
    """The name as an id of the gateway: `[a-z0-9-]`, at most 63 characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-")
    return slug or "server"


def _entries(client: Mapping[str, object], file: str) -> tuple[dict[str, object] | None, Dialect]:
    inner = client.get("mcp")
    for holder in (client, inner if isinstance(inner, dict) else {}):
        servers = holder.get("servers")
        if isinstance(servers, dict):
            return servers, "vscode"
    servers = client.get("mcpServers")
    if not isinstance(servers, dict):
        return None, "claude-code"
    path = file.replace("\\", "/").lower()
    if path.endswith("claude_desktop_config.json"):
        return servers, "claude-desktop"
    if ".cursor/" in path:
        return servers, "cursor"
    if path.endswith((".mcp.json", ".claude.json")) or any(isinstance(e, dict) and "type" in e for e in servers.values()):
        return servers, "claude-code"
    if "${env:" in repr(servers) or any(isinstance(e, dict) and "url" in e for e in servers.values()):
        return servers, "cursor"
    return servers, "claude-desktop"


@dataclass(slots=True)
class _Entry:
    adoption: Adoption
    name: str
    entry: dict[str, object]
    file: str
    taken: set[str]
    fit: frozenset[str]

    def carry(self) -> None:
        kind = str(self.entry.get("type", "")).lower()
        url, command = self.entry.get("url", self.entry.get("serverUrl")), self.entry.get("command")
        if self.entry.get("disabled") is True:
            self._note("server-disabled", "is disabled in the client and was left out")
        elif kind == "sse" or (not kind and isinstance(url, str) and _path(url).endswith("/sse")):
            self._note(
                "sse-unsupported",
                "speaks the HTTP+SSE transport of 2024, which is not supported; it was left out",
                "ask its makers for Streamable HTTP",
            )
        elif isinstance(url, str) and (not kind or kind in _HTTP_TYPES) and command is None:
            self._remote(url)
        elif isinstance(command, str) and command and kind in ("", "stdio") and url is None:
            self._local(command)
        else:
            self._note("unknown-shape", "has neither a url nor a command that is understood; it was left out")

    def _note(self, code: str, message: str, help: str = "") -> None:  # noqa: A002  Problem's own word
        self.adoption.notes.append(Problem(code, f"server '{self.name}' {message}", self.file, help))

    def _slug(self) -> str:
        wanted = slug = slug_of(self.name)
        number = 1
        while slug in self.taken or (slug in self.fit and slug != self.name):
            number += 1
            slug = f"{wanted[: 62 - len(str(number))]}-{number}"
        self.taken.add(slug)
        if slug != self.name:
            self._note("renamed", f"is called '{slug}' at the gateway")
        return slug

    def _remote(self, url: str) -> None:
        try:
            HttpUrl(url)
            parts = urlsplit(url)
        except ValueError:  # pydantic's own is one too
            parts = None
        if "${" in url:
            self._note(
                "unusable-url",
                "has a placeholder in its url, and the gateway expands none there; it was left out",
                "write the url out, and give its secrets as `headers`",
            )
            return
        if parts is None:
            self._note("unusable-url", "has a url that is not plain http or https; it was left out")
            return
        if (
            parts.username
            or parts.password
            or any(_SECRET_NAME.search(k) or _SECRET_VALUE.search(v) for k, v in parse_qsl(parts.query))
        ):
            self._note(
                "secret-in-url",
                "has a secret in its url; it was left out",
                "if it takes the secret as a header too, write `headers: {Authorization: {env: NAME}}`",
            )
            return
        slug = self._slug()
        headers = {name: ref for name, ref in self._references("headers", slug) if name.lower() not in _HOP}
        self._rest()
        self.adoption.servers.append(Server(slug, self.name, url=url, headers=headers))

    def _local(self, command: str) -> None:
        raw = self.entry.get("args", [])
        words = (command, *(str(word) for word in raw)) if isinstance(raw, list) else (command,)
        if any("${" in word for word in words):
            self._note(
                "placeholder-in-command",
                "has a placeholder in its command, and the gateway expands none there; it was left out",
                "write the value out, or give it as an environment variable",
            )
            return
        if any(_secret_words(words)):
            self._note(
                "secret-in-command",
                "has what looks like a secret in its command, where every user of the machine can read it; it was left out",
                "give it as an environment variable: `env: {NAME: {file: secrets/name}}`",
            )
            return
        slug = self._slug()
        env = dict(self._references("env", slug))
        cwd = self.entry.get("cwd")
        self._rest()
        name = PurePath(command).name
        if name in FETCHING:
            self._note(
                "fetched-at-start",
                f"is fetched by {name} when it is started, for which a cage has no network; as it stands it is not started",
                f"install it beforehand ({FETCHING[name]}), and give its own program or entry file as the command",
            )
        where = cwd if isinstance(cwd, str) and "${" not in cwd else ""
        if cwd and not where:
            self._note("placeholder-in-cwd", "has a placeholder in its working folder; the gateway's own is used")
        self.adoption.servers.append(Server(slug, self.name, command=words, cwd=where, env=env))

    def _rest(self) -> None:
        if ignored := sorted(set(self.entry) - _KNOWN):
            self._note("ignored", f"has settings that the gateway does not know: {', '.join(ignored)}; they were left out")

    def _references(self, key: str, slug: str) -> Iterator[tuple[str, Reference]]:
        values = self.entry.get(key, {})
        for name, value in values.items() if isinstance(values, dict) else ():
            pattern = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}" if key == "headers" else r"[^=\x00-\x1f]{1,128}"
            if not re.fullmatch(pattern, name):
                self._note("unusable-name", f"has an entry in {key} whose name cannot stand there; it was left out")
            elif isinstance(value, bool | int | float | str) and (text := _text(value)):
                reference = self._reference(key, name, text, slug)
                if reference is not None:
                    yield name, reference
            else:
                self._note("empty-value", f"has no value for '{name}' in {key}; it was left out")

    def _reference(self, key: str, name: str, text: str, slug: str) -> Reference | None:
        scheme = _SCHEME.match(text)
        prefix = scheme[1] if scheme else ""
        rest = text[len(prefix) :]
        if found := _ENV.fullmatch(rest):
            if found[2]:
                self._note("default-dropped", f"has a default for ${found[1]}; the gateway needs the variable itself")
            self.adoption.variables.add(found[1])
            return Reference(env=found[1], prefix=prefix)
        if found := _INPUT.fullmatch(rest):
            variable = re.sub(r"[^A-Z0-9]+", "_", found[1].upper()).strip("_") or "INPUT"
            self._note("input-asked", f"asks a person for '{found[1]}'; the gateway reads the variable {variable} instead")
            self.adoption.variables.add(variable)
            return Reference(env=variable, prefix=prefix)
        if "${" in rest:
            self._note(
                "mixed-placeholder", f"mixes text and placeholders in '{name}' of {key}; it was left out", "give the whole value"
            )
            return None
        base = f"secrets/{slug}-{slug_of(name)}"
        path, number = base, 1
        while path in self.adoption.secrets:
            number += 1
            path = f"{base}-{number}"
        self.adoption.secrets[path] = rest
        return Reference(file=path, prefix=prefix)


def _path(url: str) -> str:
    return url.partition("?")[0].partition("#")[0].rstrip("/")


def _text(value: bool | float | str) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _secret_words(words: tuple[str, ...]) -> Iterator[str]:
    """Words of a command that are, or seem to be, secrets: by the flag before them, or by their look."""
    for before, word in zip(("", *words), words, strict=False):
        flag, equals, value = word.partition("=")
        named = (equals and value and _SECRET_NAME.search(flag)) or (
            before.startswith("-") and "=" not in before and _SECRET_NAME.search(before) and not word.startswith("-")
        )
        random = _LONG_RANDOM.fullmatch(value or word) and not (value or word).startswith(("/", "./", "../", "~"))
        if named or random or _SECRET_VALUE.search(word):
            yield word
