"""`bailiwick token`: whose token it prints, in whose hands, and for whom it prints none."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from .conftest import Run

SETTINGS = """\
issuers:
  - alias: dev
    development: true
    issuer: http://127.0.0.1:8080/dev
    audience: http://127.0.0.1:8080
    jwks: {file: data/dev-jwks.json}
    direct_clients: [bailiwick-cli, page]
agents:
  analyst: {client_ids: [analyst-app]}
  clerk: {client_ids: {dev: [clerk-app]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "bailiwick.yaml"
    path.write_text(SETTINGS)
    (tmp_path / "data").mkdir(mode=0o700)
    return path


@pytest.mark.parametrize("client", ["", "page", "analyst-app", "clerk-app"])
def test_a_token_is_of_the_client_that_is_asked_for_or_of_the_persons_own_hands(config: Path, run: Run, client: str) -> None:
    ran = run("token", "--user", "paul", "--config", config, *(["--client", client] if client else []))
    assert ran.code == 0, ran.err
    claims = jwt.decode(ran.out.strip(), options={"verify_signature": False})
    assert (claims["sub"], claims["client_id"]) == ("paul", client or "bailiwick-cli")


def test_there_is_none_for_a_client_that_nobody_registered_and_for_no_stranger(config: Path, run: Run) -> None:
    ran = run("token", "--user", "paul", "--client", "stranger", "--config", config)
    assert (ran.code, ran.out) == (2, "")
    assert "there are: analyst-app, bailiwick-cli, clerk-app, page" in ran.err
    ran = run("token", "--user", "eve", "--config", config)
    assert (ran.code, ran.out, "it knows mia, paul, fiona" in ran.err) == (2, "", True)
