"""Whoever may change the gateway is on record; so is whoever may not, by the rules, by a duty or by their workflow's scope."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fastapi import Request
from msgspec.structs import replace

from audit.leaf import check
from audit.model import Entry, Receipt
from gateway.administration import Administration
from gateway.model import Principal, Refused
from gateway.reasons import Code
from gateway.record import Recorder
from policies import engine as engine_module
from policies.bundle import load_texts
from policies.engine import Engine

AT = 1_788_955_200_000_000
ANN = Principal("user:corp/ann", (), "acme", "wf-1", 2**40, "bearer", "c" * 64, frozenset({"wardens"}))
FILES = {
    "model.conf": (Path(engine_module.__file__).with_name("default") / "model.conf").read_text(),
    "roles.csv": "g, idp:wardens, role:warden, acme\n",
    "tools.yaml": "tenants: [acme]\ntools: {}\n",
    "conditions.yaml": "{}\n",
    "obligations.yaml": "second-eye: {type: human-approval, by: wardens}\n",
    "grants/all.csv": (
        "p, role:warden, acme, admin:*, *, allow, -, -, W-1\np, role:warden, acme, admin:keys, *, require, -, second-eye, W-2\n"
    ),
}


@dataclass
class Office:
    entries: list[Entry] = field(default_factory=list)

    async def append(self, entry: Entry) -> Receipt:
        check(entry)
        self.entries.append(entry)
        return Receipt("log", entry.id, len(self.entries), b"")

    async def ask(self, principal: Principal, action: str = "change", area: str = "kills") -> str:
        async def whoami(_request: Request) -> Principal:
            return principal

        engine = Engine(load_texts(FILES))
        office = Administration(whoami, lambda _: engine.decide, Recorder(self.append, self.append, lambda: AT), lambda: AT)
        request = Request({"type": "http", "method": "POST", "path": "/api/kills", "headers": [], "query_string": b""})
        wish = await office.permit(request, action, area, "identity.kill", "user x")
        return wish.id


@pytest.fixture
def office() -> Office:
    return Office()


async def test_a_wish_that_is_granted_is_on_record_and_reading_is_none(office: Office) -> None:
    assert await office.ask(ANN) == office.entries[0].id
    await office.ask(ANN, "read")
    assert [entry.kind for entry in office.entries] == ["identity.kill"]


@pytest.mark.parametrize(
    ("principal", "area", "code"),
    [
        (replace(ANN, groups=frozenset()), "kills", Code.USER_LACKS_RIGHT),
        (replace(ANN, scope=("erp.*",)), "kills", Code.INSUFFICIENT_SCOPE),
        (replace(ANN, scope=()), "kills", Code.INSUFFICIENT_SCOPE),
        (ANN, "keys", Code.DUTY_FAILED),
    ],
    ids=["no-right", "scope-of-something-else", "scope-of-nothing", "duty-that-nobody-fulfils"],
)
@pytest.mark.parametrize("action", ["read", "change"])
async def test_whoever_may_not_is_refused_and_on_record_once(
    office: Office, principal: Principal, area: str, code: Code, action: str
) -> None:
    with pytest.raises(Refused) as caught:
        await office.ask(principal, action, area)
    assert caught.value.code is code
    (entry,) = office.entries
    assert (entry.kind, entry.subject) == ("decision.deny", "user:corp/ann")
    assert entry.fields["refused"]["code"] == code.value  # type: ignore[index]


async def test_a_scope_that_holds_the_area_is_no_bound(office: Office) -> None:
    await office.ask(replace(ANN, scope=("admin:kills",)))
    assert office.entries[0].kind == "identity.kill"
