"""Rotation under a running gateway: nobody notices but the key set, the ledger, and whoever holds what a retired key signed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from tests.interaction.world import ROOT, Gateway, Peers, new_trace

FEW_SECONDS = 20


@pytest.fixture
def gateway(own_gateway: Callable[..., Gateway]) -> Gateway:
    return own_gateway()


def keys(gateway: Gateway, *words: str) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BAILIWICK_")}
    command = [sys.executable, "-m", "gateway.cli", "keys", *words, "--config", str(gateway.config), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = json.loads(ran.stdout)
    assert isinstance(said, dict)
    return said


def published(gateway: Gateway) -> list[str]:
    return [key["kid"] for key in gateway.http.get("/.well-known/jwks.json").json()["keys"]]


def until(true: Callable[[], bool]) -> None:
    """Asks again and again, for a few seconds at most."""
    ends, pause = time.monotonic() + FEW_SECONDS, threading.Event()
    while not true():
        assert time.monotonic() < ends, "it never came true"
        pause.wait(0.05)


def handed(gateway: Gateway, peers: Peers, person: str) -> str:
    """The delegation token that the agent `clerk` gets."""
    trace = new_trace()
    answer = gateway.send("clerk", gateway.token(person), trace=trace)
    assert "result" in answer.json(), answer.text
    return peers.of(trace)[-1].headers["authorization"].removeprefix("Bearer ")


def goes_on(gateway: Gateway, delegation: str) -> int:
    return gateway.call("desk.read", gateway.agent_secrets["clerk"], **{"Bailiwick-Delegation": delegation}).status_code


def test_the_key_set_is_public_cachable_and_says_when_it_has_not_changed(gateway: Gateway) -> None:
    answer = gateway.http.get("/.well-known/jwks.json")
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert all(key.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"} for key in answer.json()["keys"])
    for tag in (answer.headers["etag"], f'"other", W/{answer.headers["etag"]}'):
        again = gateway.http.get("/.well-known/jwks.json", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert gateway.http.get("/.well-known/jwks.json", headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_running_gateway_follows_and_only_what_a_retired_key_signed_ends(gateway: Gateway, peers: Peers) -> None:
    (old,) = published(gateway)
    before = handed(gateway, peers, "paul")
    assert goes_on(gateway, before) == 200
    waits = keys(gateway, "rotate")["kid"]
    until(lambda: published(gateway) == [old, waits])
    assert jwt.get_unverified_header(handed(gateway, peers, "paul"))["kid"] == old
    now = keys(gateway, "rotate", "--now")["kid"]
    until(lambda: published(gateway) == [now, old])
    after = handed(gateway, peers, "paul")
    assert jwt.get_unverified_header(after)["kid"] == now
    assert [goes_on(gateway, token) for token in (before, after)] == [200, 200]
    keys(gateway, "retire", old)
    until(lambda: published(gateway) == [now])
    assert [goes_on(gateway, token) for token in (before, after)] == [401, 200]
    said = [(record.leaf["kid"], record.leaf["use"], record.leaf["before"]) for record in gateway.records(kind="key.activate")]
    assert said[0] == (old, "sign", "")
    until(lambda: len(gateway.records(kind="key.activate")) >= 4)
    said = [(record.leaf["kid"], record.leaf["use"], record.leaf["before"]) for record in gateway.records(kind="key.activate")]
    assert (now, "sign", old) in said
    assert (old, "none", now) in said
    assert {path.stem for path in (gateway.folder / "data" / "keys").glob("*.pem")} == {now}
    assert gateway.audit("verify").returncode == 0


def test_after_a_restart_the_ring_is_the_same(gateway: Gateway, peers: Peers) -> None:
    before, kids = handed(gateway, peers, "paul"), published(gateway)
    gateway.kill()
    gateway.start()
    assert published(gateway) == kids
    assert goes_on(gateway, before) == 200
    assert len(gateway.records(kind="key.activate")) == 1
