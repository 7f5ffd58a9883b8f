"""The gateway as an OAuth resource server, as clients find their way: from a challenge to the metadata of the very address."""

from __future__ import annotations

import re

import pytest

from tests.interaction.world import Gateway

METADATA = "/.well-known/oauth-protected-resource"
PAGE = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}


@pytest.mark.parametrize("path", ["", "/mcp", "/mcp/desk", "/a2a/helper"])
def test_every_address_has_metadata_that_names_it_exactly_whatever_the_request_calls_the_host(
    gateway: Gateway, path: str
) -> None:
    for headers in ({}, {"Host": "localhost:1"}, {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}):
        answer = gateway.http.get(METADATA + path, headers=headers)
        said = answer.json()
        assert said["resource"] == gateway.public_url + path
        assert said["authorization_servers"]
        assert said["bearer_methods_supported"] == ["header"]
        assert answer.headers["access-control-allow-origin"] == "*"


def test_a_server_that_is_not_there_has_the_same_metadata_as_one_that_is(gateway: Gateway) -> None:
    there, nowhere = (gateway.http.get(f"{METADATA}/mcp/{name}") for name in ("desk", "nowhere"))
    assert there.text.replace("desk", "nowhere") == nowhere.text


def test_a_web_page_may_read_the_metadata_and_nothing_else(gateway: Gateway) -> None:
    asked = gateway.http.options(
        f"{METADATA}/mcp/desk", headers=PAGE | {"Access-Control-Request-Headers": "mcp-protocol-version"}
    )
    assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (204, "*")
    assert gateway.http.get(f"{METADATA}/mcp/desk", headers=PAGE).status_code == 200
    assert gateway.http.get("/api/version", headers=PAGE).status_code == 403
    assert gateway.http.get(f"{METADATA}/mcp/desk", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/", "/mcp/", "/mcp/desk/", "/mcp/desk/x", "/mcp/DESK", "/mcp/a%0d%0ab", "/other/desk", "/mcp//desk"]
)
def test_no_other_spelling_of_an_address_has_metadata(gateway: Gateway, path: str) -> None:
    assert gateway.http.get(METADATA + path).status_code == 404


@pytest.mark.parametrize("path", ["/mcp", "/mcp/desk"])
def test_a_stranger_is_led_to_the_metadata_of_the_address_it_asked_for(gateway: Gateway, path: str) -> None:
    for headers, error in (({}, False), ({"Authorization": "Bearer nonsense"}, True)):
        answer = gateway.http.post(path, json={}, headers=headers)
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        assert ('error="invalid_token"' in challenge) is error
        (url,) = re.findall(r'resource_metadata="([^"]+)"', challenge)
        assert gateway.http.get(url.removeprefix(gateway.public_url)).json()["resource"] == gateway.public_url + path


PROBES = [
    "/.well-known/oauth-authorization-server/mcp/desk", "/.well-known/openid-configuration/mcp/desk",
    "/mcp/desk/.well-known/openid-configuration", "/.well-known/openid-configuration",
    "/mcp/desk/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server/mcp",
]  # fmt: skip


@pytest.mark.parametrize("path", PROBES)
def test_where_clients_look_for_an_authorization_server_there_is_nothing_and_no_json(gateway: Gateway, path: str) -> None:
    answer = gateway.http.get(path)
    assert (answer.status_code, answer.content) == (404, b"")


def test_nobody_registers_here(gateway: Gateway) -> None:
    answer = gateway.http.post("/register", json={"redirect_uris": ["https://x.example"]})
    assert (answer.status_code, answer.content) == (404, b"")
