"""What a scope may be written as, and that an agent's own bounds whatever goes through it, however it came to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import terms_of
from gateway.problem import ProblemError
from gateway.scope import LONGEST, MOST, narrowed, parse, within, written
from gateway.settings import Agent
from tests.identity.conftest import URL, World, make_world


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "erp.read",
        "erp.*",
        "a2a:clerk",
        "a2a:*",
        "res:erp/*",
        "res:erp/file:///data/*",
        "prompt:erp/*",
        "task:*",
        "admin:kills",
        "profile:strict",
    ],
)
def test_what_rules_can_name_is_a_scope(text: str) -> None:
    assert parse(text) == (text,)


@pytest.mark.parametrize(
    "text",
    ["erp", "erp.re*", "erp.*.*", "set:open", "a2a-task:clerk", "nobody:x", " erp.read", "erp.read ", "a  b",
     "ERP.read", "erp.read\n", 'erp."x"', "erp.réad", "**", "res:erp/file:///a*", f"erp.{'x' * LONGEST}"],
)  # fmt: skip
def test_what_rules_cannot_name_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="a scope"):
        parse(text)


def test_a_scope_has_so_many_items_and_no_more() -> None:
    items = [f"erp.t{number}" for number in range(MOST + 1)]
    assert len(parse(" ".join(items[:MOST]))) == MOST
    with pytest.raises(ValueError, match="at most"):
        parse(" ".join(items))


def test_the_same_scopes_come_to_the_same_text() -> None:
    assert written(narrowed(("erp.read", "erp.*", "mail.send"))) == written(narrowed(("mail.send", "erp.*"))) == "erp.* mail.send"
    assert (written(None), written(())) == ("*", "")


@pytest.mark.parametrize("name", ["kills", "overview", "clerk", "ledger"])
def test_what_is_administered_or_an_agent_opens_no_server_of_the_same_name(name: str) -> None:
    assert not within(("admin:kills", "console:overview", "a2a:clerk", "audit:ledger"), name)


def test_a_settings_scope_that_no_rule_could_be_written_with_is_told() -> None:
    with pytest.raises(ProblemError) as caught:
        terms_of({"erp": Agent(scope=("erp.*", "all tools"))}, 60)
    assert caught.value.problems[0].location == "agents.erp.scope"


def bounded(world: World) -> Authenticator:
    """The world's authenticator, with an agent that may touch less than everything."""
    agents = world.agents | {"analyst": world.agents["analyst"].model_copy(update={"scope": ("erp.*", "a2a:erp")})}
    return Authenticator(
        tenant="acme", public_url=URL, issuers=(world.issuer.settings(),), agents=agents, delegations=world.delegations,
        clock=world.clock, monotonic=world.clock.monotonic,
    )  # fmt: skip


async def test_an_agents_scope_bounds_a_persons_plain_token_in_its_hands(tmp_path: Path) -> None:
    """Else an agent would only have to leave out the delegation to be unbounded."""
    world = make_world(tmp_path)
    world.authenticator = bounded(world)
    held = await world.bearer(world.issuer.issue("paul", ["procurement-managers"], client_id="analyst-app"))
    assert (held.actors, held.scope) == (("agent:analyst",), ("a2a:erp", "erp.*"))
    assert (await world.bearer(world.secrets["analyst"])).scope == ("a2a:erp", "erp.*")  # the service that it is
    assert (await world.paul()).scope is None  # the person's own hands


async def test_whoever_comes_after_a_bounded_agent_is_bounded_too(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.authenticator = bounded(world)
    held = await world.bearer(world.issuer.issue("paul", ["procurement-managers"], client_id="analyst-app"))
    token = world.delegations.mint(held, "erp", "call")
    assert (await world.bearer(world.secrets["erp"], token)).scope == ("a2a:erp", "erp.*")
    wide = world.delegations.mint(await world.paul(), "analyst", "call")  # of a time before the settings changed
    assert (await world.bearer(world.secrets["analyst"], wide)).scope == ("a2a:erp", "erp.*")
