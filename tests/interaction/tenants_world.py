"""A gateway of three tenants, each with a log of its own: paul is of acme, mia of globex, fiona of the house that runs it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import Vkey
from audit.reader import Ledger, Record
from gateway.cli import main
from gateway.configuration import load
from gateway.identity.keyfiles import ledger_key
from gateway.stores import ledger_url_of, of_log
from tests.interaction.world import Gateway, Peers

HOUSE, ACME, GLOBEX = "house", "acme", "globex"
PEOPLE = {"paul": ACME, "mia": GLOBEX, "fiona": HOUSE}
GROUPS = {ACME: "procurement-managers", GLOBEX: "marketing-managers", HOUSE: "finance-controllers"}
RIGHTS = (
    *(("audit:ledger", action) for action in ("read", "verify", "review", "open")),
    *(("admin:erasure", action) for action in ("change", "approve")),
    *(("admin:holds", action) for action in ("change", "read")),
    ("audit:root", "verify"),
)


def settings_of(more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What makes a gateway of one tenant one of three."""
    ledger = {"origin": "test.invalid/ledger", "logs": "tenant"} | dict((more or {}).get("ledger", {}))
    return dict(more or {}) | {"tenant": HOUSE, "ledger": ledger}


class Tenants(Gateway):
    """The gateway, and what its logs hold."""

    def __init__(self, folder: Path, peers: Peers, *, more: Mapping[str, Any] | None = None) -> None:
        super().__init__(folder, peers, more=settings_of(more))
        self._hands: dict[str, Callable[[], str]] = {}
        self.settings["issuers"][0] |= {"tenant_claim": "sub", "tenants": PEOPLE}
        self.config.write_text(json.dumps(self.settings))
        policies = self.folder / "policies"
        tools = (policies / "tools.yaml").read_text().replace("[acme]", f"[{HOUSE}, {ACME}, {GLOBEX}]")
        (policies / "tools.yaml").write_text(tools)
        lines = [f"p, role:staff, {tenant}, desk.*, call, allow, -, -, T-{tenant}" for tenant in GROUPS]
        lines += [
            f"p, agent:clerk, {GLOBEX}, desk.*, call, allow, -, -, T-clerk",
            f"p, role:staff, {GLOBEX}, a2a:clerk, send, allow, -, -, T-send",
        ]
        lines += [
            f"p, role:staff, {tenant}, {what}, {action}, allow, -, -, R-{tenant}-{number}"
            for tenant in GROUPS
            for number, (what, action) in enumerate(RIGHTS)
        ]
        (policies / "grants/tenants.csv").write_text("\n".join(lines) + "\n")
        roles = [f"g, idp:{group}, role:staff, {tenant}" for tenant, group in GROUPS.items()]
        (policies / "roles.csv").write_text((policies / "roles.csv").read_text() + "\n".join(roles) + "\n")

    def url_of(self, name: str) -> str:
        """Where the log of that name is."""
        return ledger_url_of(of_log(load(self.config, {}), name))

    def file_of(self, name: str) -> Path:
        return Path(self.url_of(name).removeprefix("sqlite:///"))

    def vkey_of(self, name: str) -> Vkey:
        return Vkey.of(of_log(load(self.config, {}), name).ledger.origin, ledger_key(self.folder / "data"))

    def log_of(self, name: str) -> list[Record]:
        """The records of one log."""
        key = base64.b64decode((self.folder / "data" / "seal-key").read_text())
        with Ledger.open(self.url_of(name), key) as log:
            return list(log.records())

    def kinds(self, name: str) -> list[str]:
        return [record.kind for record in self.log_of(name)]

    def get(self, path: str, person: str, **query: object) -> tuple[int, Any]:
        """A question of the API's, in the person's own hands."""
        answer = self.http.get(path, headers=self.hands(person), params={key: str(each) for key, each in query.items()} or None)
        return answer.status_code, answer.json() if "json" in answer.headers["content-type"] else answer.content

    def hands(self, person: str) -> dict[str, str]:
        """The person's own, as a header."""
        if person not in self._hands:
            self._hands[person] = self.keeper(person)
        return {"Authorization": f"Bearer {self._hands[person]()}"}

    def verb(self, *words: str) -> tuple[int, str, str]:
        """`bailiwick audit WORDS`, in this process: how it ended, and what it printed."""
        return self.cli("audit", *words)

    def cli(self, *words: str) -> tuple[int, str, str]:
        """`bailiwick WORDS`, as `verb`."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.raises(SystemExit) as ended, redirect_stdout(out), redirect_stderr(err):
            main([*words, "--config", str(self.config)])
        code = ended.value.code
        return code if isinstance(code, int) else 0, out.getvalue(), err.getvalue()
