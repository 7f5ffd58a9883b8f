"""The development issuer speaks as a real one does."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import jwt

from gateway.identity.devissuer import PEOPLE, DevIssuer
from gateway.identity.keys import parse_jwks

NOW = 1_800_000_000


def issuer(data: Path) -> DevIssuer:
    return DevIssuer(data, "http://127.0.0.1:8080/dev", "http://127.0.0.1:8080", lambda: NOW * 1_000_000)


def test_its_tokens_are_rfc_9068_access_tokens(tmp_path: Path) -> None:
    token = issuer(tmp_path).issue("paul", PEOPLE["paul"])
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (header["typ"], header["alg"]) == ("at+jwt", "ES256")
    assert {"iss", "exp", "aud", "sub", "client_id", "iat", "jti"} <= claims.keys()
    assert (claims["sub"], claims["groups"], claims["exp"] - claims["iat"]) == ("paul", ["procurement-managers"], 3600)


def test_a_token_never_outlives_a_day(tmp_path: Path) -> None:
    claims = jwt.decode(issuer(tmp_path).issue("paul", [], lifetime=10**9), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 24 * 3600


def test_a_restart_keeps_the_key_and_publishes_it_alone(tmp_path: Path) -> None:
    first, second = issuer(tmp_path), issuer(tmp_path)
    assert first.issue("a", []).split(".")[0] == second.issue("a", []).split(".")[0]
    document = json.loads(first.jwks.read_text())
    assert all("d" not in key for key in document["keys"])
    assert len(parse_jwks(first.jwks.read_bytes())) == 1
    assert stat.S_IMODE((tmp_path / "dev-issuer-key.pem").stat().st_mode) == 0o600


def test_the_story_has_three_people_in_three_departments() -> None:
    assert PEOPLE == {"mia": ("marketing-managers",), "paul": ("procurement-managers",), "fiona": ("finance-controllers",)}
