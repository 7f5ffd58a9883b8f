"""`bailiwick doctor` against an identity provider on loopback that misbehaves in each way, and wrong tokens of every kind."""

from __future__ import annotations

import base64
import io
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli.doctor_issuer import Seen
from gateway.cli.doctor_token import examine_token
from gateway.identity.access import AccessTokens
from gateway.identity.keyfiles import private_pem
from gateway.identity.keyring import KeyFolder
from gateway.identity.keys import b64url, es256_jwk, parse_jwks
from gateway.identity.signing import LocalSigner
from gateway.settings import Issuer, Keys, Settings

from .conftest import Ran, Run

GOOD = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
KID = es256_jwk(GOOD.public_key())["kid"]


def rsa_jwk(bits: int, **more: str) -> dict[str, str]:
    numbers = rsa.generate_private_key(65537, bits).public_key().public_numbers()
    n = base64.urlsafe_b64encode(numbers.n.to_bytes(bits // 8, "big")).rstrip(b"=").decode()
    return {"kty": "RSA", "n": n, "e": "AQAB", "kid": f"rsa-{bits}", **more}


class Provider:
    """An identity provider: what it answers at which path may be changed; `held` paths are never answered."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.held: set[str] = set()
        self.ahead = 0
        self.end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path in outer.held:
                    outer.end.wait()
                    return
                status, body = outer.answers.get(self.path, (404, b"{}"))
                self.send_response_only(status)
                self.send_header("Date", formatdate(time.time() + outer.ahead, usegmt=True))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.keys = [dict(es256_jwk(GOOD.public_key()))]
        self.metadata: dict[str, object] = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}

    def publish(self) -> None:
        self.answers.setdefault("/.well-known/openid-configuration", (200, json.dumps(self.metadata).encode()))
        self.answers.setdefault("/jwks", (200, json.dumps({"keys": self.keys}).encode()))

    def close(self) -> None:
        self.end.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.close()


class Doctor:
    """Settings with one issuer, and the verb."""

    def __init__(self, folder: Path, provider: Provider, run: Run) -> None:
        self.folder, self.provider, self._run = folder, provider, run
        self.more: dict[str, object] = {}
        self.settings: dict[str, object] = {"agents": {"analyst": {"client_ids": ["analyst-app"]}}}

    def __call__(self, *words: object) -> Ran:
        self.provider.publish()
        issuer = {"alias": "corp", "issuer": self.provider.url, "audience": "https://gateway.example.com"}
        issuer |= {"direct_clients": ["cli"], **self.more}  # type: ignore[dict-item]  # YAML takes anything
        path = self.folder / "bailiwick.yaml"
        path.write_text(json.dumps({"tenant": "acme", "issuers": [issuer], **self.settings}))
        return self._run("doctor", "--config", path, *words)

    def found(self, *words: object) -> dict[str, dict[str, str]]:
        """Findings by what was checked."""
        ran = self(*words, "--json")
        findings = {check["check"]: check for check in ran.json["checks"] if check["state"] == "finding"}
        assert ran.code == (1 if findings else 0)
        assert ran.json["ok"] is not findings
        return findings

    def notes(self) -> str:
        return " | ".join(check["message"] for check in self("--json").json["checks"] if check["state"] == "note")

    def token(self, key: ec.EllipticCurvePrivateKey = GOOD, header: dict[str, Any] | None = None, **claims: object) -> Path:
        now = int(time.time())
        said: dict[str, object] = {
            "iss": self.provider.url, "aud": "https://gateway.example.com", "sub": "paul", "client_id": "analyst-app",
            "groups": ["procurement"], "iat": now, "exp": now + 300, "jti": "1", **claims,
        }  # fmt: skip
        said = {name: value for name, value in said.items() if value is not None}
        text = jwt.encode(said, key, algorithm="ES256", headers={"typ": "at+jwt", "kid": KID, **(header or {})})
        path = self.folder / "token.jwt"
        path.write_text(f"{text}\n")
        return path


@pytest.fixture
def doctor(tmp_path: Path, provider: Provider, run: Run) -> Doctor:
    return Doctor(tmp_path, provider, run)


def test_an_issuer_that_is_as_it_should_be_is_well(doctor: Doctor) -> None:
    ran = doctor()
    assert (ran.code, ran.err) == (0, "")
    for word in ("names the issuer and its keys", "1 usable keys", "its clock agrees", "0 findings"):
        assert word in ran.out


def test_a_name_that_does_not_resolve_is_told_as_such(doctor: Doctor) -> None:
    doctor.more = {"issuer": "https://nowhere.invalid"}
    assert "dns: the name does not resolve" in doctor.found()["metadata"]["message"]


def test_a_port_where_nobody_listens_is_told_as_such(doctor: Doctor) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    doctor.more = {"jwks": {"url": f"http://127.0.0.1:{port}/jwks"}}
    assert "connect: ConnectionRefusedError" in doctor.found()["jwks"]["message"]


def test_a_certificate_that_nobody_trusts_is_told_as_such(doctor: Doctor, tmp_path: Path) -> None:

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begins, ends = (x509_time(days) for days in (-1, 1))
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(GOOD.public_key())
        .serial_number(7).not_valid_before(begins).not_valid_after(ends).sign(GOOD, hashes.SHA256())
    )  # fmt: skip
    pem = tmp_path / "server.pem"
    pem.write_bytes(private_pem(GOOD) + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve() -> None:
        connection, _ = listener.accept()
        try:
            context.wrap_socket(connection, server_side=True).close()
        except (ssl.SSLError, OSError):
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        doctor.more = {"jwks": {"url": f"https://127.0.0.1:{listener.getsockname()[1]}/jwks"}}
        found = doctor.found()["jwks"]
    finally:
        thread.join(20)
        listener.close()
    assert "tls: SSLCertVerificationError" in found["message"]
    assert "SSL_CERT_FILE" in found["help"]


def x509_time(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def test_silence_is_told_as_such(doctor: Doctor) -> None:
    doctor.provider.held.add("/jwks")
    assert "timeout: no whole answer within 0.3 s" in doctor.found("--timeout", "0.3")["jwks"]["message"]


def test_what_is_no_http_is_told_as_such(doctor: Doctor) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"220 mail.example.com ESMTP\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    doctor.more = {"jwks": {"url": f"http://127.0.0.1:{listener.getsockname()[1]}/jwks"}}
    message = doctor.found()["jwks"]["message"]
    thread.join(20)
    listener.close()
    assert "answer: " in message


def test_an_address_where_the_gateway_never_goes_is_told_as_such(doctor: Doctor) -> None:
    doctor.more = {"jwks": {"url": "https://169.254.169.254/jwks"}}
    assert "jwks: " not in doctor.found()["jwks"]["help"]
    assert ": address: " in doctor.found()["jwks"]["message"]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_answer_that_is_none_shows_its_status(doctor: Doctor, status: int) -> None:
    doctor.provider.answers["/.well-known/openid-configuration"] = status, b"{}"
    assert f"answered {status}" in doctor.found()["metadata"]["message"]


def test_metadata_of_the_other_place_is_found(doctor: Doctor) -> None:
    doctor.provider.answers["/.well-known/openid-configuration"] = 404, b""
    body = json.dumps(doctor.provider.metadata).encode()
    doctor.provider.answers["/.well-known/oauth-authorization-server"] = 200, body
    assert doctor.found() == {}


def test_metadata_of_another_issuer_shows_what_was_expected_and_what_was_found(doctor: Doctor) -> None:
    doctor.provider.metadata["issuer"] = doctor.provider.url + "/"
    message = doctor.found()["metadata"]["message"]
    assert f"expected '{doctor.provider.url}', found '{doctor.provider.url}/'" in message


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"issuer": 7}', b"\xff", b'{"a":' * 50])
def test_metadata_that_is_none_is_a_finding_and_never_a_defect(doctor: Doctor, body: bytes) -> None:
    doctor.provider.answers["/.well-known/openid-configuration"] = 200, body
    assert "metadata" in doctor.found()["metadata"]["message"]


@pytest.mark.parametrize("seconds", [-90, 90])
def test_a_clock_that_differs_is_a_finding(doctor: Doctor, seconds: int) -> None:
    doctor.provider.ahead = seconds
    assert ("ahead of" if seconds > 0 else "behind") in doctor.found()["clock"]["message"]


def test_a_key_set_with_a_secret_or_the_same_kid_twice_is_refused_whole(doctor: Doctor) -> None:
    for keys, word in (
        ([*doctor.provider.keys, {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}], "shows a secret key"),
        ([*doctor.provider.keys, *doctor.provider.keys], f"two keys have the same kid ('{KID}')"),
        ([{**doctor.provider.keys[0], "d": "c2VjcmV0"}], "shows a secret key"),
    ):
        doctor.provider.answers["/jwks"] = 200, json.dumps({"keys": keys}).encode()
        ran = doctor("--json")
        (found,) = [check for check in ran.json["checks"] if check["state"] == "finding"]
        assert word in found["message"]
        assert "c2VjcmV0" not in ran.out


def test_each_key_that_is_left_out_says_why(doctor: Doctor) -> None:
    good = doctor.provider.keys[0]
    doctor.provider.keys += [
        {**good, "kid": "enc", "use": "enc"}, rsa_jwk(1024), {"kty": "EC", "crv": "secp256k1", "kid": "bitcoin"},
        {**{name: good[name] for name in good if name != "kid"}}, {**good, "kid": "odd", "alg": "ES512"},
        {**good, "kid": "ops", "key_ops": ["encrypt"]}, {**good, "kid": "bad", "x": "AAAA"}, {**good, "kid": ["list"]},  # type: ignore[dict-item]
    ]  # fmt: skip
    notes = doctor.notes()
    for word in (
        "key 2 ('enc') is left out: it is for 'enc'", "RSA of 1024 bits", "'EC' 'secp256k1' are not used", "it has no kid",
        "its alg 'ES512'", "key_ops do not say verify", "('bad') is left out: its numbers",
    ):  # fmt: skip
        assert word in notes
    assert doctor.found() == {}


def test_a_set_without_a_usable_key_and_keys_of_other_algorithms_are_findings(doctor: Doctor) -> None:
    doctor.provider.keys = [rsa_jwk(1024)]
    assert "no key of it can be used" in doctor.found()["jwks"]["message"]
    doctor.provider.answers.clear()
    doctor.provider.keys = [rsa_jwk(2048)]
    doctor.more = {"algorithms": ["ES256"]}
    found = doctor.found()["algorithms"]
    assert "its keys are for PS256, RS256; the settings accept ES256" in found["message"]
    assert "issuers.corp.algorithms" in found["help"]


def test_introspection_is_looked_for_and_nothing_is_sent_to_it(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_SECRET", "hunter2")
    doctor.more = {"introspection": {"client": {"id": "gateway", "secret": {"env": "CLIENT_SECRET"}}}}
    assert "nothing says where" in doctor.found()["introspection"]["message"]
    doctor.provider.answers.clear()
    doctor.provider.metadata["introspection_endpoint"] = doctor.provider.url + "/introspect"
    assert "answers (404" in doctor.found()["introspection"]["message"]
    doctor.provider.answers["/introspect"] = 405, b""
    assert doctor.found() == {}


def test_a_good_token_is_said_to_be_good(doctor: Doctor) -> None:
    ran = doctor("--token", doctor.token())
    assert ran.code == 0, ran.out
    assert "accepts it, as 'user:corp/paul' through agent:analyst, tenant acme" in ran.out


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "audience",
        {"aud": "https://other.example.com"},
        "expected 'https://gateway.example.com', found 'https://other",
        "resource",
    ),
    ("audience", {"aud": None}, "found nothing", "issuers.corp.audience"),
    ("issuer", {"iss": "https://elsewhere.example.com"}, "iss is 'https://elsewhere", "character by character"),
    ("expired", {"iat": 1_800_000_000 - 4000, "exp": int(time.time()) - 7200}, "it ended 2 hours ago", "a new one"),
    ("times", {"iat": int(time.time()) + 3600, "exp": int(time.time()) + 7200}, "counts only in", "clocks"),
    ("times", {"exp": None}, "exp is missing", "whole seconds"),
    (
        "typ",
        {"header": {"typ": "JWT"}},
        "typ is 'JWT'; accepted: application/at+jwt, at+jwt",
        "issuers.corp.token_types: [at+jwt, JWT]",
    ),
    ("client", {"client_id": "strange"}, "'strange' is nobody's", "issuers.corp.direct_clients"),
    ("client", {"client_id": None}, "client_id is missing", "RFC 9068"),
    ("groups", {"groups": None, "realm_access": {"roles": ["a"]}, "amr": ["pwd"]}, "no claim 'groups'", "'realm_access.roles'"),
    ("groups", {"groups": "admin"}, "groups is not a list", "groups_claim"),
    ("kid", {"header": {"kid": "stranger"}}, "kid is 'stranger'", "of this issuer"),
    ("signature", {"key": OTHER}, "signature does not verify", "changed"),
    ("use", {"act": {"sub": "x"}}, "delegated", "own access token"),
    ("form", {"header": {"jku": "https://evil.example.com/jwks"}}, "header member is not allowed", "'jku'"),
]


@pytest.mark.parametrize(("check", "change", "message", "help_"), WRONG, ids=[f"{each[0]}-{n}" for n, each in enumerate(WRONG)])
def test_each_wrong_token_fails_the_check_that_it_should_and_is_never_shown(
    doctor: Doctor, check: str, change: dict[str, Any], message: str, help_: str
) -> None:
    path = doctor.token(**change)
    text = path.read_text().strip()
    ran = doctor("--token", path)
    found = doctor.found("--token", path)
    assert ran.code == 1
    assert message in found[check]["message"]
    assert help_ in found[check]["help"]
    assert check in {"form", "issuer", "groups"} or "verdict" in found
    for part in (text, *text.split(".")):
        assert part not in ran.out + ran.err


def test_the_checks_agree_with_the_gateways_own_verdict(doctor: Doctor) -> None:
    """No finding for what it accepts, none missing for what it refuses; a person without groups is accepted, and told."""
    for check, change, _, _ in WRONG:
        path = doctor.token(**change)
        found = doctor.found("--token", path)
        assert bool(found.keys() - {"verdict", "groups"}) == ("verdict" in found) or check in {"form", "issuer", "groups"}


def test_tokens_with_scopes_bindings_and_tenants_are_told_which_setting_it_is(doctor: Doctor) -> None:
    doctor.more = {"required_scope": ["tools"], "dpop": "require", "tenant_claim": "org", "tenants": {"o-1": "acme"}}
    found = doctor.found("--token", doctor.token(scope="openid"))
    assert "it lacks 'tools'" in found["scope"]["message"]
    assert "bound to no key" in found["bound"]["message"]
    assert "tenant" in found["claims"]["message"]


def test_an_id_token_is_named(doctor: Doctor) -> None:
    doctor.more = {"token_types": ["at+jwt", "JWT"]}
    path = doctor.token(header={"typ": "JWT"}, nonce="n", azp="analyst-app")
    assert "ID token" in doctor.found("--token", path)["use"]["message"]
    path = doctor.token(header={"typ": "JWT"}, typ="ID", azp="analyst-app")
    assert "no access token" in doctor.found("--token", path)["use"]["message"]


def test_a_token_that_a_client_fetched_for_itself_is_named(doctor: Doctor) -> None:
    found = doctor.found("--token", doctor.token(gty="client-credentials"))
    assert "names no person" in found["client"]["message"]
    assert "names no person" in found["verdict"]["message"]


def test_an_opaque_token_is_told_as_such(doctor: Doctor) -> None:
    path = doctor.folder / "token"
    path.write_text("2YotnFZFEjr1zCsicMWpAA")
    ran = doctor("--token", path)
    assert ran.code == 1
    assert "introspection" in ran.out
    assert "2YotnFZFEjr1zCsicMWpAA" not in ran.out


def test_a_token_comes_by_stdin_with_or_without_its_scheme(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    text = doctor.token().read_text().strip()
    for each in (text, f"Bearer {text}\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(each.encode())))
        assert doctor("--token", "-").code == 0


def test_misuse_ends_with_two_and_says_what_to_do(doctor: Doctor) -> None:
    text = doctor.token().read_text().strip()
    pasted = doctor("--token", text)
    assert pasted.code == 2
    assert "shell's history" in pasted.err
    assert text not in pasted.err
    assert doctor("--token", "/nowhere").code == 2
    empty = doctor.folder / "empty"
    empty.write_text("\n")
    assert doctor("--token", empty).code == 2
    strange = doctor("--issuer", "nobody")
    assert strange.code == 2
    assert "they have corp" in strange.err


def test_own_keys_that_others_can_read_are_findings(doctor: Doctor) -> None:
    doctor("--json")
    keys = doctor.folder / "data" / "keys"

    kid = KeyFolder(doctor.folder / "data").opened(int(time.time()))[0].kid
    assert doctor.found() == {}
    (keys / f"{kid}.pem").chmod(0o644)
    assert "chmod" in doctor.found()["secrets"]["help"]
    (keys / f"{kid}.pem").chmod(0o600)
    keys.chmod(0o755)
    assert "chmod 700" in doctor.found()["settings"]["help"]


def test_a_terminator_that_is_everybody_and_a_secret_that_leads_nowhere_are_findings(doctor: Doctor) -> None:
    doctor.settings["terminator"] = {"peers": ["0.0.0.0/0"], "secret": {"env": "NO_SUCH_SECRET_HERE"}}
    found = doctor("--json").json["checks"]
    assert any(check["check"] == "secrets" and "NO_SUCH_SECRET_HERE" in check["message"] for check in found)
    doctor.settings["terminator"] = {"peers": ["0.0.0.0/0"]}
    assert "everybody" in doctor.found()["peers"]["message"]
    doctor.settings["terminator"] = {"peers": ["10.0.0.0/24"]}
    assert "each of the 256 hosts" in doctor.notes()


def test_trust_domains_and_agents_keys_are_looked_at_too(doctor: Doctor) -> None:
    doctor.provider.answers["/bundle"] = 404, b""
    doctor.settings["trust_domains"] = [{"name": "acme.example", "jwks": {"url": f"{doctor.provider.url}/bundle"}}]
    doctor.settings["agents"] = {"keyed": {"auth": {"jwks": {"file": "none.json"}, "spiffe_id": "spiffe://acme.example/keyed"}}}
    checks = {(check["of"], check["check"]): check for check in doctor("--json").json["checks"]}
    assert checks["trust_domains.acme.example", "jwks"]["state"] == "finding"
    assert checks["agents.keyed.auth", "jwks"]["state"] == "finding"
    svid = {**es256_jwk(GOOD.public_key()), "use": "jwt-svid"}
    doctor.provider.answers["/bundle"] = 200, json.dumps({"keys": [svid]}).encode()
    checks = {(check["of"], check["check"]): check for check in doctor("--json").json["checks"]}
    assert checks["trust_domains.acme.example", "jwks"]["state"] == "ok"


def test_where_events_go_and_whether_their_keys_are_there(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSH_TOKEN", "hunter2")
    doctor.provider.answers["/event-keys"] = 500, b""
    keys = {"url": f"{doctor.provider.url}/event-keys"}
    doctor.more = {"events": {"audience": "https://gateway.example.com/ssf", "jwks": keys, "token": {"env": "PUSH_TOKEN"}}}
    ran = doctor("--json")
    checks = {(check["of"], check["check"]): check for check in ran.json["checks"]}
    assert "/ssf/events/corp, with aud 'https://gateway.example.com/ssf'" in checks["issuers.corp.events", "receiver"]["message"]
    assert "answered 500" in checks["issuers.corp.events", "jwks"]["message"]
    assert "hunter2" not in ran.out


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 1 << 40), st.text(max_size=8), st.lists(st.text(max_size=4), max_size=3),
    st.dictionaries(st.sampled_from(["jkt", "groups", "x"]), st.lists(st.text(max_size=3), max_size=2), max_size=2),
)  # fmt: skip
CLAIMS = [
    "aud",
    "sub",
    "client_id",
    "azp",
    "groups",
    "iat",
    "exp",
    "nbf",
    "jti",
    "scope",
    "cnf",
    "act",
    "nonce",
    "_claim_names",
    "org",
    "typ",
    "token_use",
    "gty",
    "preferred_username",
]


@given(st.dictionaries(st.sampled_from(CLAIMS), ODD, max_size=3), st.sampled_from(["at+jwt", "JWT", "x"]))
@settings(max_examples=300, deadline=None)
async def test_whatever_a_token_says_the_findings_agree_with_the_gateway_and_repeat_nothing_of_it(
    tmp_path_factory: pytest.TempPathFactory, odd: dict[str, object], typ: str
) -> None:
    now, url = int(time.time()), "https://idp.example.com"
    keys = tmp_path_factory.getbasetemp() / "doctor-keys.json"
    keys.write_text(json.dumps({"keys": [es256_jwk(GOOD.public_key())]}))
    issuer = Issuer(
        alias="corp", issuer=url, audience="gateway", jwks=Keys(file=keys), direct_clients=("cli",),
        token_types=("at+jwt", "JWT"), required_scope=("tools",), tenant_claim="org", tenants={"o-1": "acme"},
    )  # fmt: skip
    claims = {
        "iss": url, "aud": "gateway", "sub": "paul", "client_id": "cli", "groups": ["a"], "iat": now, "exp": now + 300,
        "scope": "tools", "org": "o-1",
    } | odd  # fmt: skip
    body = [b64url(json.dumps(each).encode()) for each in ({"alg": "ES256", "typ": typ, "kid": KID}, claims)]
    signed = ".".join(body)
    text = f"{signed}.{b64url(LocalSigner(GOOD).sign(signed.encode()))}"
    access = AccessTokens([issuer], {})
    seen = {"corp": Seen("issuers.corp", issuer.algorithms, keys=dict(parse_jwks(keys.read_bytes())))}
    checks = await examine_token(text, Settings(issuers=(issuer,)), seen, access, now)
    await access.close()
    found = {check.name for check in checks if check.state == "finding"}
    assert text.rpartition(".")[2] not in str(checks)
    if found == {"form"}:
        return
    reasons = found - {"verdict", "groups"}
    assert not reasons or "verdict" in found
    if "verdict" in found and not reasons:  # what it names no check for, its verdict must tell
        (verdict,) = [check.message for check in checks if check.name == "verdict"]
        assert any(word in verdict for word in ("sub", "jti", "groups", "more groups"))
