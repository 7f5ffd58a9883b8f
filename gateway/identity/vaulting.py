"""Makes the vault of what settings say: a provider for each upstream whose strategy is `vault_oauth`, and one login for all."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.identity.client import OAuthClient
from gateway.identity.consent import Consents
from gateway.identity.discovery import Discovery
from gateway.identity.keys import Fetch, KeySet
from gateway.identity.login import Login
from gateway.identity.marks import Marks
from gateway.identity.token_request import TokenRequests
from gateway.identity.vault import Provider, Vault
from gateway.identity.vault_oauth import VaultOauth
from gateway.model import Principal
from gateway.problem import Problem, ProblemError
from gateway.state.sealing import Sealer

if TYPE_CHECKING:
    from gateway.identity.opening import Means
    from gateway.identity.outbound import Making

STRATEGY: Final = "vault_oauth"


@dataclass(frozen=True, slots=True)
class Vaulting:
    """What the gateway keeps for people, and how they let it.  `consents` is None where no upstream wants any."""

    vault: Vault
    consents: Consents | None
    make: Callable[[Making], VaultOauth]


def upstream_of(place: str) -> str:
    """An upstream as rules name it: `github` for `mcp.github`, `a2a:clerk` for `agents.clerk`."""
    group, _, name = place.partition(".")
    return f"a2a:{name}" if group == "agents" else name


def opened(means: Means, key: bytes, alive: Callable[[Principal], None]) -> Vaulting:
    """`key`: 32 bytes of its own; `alive`: as the authenticator's.

    ProblemError where an upstream wants people's own tokens, and nobody can prove in a browser who they are.
    """
    settings, state = means.settings, means.state
    providers: dict[str, Provider] = {}
    vault = Vault(state.vaulted, Sealer(key, "vault"), providers, means.append, means.clock)
    means.stack.push_async_callback(vault.close)
    said = [each.credentials for each in settings.mcp.values()] + [each.credentials for each in settings.agents.values()]
    if not any(each is not None and each.strategy == STRATEGY for each in said):
        return Vaulting(vault, None, _nowhere)
    login = _login(means)
    means.stack.push_async_callback(login.close)
    sealer, marks = Sealer(key, "consent"), Marks(hmac.digest(key, b"marks", "sha256"))
    consents = Consents(settings.public_url, state.tickets, sealer, marks, login, vault, means.append, alive, means.clock)

    def make(making: Making) -> VaultOauth:
        provider = _provider(making, means)
        providers[provider.upstream] = provider
        return VaultOauth(provider, vault, consents)

    return Vaulting(vault, consents, make)


def _nowhere(making: Making) -> VaultOauth:
    raise ProblemError(Problem("no-vault", "no upstream was said to want people's own tokens", making.place))


def _login(means: Means) -> Login:
    settings, upstreams = means.settings, means.upstreams
    browser = settings.browser
    if browser is None:
        message = "vault_oauth asks people for their consent, and nothing says how they prove who they are"
        raise ProblemError(Problem("no-browser", message, "browser", "name an issuer, and the gateway's client there"))
    issuer = next((issuer for issuer in settings.issuers if issuer.alias == browser.issuer), None)
    if issuer is None:
        raise ProblemError(Problem("unknown-issuer", f"there is no issuer {browser.issuer!r}", "browser.issuer"))
    fetch: Fetch = partial(upstreams.fetch, allow_private=True)  # the operator named the address; link-local stays refused
    discovery = Discovery(issuer.issuer, fetch)
    keys = KeySet(issuer.jwks, fetch) if issuer.jwks is not None else KeySet(discovery.keys)
    client = OAuthClient(browser.client, means.environ, "browser.client")
    ask = TokenRequests(client, upstreams, means.clock, issuer.issuer).ask
    return Login(issuer.alias, issuer.issuer, client.id, frozenset(issuer.algorithms), discovery, keys, ask)


def _provider(making: Making, means: Means) -> Provider:
    settings = making.credentials
    endpoint, authorize_url = settings.endpoint, settings.authorize_url
    assert endpoint is not None  # noqa: S101  the settings say so
    assert authorize_url is not None  # noqa: S101  as above
    client = OAuthClient(endpoint.client, means.environ, f"{making.place}.credentials.endpoint.client")
    requests = TokenRequests(client, means.upstreams, means.clock, settings.issuer or "")
    return Provider(
        upstream=upstream_of(making.place),
        authorize_url=str(authorize_url),
        client_id=client.id,
        ask=partial(requests.ask, str(endpoint.url)),
        header=settings.header_name.lower().encode("ascii"),
        scope=settings.scope,
        resource=settings.resource or "",
        audience=settings.audience or "",
        issuer=settings.issuer or "",
    )
