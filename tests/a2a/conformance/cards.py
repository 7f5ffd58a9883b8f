"""The agent card (A2A 1.0 §8, §4.4): found below the agent's own URL, whole, and true of what is served."""

from __future__ import annotations

import re
from typing import Any

from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]  # protobuf ships no stubs

from tests.a2a.conformance.verdicts import WIRES, check
from tests.a2a.conformance.wires import Wire

ONE = ("JSONRPC",)
"""Asked once: the card is no binding's."""
ALL = ("full", "minimal", "auth")


async def fetched(wire: Wire, **headers: str) -> Any:
    place = f"{wire.side.url.rstrip('/')}/.well-known/agent-card.json"
    sent = wire.headers | {name.replace("_", "-"): value for name, value in headers.items()}
    return await wire.http.get(place, headers=sent)


@check(bindings=ONE, kinds=ALL)
async def a_card_stands_below_the_url_of_its_agent(wire: Wire) -> None:
    answer = await fetched(wire)
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == "application/json"


@check(bindings=ONE, kinds=ALL)
async def a_card_has_every_member_that_it_must_have(wire: Wire) -> None:
    card = ParseDict(wire.card, pb.AgentCard(), ignore_unknown_fields=False)
    assert card.name
    assert card.description
    assert card.version
    assert card.supported_interfaces
    assert card.default_input_modes
    assert card.default_output_modes
    assert card.skills
    assert all(skill.id and skill.name and skill.description and skill.tags for skill in card.skills)
    assert all(each.url and each.protocol_binding and each.protocol_version for each in card.supported_interfaces)


@check(bindings=ONE, kinds=ALL)
async def a_card_can_be_kept_and_asked_for_again(wire: Wire) -> None:
    first = await fetched(wire)
    assert first.headers["etag"]
    assert re.search(r"max-age=[1-9]\d*", first.headers["cache-control"])


@check(bindings=ONE, kinds=("full",))
async def a_card_that_is_the_same_is_not_sent_again(wire: Wire) -> None:
    etag = (await fetched(wire)).headers["etag"]
    again = await fetched(wire, if_none_match=etag)
    assert (again.status_code, again.content) == (304, b"")


@check(kinds=ALL)
async def an_interface_of_the_card_is_served_as_it_says(wire: Wire) -> None:
    (mine,) = (each for each in wire.card["supportedInterfaces"] if each["protocolBinding"] == wire.binding)
    assert mine["protocolVersion"] == "1.0"
    assert (await wire.task("tck-complete-task"))["status"]["state"] == "TASK_STATE_COMPLETED"


@check(bindings=ONE, kinds=ALL)
async def every_binding_has_an_interface(wire: Wire) -> None:
    assert {each["protocolBinding"] for each in wire.card["supportedInterfaces"]} == WIRES.keys()


@check(kinds=("full", "minimal"))
async def what_a_card_says_of_streams_is_true(wire: Wire) -> None:
    async with wire.stream("SendStreamingMessage", wire.message("tck-stream-artifact-text")) as stream:
        assert bool([event async for event in stream.events]) == bool(wire.card["capabilities"].get("streaming"))


@check(kinds=("full", "minimal"))
async def what_a_card_says_of_webhooks_is_true(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    answer = await wire.ask("ListTaskPushNotificationConfigs", {"taskId": task["id"]})
    assert (answer.error is None) == bool(wire.card["capabilities"].get("pushNotifications"))


@check(bindings=ONE, kinds=("auth",))
async def a_card_says_what_credential_is_wanted(wire: Wire) -> None:
    card = ParseDict(wire.card, pb.AgentCard())
    wanted = {name for each in card.security_requirements for name in each.schemes}
    assert wanted
    assert wanted <= set(card.security_schemes)
    assert card.security_schemes["bearer"].http_auth_security_scheme.scheme.lower() == "bearer"


@check(kinds=("full",))
async def an_extended_card_shows_more_skills_than_the_public_one(wire: Wire) -> None:
    assert wire.card["capabilities"]["extendedAgentCard"] is True
    answer = await wire.ask("GetExtendedAgentCard", {})
    assert answer.error is None, answer.whole
    shown, public = ({skill["id"] for skill in card["skills"]} for card in (answer.result, wire.card))
    assert shown == public | {"secret"}
    assert answer.result["name"] == wire.card["name"]
    assert [each["url"] for each in answer.result["supportedInterfaces"]] == [
        each["url"] for each in wire.card["supportedInterfaces"]
    ]
