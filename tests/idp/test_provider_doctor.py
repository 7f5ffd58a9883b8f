"""`bailiwick doctor` beside a certified provider: what it says, and that the how-to pages show what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.idp.conftest import Make
from tests.idp.provider import ELSEWHERE, Idp
from tests.idp.trusting import Trusting
from tests.interaction.world import ROOT

pytestmark = pytest.mark.node

PAGES = sorted((Path(ROOT) / "docs" / "how-to" / "identity").glob("*.md"))


def doctor(gateway: Trusting, *words: str, token: str = "") -> tuple[int, str]:
    """Its exit code, and what it printed."""
    command = [sys.executable, "-m", "gateway.cli", "doctor", "--config", str(gateway.config), *words]
    environment = os.environ | {"COLUMNS": "240", "NO_COLOR": "1"}
    run = subprocess.run(
        [*command, *(["--token", "-"] if token else [])],
        input=token, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert token[-20:] not in run.stdout + run.stderr or not token
    return run.returncode, run.stdout


def checks(text: str) -> list[tuple[str, ...]]:
    """State, what it is about without an alias, and name of each check."""
    found = re.findall(r"^ *(ok|note|finding)  ([^:]+): (\w+): ", text, re.MULTILINE)
    return [(state, re.sub(r"issuers\..*", "issuers", of), name) for state, of, name in found]


def test_doctor_finds_nothing_where_the_provider_and_the_token_are_good(gateway: Trusting, idp: Idp) -> None:
    code, said = doctor(gateway, token=idp.login("paul")["access_token"])
    assert code == 0, said
    assert "0 findings" in said
    assert "the gateway accepts it, as 'user:corp/paul'" in said


@pytest.fixture(scope="module")
def told(gateway: Trusting) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """What it says of this gateway, without a token and of a good one."""
    plain, asked = (checks(doctor(gateway, token=token)[1]) for token in ("", gateway.idp.login("paul")["access_token"]))
    return plain, asked


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "no-idp-yet"], ids=lambda page: page.stem)
def test_a_page_shows_what_doctor_says(told: tuple[list[tuple[str, ...]], list[tuple[str, ...]]], page: Path) -> None:
    text = page.read_text()
    first, second = re.findall(r"^```\n\$ bailiwick doctor.*?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    plain, asked = told
    assert checks(first) == plain
    assert checks(second) == [check for check in asked if check[1] == "token"]
    assert (f"{len(plain)} checks" in first, f"{len(asked)} checks" in second) == (True, True)


@pytest.mark.parametrize(("which", "check"), [("id_token", "typ"), ("elsewhere", "audience"), ("stranger", "client")])
def test_doctor_says_which_check_a_token_fails(gateway: Trusting, idp: Idp, which: str, check: str) -> None:
    token = {
        "id_token": lambda: idp.login("paul")["id_token"],
        "elsewhere": lambda: idp.login("paul", resource=ELSEWHERE)["access_token"],
        "stranger": lambda: idp.login("paul", "stranger")["access_token"],
    }[which]()
    code, text = doctor(gateway, "--json", token=token)
    said: dict[str, Any] = json.loads(text)
    assert code == 1
    found = [each["check"] for each in said["checks"] if each["state"] == "finding" and each["of"] == "token"]
    assert check in found
    assert found[-1] == "verdict"


def test_doctor_says_that_a_provider_is_away_or_its_clock_wrong(own_gateway: Make) -> None:
    gateway = own_gateway()
    gateway.idp.turn_clock(300)
    code, said = doctor(gateway)
    assert ("finding", "issuers", "clock") in checks(said), (code, said)
    gateway.idp.stop()
    code, said = doctor(gateway)
    assert code == 1
    assert ("finding", "issuers", "metadata") in checks(said)
