"""The strategy `vault_oauth`: an upstream is shown the very person's own token, or the person is asked for one."""

from __future__ import annotations

import hashlib
from typing import Final

from gateway.identity.consent import Consents
from gateway.identity.vault import ForgottenError, Provider, Vault
from gateway.model import Permit, Refused
from gateway.reasons import Code
from gateway.state.vault import Key
from gateway.upstream.credentials import Lines

KIND: Final = "person"
_BEARER: Final = b"Bearer "


class VaultOauth:
    """One upstream's."""

    personal = True

    def __init__(self, provider: Provider, vault: Vault, consents: Consents) -> None:
        self._provider = provider
        self._vault = vault
        self._consents = consents

    async def for_call(self, permit: Permit) -> tuple[Lines, str]:
        """The person's token of now.  Refused(CONSENT_REQUIRED), with the link to consent, where there is none."""
        principal = permit.principal
        if not principal.subject.startswith("user:"):
            raise Refused(Code.CREDENTIAL_UNAVAILABLE, "a service has no account of a person's")
        try:
            token = await self._vault.token(self._key(permit))
        except ForgottenError:
            link = await self._consents.link(principal, self._provider.upstream)
            raise Refused(Code.CONSENT_REQUIRED, data=self._asking(link)) from None
        bare = self._provider.header != b"authorization"
        return ((self._provider.header, (b"" if bare else _BEARER) + token.encode("ascii")),), KIND

    async def rejected(self, permit: Permit) -> bool:
        """The token is worn: another may be had by a refresh, if one was kept."""
        shown = permit.credentials[0][1].removeprefix(_BEARER).decode("ascii")
        return await self._vault.worn(self._key(permit), shown)

    def _key(self, permit: Permit) -> Key:
        return Key(permit.principal.tenant, permit.principal.subject, self._provider.upstream)

    def _asking(self, link: str) -> dict[str, object]:
        message = f"{self._provider.upstream} needs your consent: open the link, and the gateway may use your account there."
        return {"url": link, "message": message, "elicitation": hashlib.sha256(link.encode()).hexdigest()[:32]}
