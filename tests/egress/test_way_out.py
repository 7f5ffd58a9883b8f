"""What settings make of the way out, and the machine's own resolver."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.egress.dial import Exempt, Resolver
from gateway.egress.opening import exemptions
from gateway.settings import Egress


def test_an_exemption_is_written_for_one_destination_as_profiles_write_it() -> None:
    settings = Egress.model_validate(
        {"destinations": {"db.corp.example:5432": {"tls": False, "networks": ["10.1.2.0/24"]}, "*.corp.example:443": {}}}
    )
    assert exemptions(settings) == {
        "db.corp.example:5432": Exempt(tls=False, networks=(ip_network("10.1.2.0/24"),)),
        "*.corp.example:443": Exempt(),
    }


@pytest.mark.parametrize(
    "destinations",
    [
        {"db.corp.example": {}},
        {"10.0.0.1:443": {}},
        {"*:443": {}},
        {"*.com:443": {}},
        {"DB.corp.example:443": {}},
        {"db.corp.example:443": {"networks": ["10.1.2.3/24"]}},  # bits beyond the prefix: which of the two is meant?
        {"db.corp.example:443": {"verify": False}},
    ],
)
def test_what_no_profile_can_list_and_what_is_not_understood_is_a_mistake(destinations: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Egress.model_validate({"destinations": destinations})


async def test_names_are_looked_up_as_absolute_ones_so_that_no_search_domain_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def look_up(name: str, *_: object, **__: object) -> list[Any]:
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = Resolver()
    try:
        assert await resolver("api.example.com") == ["203.0.113.1"]
    finally:
        resolver.close()
    assert asked == ["api.example.com."]
