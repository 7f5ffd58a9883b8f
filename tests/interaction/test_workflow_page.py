"""The page for who has never begun a workflow: its settings and its commands, in order, as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.interaction.world import ROOT, Gateway, Peers

TEXT = (Path(ROOT) / "docs" / "how-to" / "start-a-workflow.md").read_text()
SETTINGS, DIRECTORY = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's commands need curl: apt-get install curl")
def test_the_page_takes_a_newcomer_from_a_persons_token_to_a_grant_that_is_taken_back(upstreams: Peers, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, upstreams)
    program = [sys.executable, "-m", "gateway.cli"]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    analyst = yaml.safe_load(SETTINGS)["agents"]["analyst"]
    gateway.settings["agents"]["analyst"] = analyst
    gateway.settings["issuers"][0]["directory"] = yaml.safe_load(DIRECTORY)["issuers"][0]["directory"]
    (tmp_path / "people.yaml").write_text("paul: " + DIRECTORY.partition("# paul: ")[2])
    gateway.config.write_text(json.dumps(gateway.settings))
    told = subprocess.run(
        [*program, "agents", "secret", "analyst", "--config", str(gateway.config), "--json"],
        capture_output=True, text=True, timeout=60, check=True, env=environment,
    )  # fmt: skip
    made = json.loads(told.stdout)
    analyst["auth"] = {"secret_sha256": [made["secret_sha256"]]}
    gateway.config.write_text(json.dumps(gateway.settings))
    gateway.start()
    try:
        script = "\n".join(f"{block}\necho; echo ----" for block in COMMANDS).replace("http://127.0.0.1:8080", gateway.url)
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
            env=environment | {"ANALYST_SECRET": made["secret"]},
        )  # fmt: skip
    finally:
        gateway.stop()
    assert ran.returncode == 0, ran.stderr
    _, begun, who, renewed, listed, by_grant, revoked = (part.strip() for part in ran.stdout.split("----\n")[:-1])
    assert json.loads(begun)["scope"] == "a2a:erp-integration erp.read"
    me = json.loads(who)
    assert (me["subject"], me["actors"], me["method"]) == ("user:dev/paul", ["agent:analyst"], "delegation+secret")
    assert json.loads(renewed)["issued_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
    assert "analyst: erp.read" in listed
    assert (json.loads(by_grant)["scope"], json.loads(by_grant)["token_type"]) == ("erp.read", "Bearer")
    assert "may no longer begin anything" in revoked
