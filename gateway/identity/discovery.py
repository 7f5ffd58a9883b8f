"""An issuer's metadata (OpenID Connect Discovery 1.0, RFC 8414): where its keys and endpoints are.

It must name exactly the issuer that was configured, and nothing that it names is reached in the clear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.identity.keys import Fetch, is_confidential, is_loopback
from gateway.identity.renewal import Renewed, SourceError
from gateway.identity.strictjson import loads
from gateway.model import UpstreamError
from gateway.problem import Problem, ProblemError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 12
MAX_URL = 2048


class MetadataError(SourceError):
    """The metadata cannot be used; the text repeats nothing of it but the name of a member."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is used of it.  A member that it lacks is ""."""

    jwks_uri: str
    introspection_endpoint: str = ""
    token_endpoint: str = ""
    authorization_endpoint: str = ""
    names_itself: bool = False
    """Whether its authorization responses always say `iss` (RFC 9207)."""


def locations(issuer: str) -> tuple[str, str]:
    """Where an issuer's metadata is: by OpenID Connect Discovery 1.0 §4, and by RFC 8414 §3."""
    parts = urlsplit(issuer)
    bare = issuer.removesuffix("/")
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.removesuffix("/")
    return f"{bare}/.well-known/openid-configuration", f"{root}/.well-known/oauth-authorization-server{path}"


def parse(data: bytes, issuer: str) -> Metadata:
    """The metadata of this issuer; MetadataError for what is no JSON object, names another issuer, or names no key set."""
    if len(data) > MAX_BYTES:
        msg = "the metadata is too large"
        raise MetadataError(msg)
    try:
        document = loads(data, MAX_DEPTH)
    except ValueError as error:
        msg = f"the metadata is {error}"
        raise MetadataError(msg) from None
    if not isinstance(document, dict):
        msg = "the metadata is no object"
        raise MetadataError(msg)
    if document.get("issuer") != issuer:  # OpenID Connect Discovery 1.0 §4.3, RFC 8414 §3.3: character by character
        msg = "the metadata names another issuer"
        raise MetadataError(msg)
    jwks_uri = _endpoint(document, "jwks_uri", issuer)
    if not jwks_uri:
        msg = "the metadata names no jwks_uri"
        raise MetadataError(msg)
    return Metadata(
        jwks_uri,
        _endpoint(document, "introspection_endpoint", issuer),
        _endpoint(document, "token_endpoint", issuer),
        _endpoint(document, "authorization_endpoint", issuer),
        document.get("authorization_response_iss_parameter_supported") is True,
    )


def _endpoint(document: Mapping[str, object], name: str, issuer: str) -> str:
    """A URL of the metadata.  This machine is named by an issuer on this machine alone: no stranger points us at ourselves."""
    url = document.get(name, "")
    if url == "":
        return ""
    if not isinstance(url, str) or len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        msg = f"{name} of the metadata is no URL"
        raise MetadataError(msg)
    try:
        parts, home = urlsplit(url), urlsplit(issuer)
        _ = parts.port
    except ValueError:
        msg = f"{name} of the metadata is no URL"
        raise MetadataError(msg) from None
    if "@" in parts.netloc or parts.fragment or not is_confidential(url):
        msg = f"{name} of the metadata is neither https nor on this machine"
        raise MetadataError(msg)
    if is_loopback(parts.hostname or "") and not is_loopback(home.hostname or ""):
        msg = f"{name} of the metadata is on this machine, and the issuer is not"
        raise MetadataError(msg)
    return url


class Discovery:
    """One issuer's metadata and the keys that it points at.

    Read when first needed, renewed in the background once it is 5 minutes old, at once (every 30 seconds at most) when the keys
    cannot be had where it says, and used for at most 24 hours after its last good reading.
    """

    def __init__(
        self,
        issuer: str,
        fetch: Fetch | None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        elsewhere: Fetch | None = None,
    ) -> None:
        """`fetch` reaches the issuer's own host, `elsewhere` (defaults to it) any other that the metadata names.  No I/O.

        ProblemError for an issuer that is no https URL (or this machine), with a query or a fragment, or without `fetch`.
        """
        parts = urlsplit(issuer)
        if not is_confidential(issuer) or parts.query or parts.fragment or "@" in parts.netloc or not issuer.isascii():
            message = "an issuer whose metadata is read is an https URL without query and fragment"
            raise ProblemError(Problem("no-metadata", message, issuer, "name the issuer as its tokens do, or give its jwks"))
        if fetch is None:
            raise ProblemError(
                Problem("no-fetcher", "metadata needs the gateway's HTTP client", issuer, "give jwks by file here")
            )
        self._issuer = issuer
        self._fetch = fetch
        self._elsewhere = elsewhere or fetch
        self._renewed: Renewed[Metadata] = Renewed(self._read, "metadata", monotonic)

    @property
    def failure(self) -> str:
        """Why the last attempt to read the metadata failed; "" when it did not."""
        return self._renewed.failure

    async def get(self) -> Metadata | None:
        """The newest good metadata; None where there is none, or none of the last day."""
        if self._renewed.usable() is None:
            await self._renewed.renew()
        else:
            self._renewed.refresh()
        return self._renewed.usable()

    async def keys(self) -> bytes:
        """The bytes of the issuer's key set: what a `KeySet` reads."""
        metadata = await self.get()
        if metadata is None:
            raise MetadataError(self.failure or "the metadata cannot be read")
        try:
            return await self._at(metadata.jwks_uri)
        except (OSError, UpstreamError):
            await self._renewed.renew()
            moved = self._renewed.usable()
            if moved is None or moved.jwks_uri == metadata.jwks_uri:
                raise
            return await self._at(moved.jwks_uri)

    async def close(self) -> None:
        """End a reading that is under way."""
        await self._renewed.close()

    async def _read(self) -> Metadata:
        first: SourceError | OSError | UpstreamError | None = None
        for url in locations(self._issuer):
            try:
                return parse(await self._fetch(url), self._issuer)
            except (SourceError, OSError, UpstreamError) as error:
                first = first or error
        assert first is not None  # noqa: S101  there are two locations
        raise first

    async def _at(self, url: str) -> bytes:
        home = urlsplit(url).netloc == urlsplit(self._issuer).netloc
        return await (self._fetch if home else self._elsewhere)(url)
