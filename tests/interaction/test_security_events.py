"""Security events pushed to a whole gateway (RFC 8935): who may say them, what they do, and what they never do."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.keys import es256_jwk
from tests.interaction.world import Gateway, Peers

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
TOKEN = "transmitter-" + secrets.token_hex(16)
AUDIENCE = "https://bailiwick.test"


@dataclass
class Transmitter:
    """The issuer's side: its key, and how it says things."""

    gateway: Gateway
    key: ec.EllipticCurvePrivateKey
    issuer: str

    def claims(self, event: str, person: str = "paul", **inside: Any) -> dict[str, Any]:
        return {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "iat": int(time.time()),
            "jti": secrets.token_hex(8),
            "sub_id": {"format": "iss_sub", "iss": self.issuer, "sub": person},
            "events": {event: {"event_timestamp": int(time.time()) - 30} | inside},
        }

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        kid = es256_jwk(self.key.public_key())["kid"]
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"typ": "secevent+jwt", "kid": kid} | header)

    def push(self, text: str, token: str = TOKEN, alias: str = "dev", **headers: str) -> httpx.Response:
        frame = {"Content-Type": "application/secevent+jwt", "Authorization": f"Bearer {token}"} | headers
        return self.gateway.http.post(f"/ssf/events/{alias}", content=text, headers=frame)

    def say(self, event: str, person: str = "paul", **inside: Any) -> str:
        """Push one event that must be taken; its `jti`."""
        claims = self.claims(event, person, **inside)
        answer = self.push(self.sign(claims))
        assert (answer.status_code, answer.content) == (202, b"")
        return str(claims["jti"])


@pytest.fixture(scope="module")
def idp(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transmitter]:
    folder = tmp_path_factory.mktemp("events")
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "events.json").write_text(json.dumps({"keys": [es256_jwk(key.public_key())]}))
    (folder / "event-token").write_text(TOKEN)
    (folder / "event-token").chmod(0o600)
    gateway = Gateway(folder, upstreams)
    events = {"audience": AUDIENCE, "jwks": {"file": "events.json"}, "token": {"file": "event-token"}}
    gateway.settings["issuers"][0]["events"] = events
    gateway.config.write_text(json.dumps(gateway.settings))
    try:
        yield Transmitter(gateway.start(), key, f"{gateway.url}/dev")
    finally:
        gateway.stop()


def works(gateway: Gateway, token: str) -> bool:
    answer = gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in {200, 401}
    return answer.status_code == 200


KILLING = [
    (f"{CAEP}session-revoked", {}),
    (f"{CAEP}credential-change", {"change_type": "revoke", "credential_type": "password"}),
    (f"{CAEP}credential-change", {"change_type": "delete", "credential_type": "fido2-roaming"}),
    (f"{CAEP}token-claims-change", {"claims": {"groups": []}}),
    (f"{CAEP}assurance-level-change", {"current_level": "nist-aal1", "change_direction": "decrease"}),
    (f"{RISC}sessions-revoked", {}),
    (f"{RISC}credential-compromise", {"credential_type": "password"}),
]


@pytest.mark.parametrize(("event", "inside"), KILLING)
def test_what_was_given_before_the_event_is_dead_and_what_comes_after_lives(
    idp: Transmitter, event: str, inside: dict[str, Any]
) -> None:
    person = f"paul-{secrets.token_hex(4)}"
    now = int(time.time())
    old, other = issued(idp, person, iat=now), idp.gateway.token("mia")
    assert works(idp.gateway, old)
    idp.say(event, person, event_timestamp=now, **inside)
    assert not works(idp.gateway, old)
    assert works(idp.gateway, issued(idp, person, iat=now + 1))
    assert works(idp.gateway, other)  # nobody else


