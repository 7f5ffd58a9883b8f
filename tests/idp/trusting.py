"""`bailiwick serve` with one issuer: a real provider, of which its settings know the name and how its tokens are used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.idp.provider import Clock, Idp
from tests.interaction.world import Gateway, Peers

ALIAS = "corp"


class Trusting(Gateway):
    """The gateway of the interaction tests; its people sign in at `idp`, and `clerk` has an OAuth client there."""

    def __init__(self, folder: Path, peers: Peers, *, clock: Clock | None = None, **issuer: Any) -> None:
        super().__init__(folder, peers)
        self.idp = Idp(self.public_url)
        self.clock = clock
        self._passed = 0
        self._issuer = issuer

    def begin(self) -> Trusting:
        """Start the provider, then the gateway."""
        self.idp.redirects = (f"{self.public_url}/vault/login",)
        self.idp.start()
        (self.folder / "idp-secret").write_text(self.idp.gateway_secret)
        (self.folder / "idp-secret").chmod(0o600)
        self.configure()
        self.config.write_text(json.dumps(self.settings))
        self.start()
        return self

    def configure(self) -> None:
        """What the settings say, once the provider's address is known."""
        self.settings |= {"issuers": [self.issuer()], "revocation": {"stale_seconds": 3600}}  # its clock is turned at once
        self.settings["agents"]["clerk"] |= {"client_ids": ["clerk-app"]}

    def end(self) -> None:
        """End both."""
        try:
            self.stop()
        finally:
            self.idp.stop()

    def issuer(self) -> dict[str, Any]:
        """What the settings say of the provider."""
        return {
            "alias": ALIAS,
            "issuer": self.idp.issuer,
            "audience": self.public_url,
            "direct_clients": ["desk"],
        } | self._issuer

    def attempt(self) -> int | None:
        """Start the process, with a clock that the test may turn where it has one."""
        environment = self.clock.environment if self.clock is not None else {}
        with patch.dict(os.environ, environment):
            return super().attempt()

    def passed(self, seconds: int) -> None:
        """So many more seconds have passed, here and, where it runs, at the provider."""
        assert self.clock is not None
        self._passed += seconds
        self.clock.ahead(self._passed)
        if self.idp.runs:
            self.idp.turn_clock(self._passed)

    def code(self, credential: str | None, tool: str = "desk.read", **more: Any) -> str:
        """The reason why a tool call is refused; "" where it went through."""
        answer = self.call(tool, credential, **more)
        said = answer.json()
        if "error" in said:
            return str(said["error"]["data"]["code"])
        if not said["result"].get("isError"):
            return ""
        (record,) = self.records(id=answer.headers["bailiwick-decision"])  # told to the model in words, to us by the ledger
        return str(record.leaf["refused"]["code"])

    def bound(self, token: str, proof: str, tool: str = "desk.read") -> str:
        """As `code`, for a token that is bound to a key (RFC 9449)."""
        return self.code(None, tool, Authorization=f"DPoP {token}", DPoP=proof)

    def refused_for(self) -> str:
        """What the ledger says of the newest refusal of a credential."""
        return str(self.records(kind="auth.refused")[-1].leaf["refused"]["detail"])