def issued(idp: Transmitter, person: str, *, iat: int | None = None) -> str:
    """An access token of the development issuer for anybody, signed with its own key."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from gateway.identity.devissuer import KEY_FILE

    key = load_pem_private_key((idp.gateway.folder / "data" / KEY_FILE).read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    at = int(time.time()) if iat is None else iat
    claims = {
        "iss": idp.issuer, "aud": idp.gateway.url, "sub": person, "groups": ["procurement-managers"],
        "client_id": "bailiwick-cli", "jti": secrets.token_hex(8), "iat": at, "exp": at + 600,
    }  # fmt: skip
    return jwt.encode(claims, key, algorithm="ES256", headers={"typ": "at+jwt", "kid": es256_jwk(key.public_key())["kid"]})


@pytest.mark.parametrize(
    ("event", "inside"),
    [
        (f"{CAEP}credential-change", {"change_type": "create"}),
        (f"{CAEP}credential-change", {"change_type": "update"}),
        (f"{CAEP}assurance-level-change", {"change_direction": "increase"}),
        (f"{CAEP}device-compliance-change", {"current_status": "not-compliant"}),
        ("https://schemas.openid.net/secevent/ssf/event-type/verification", {"state": "x"}),
        ("https://example.com/events/new", {}),
    ],
)
def test_other_events_are_acknowledged_and_recorded_without_effect(idp: Transmitter, event: str, inside: dict[str, Any]) -> None:
    token = idp.gateway.token("mia")
    jti = idp.say(event, "mia", **inside)
    assert works(idp.gateway, token)
    (record,) = [record for record in idp.gateway.records() if record.leaf.get("jti") == jti]
    assert (record.kind, record.leaf["event"], record.leaf["kills"]) == ("identity.event", [event], [])


def test_a_disabled_account_is_dead_whatever_comes_until_the_same_issuer_enables_it(idp: Transmitter) -> None:
    person = f"ida-{secrets.token_hex(4)}"
    idp.say(f"{RISC}account-disabled", person, reason="hijacking")
    assert not works(idp.gateway, issued(idp, person, iat=int(time.time()) + 5))
    idp.say(f"{RISC}account-enabled", person, event_timestamp=int(time.time()))
    assert works(idp.gateway, issued(idp, person))
    kinds = [record.kind for record in idp.gateway.records() if record.kind.startswith("identity.")]
    assert kinds[-4:] == ["identity.event", "identity.kill", "identity.event", "identity.lift"]


def test_enabling_lifts_nothing_that_something_else_killed(idp: Transmitter) -> None:
    person = f"eve-{secrets.token_hex(4)}"
    idp.say(f"{RISC}account-purged", person)
    idp.say(f"{RISC}account-disabled", person)
    idp.say(f"{RISC}account-enabled", person, event_timestamp=int(time.time()))
    assert not works(idp.gateway, issued(idp, person))  # purged is purged


def test_an_old_enabling_does_not_undo_a_newer_disabling(idp: Transmitter) -> None:
    person = f"ola-{secrets.token_hex(4)}"
    idp.say(f"{RISC}account-disabled", person)
    idp.say(f"{RISC}account-enabled", person, event_timestamp=int(time.time()) - 3600)
    assert not works(idp.gateway, issued(idp, person))


def test_an_event_that_was_taken_is_acknowledged_again_and_does_nothing(idp: Transmitter) -> None:
    person = f"rae-{secrets.token_hex(4)}"
    idp.say(f"{RISC}account-disabled", person)
    enabled = idp.sign(idp.claims(f"{RISC}account-enabled", person, event_timestamp=int(time.time())))
    assert idp.push(enabled).status_code == 202
    assert works(idp.gateway, issued(idp, person))
    idp.say(f"{RISC}account-disabled", person)
    before = len(idp.gateway.records())
    assert idp.push(enabled).status_code == 202  # replayed
    assert len(idp.gateway.records()) == before
    assert not works(idp.gateway, issued(idp, person))


def test_the_ledger_has_the_event_before_the_kill_and_the_person_by_pseudonym_alone(idp: Transmitter) -> None:
    person = f"pia-{secrets.token_hex(4)}"
    jti = idp.say(f"{CAEP}session-revoked", person)
    records = idp.gateway.records()
    event = next(record for record in records if record.leaf.get("jti") == jti)
    kill = next(record for record in records if [record.id] == event.leaf["kills"])
    assert event.index < kill.index
    assert (kill.leaf["source"], kill.leaf["by"], kill.leaf["what"]) == ("event", "issuer:dev", "user")
    assert person not in json.dumps([event.leaf, kill.leaf])
    assert person.encode() in idp.gateway.opened(event, "payload")


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, tuple[Change, str]] = {
    "another issuer": (lambda c: c.update(iss="https://evil.example"), "invalid_issuer"),
    "another audience": (lambda c: c.update(aud="https://other.example"), "invalid_audience"),
    "no audience": (lambda c: c.pop("aud"), "invalid_audience"),
    "two days old": (lambda c: c.update(iat=c["iat"] - 2 * 86_400), "invalid_request"),
    "of tomorrow": (lambda c: c.update(iat=c["iat"] + 86_400), "invalid_request"),
    "without iat": (lambda c: c.pop("iat"), "invalid_request"),
    "without jti": (lambda c: c.pop("jti"), "invalid_request"),
    "with exp, as a token": (lambda c: c.update(exp=c["iat"] + 60), "invalid_request"),
    "with sub, as a token": (lambda c: c.update(sub="paul"), "invalid_request"),
    "without events": (lambda c: c.pop("events"), "invalid_request"),
    "no event": (lambda c: c.update(events={}), "invalid_request"),
    "too many events": (lambda c: c.update(events={f"https://e.example/{n}": {} for n in range(9)}), "invalid_request"),
    "an event that is none": (lambda c: c.update(events={f"{CAEP}session-revoked": 1}), "invalid_request"),
    "by e-mail": (lambda c: c.update(sub_id={"format": "email", "email": "paul@example.com"}), "invalid_request"),
    "by telephone": (lambda c: c.update(sub_id={"format": "phone_number", "phone_number": "+1"}), "invalid_request"),
    "about nobody": (lambda c: c.pop("sub_id"), "invalid_request"),
    "about another issuer's": (lambda c: c["sub_id"].update(iss="https://evil.example"), "invalid_request"),
    "of the future": (lambda c: c["events"][f"{CAEP}session-revoked"].update(event_timestamp=c["iat"] + 999), "invalid_request"),
    "in milliseconds": (
        lambda c: c["events"][f"{CAEP}session-revoked"].update(event_timestamp=c["iat"] * 1000),
        "invalid_request",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_forged_stale_or_vague_event_is_refused_and_does_nothing(idp: Transmitter, name: str) -> None:
    change, err = BAD[name]
    token = idp.gateway.token("mia")
    claims = idp.claims(f"{CAEP}session-revoked", "mia", event_timestamp=int(time.time()))
    change(claims)
    answer = idp.push(idp.sign(claims))
    assert (answer.status_code, answer.json()["err"]) == (400, err)
    assert answer.json()["description"]
    assert works(idp.gateway, token)


def test_only_the_issuers_key_signs_and_only_a_security_event_is_one(idp: Transmitter) -> None:
    token = idp.gateway.token("mia")
    claims = idp.claims(f"{CAEP}session-revoked", "mia", event_timestamp=int(time.time()))
    kid = es256_jwk(idp.key.public_key())["kid"]
    thief = ec.generate_private_key(ec.SECP256R1())
    forged = jwt.encode(claims, thief, algorithm="ES256", headers={"typ": "secevent+jwt", "kid": kid})
    shared = jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"typ": "secevent+jwt", "kid": kid})
    cut = idp.sign(claims).rpartition(".")[0] + "."
    for text, err in (
        (forged, "invalid_key"),
        (shared, "invalid_key"),
        (idp.sign(claims, kid="another"), "invalid_key"),
        (idp.sign(claims, typ="at+jwt"), "invalid_request"),
        (idp.sign(claims, typ="JWT"), "invalid_request"),
        (cut, "invalid_request"),
        ("", "invalid_request"),
        ("é", "invalid_request"),
        ("x" * 100_000, "invalid_request"),
        (token, "invalid_request"),
    ):
        answer = idp.push(text)
        assert (answer.status_code, answer.json()["err"]) == (400, err)
        assert answer.headers["content-language"] == "en"
    assert works(idp.gateway, token)
    event = idp.sign(claims)
    assert not works(idp.gateway, event)  # and it is no access token


def test_a_transmitter_that_does_not_show_its_token_is_not_heard(idp: Transmitter) -> None:
    text = idp.sign(idp.claims(f"{CAEP}session-revoked", "mia", event_timestamp=int(time.time())))
    answers = [
        idp.push(text, token="wrong"),
        idp.push(text, alias="nobody"),
        idp.push(text, Authorization=f"Basic {TOKEN}"),
        idp.push(text, Authorization=TOKEN),
        idp.gateway.http.post("/ssf/events/dev", content=text, headers={"Content-Type": "application/secevent+jwt"}),
    ]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
    assert TOKEN not in idp.gateway.log.read_text()
    wrong = idp.push(text, **{"Content-Type": "application/json"})
    assert (wrong.status_code, wrong.json()["err"]) == (400, "invalid_request")


def test_people_are_found_by_an_opaque_id_and_in_a_complex_subject(idp: Transmitter) -> None:
    for make in (
        lambda who: {"format": "opaque", "id": who},
        lambda who: {"format": "complex", "user": {"format": "opaque", "id": who}, "session": {"format": "opaque", "id": "s"}},
    ):
        person = f"una-{secrets.token_hex(4)}"
        claims = idp.claims(f"{RISC}account-disabled", person)
        claims["sub_id"] = make(person)
        assert idp.push(idp.sign(claims)).status_code == 202
        assert not works(idp.gateway, issued(idp, person))


def test_an_event_that_is_refused_is_on_record(idp: Transmitter) -> None:
    """Of many strangers in one second some are only counted, so the same is tried until a second has room."""
    seen: set[str] = set()
    ends = time.monotonic() + 10
    while seen != {"event of dev", "event"} and time.monotonic() < ends:
        bad = idp.sign(idp.claims(f"{CAEP}session-revoked", "ivy") | {"aud": "https://elsewhere.example"})
        assert idp.push(bad).status_code == 400
        assert idp.push(bad, "nobody-whom-anybody-knows").status_code == 401
        details = [str(each.leaf["refused"]["detail"]) for each in idp.gateway.records() if each.leaf["kind"] == "auth.refused"]
        seen = {detail.partition(":")[0] for detail in details if detail.startswith("event")}
    assert seen == {"event of dev", "event"}
