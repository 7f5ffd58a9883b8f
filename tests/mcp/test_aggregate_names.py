"""Names of the aggregate: short, plain, told apart, and the same whoever asks and whatever else there is."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.mcp.aggregate.naming import LONGEST, Names

SHOWN = re.compile(r"[A-Za-z0-9_-]{1,60}")
SLUGS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
OWN = st.one_of(
    st.text(st.sampled_from(string.ascii_lowercase[:3] + "_-."), min_size=1, max_size=70),
    st.text(min_size=1, max_size=256),
    st.from_regex(r"[ab_]{0,45}_[0-9a-f]{8}", fullmatch=True),
)
SERVERS = st.lists(SLUGS, min_size=1, max_size=4, unique=True)


@given(SERVERS, st.lists(OWN, min_size=1, max_size=6))
def test_every_name_is_short_and_plain_and_says_its_server(servers: list[str], own: list[str]) -> None:
    names = Names(servers)
    for server in servers:
        for name in own:
            shown = names.shown(server, name)
            assert SHOWN.fullmatch(shown)
            assert names.server(shown) == server
            assert names.name(shown) == name or (names.name(shown) == "" and names.digested(shown))


@given(SERVERS, st.lists(OWN, min_size=2, max_size=8, unique=True))
def test_two_tools_never_share_a_name(servers: list[str], own: list[str]) -> None:
    names = Names(servers)
    shown = [(names.shown(server, name), server, name) for server in servers for name in own]
    assert len({each for each, _, _ in shown}) == len(shown)
    for server in servers:
        assert names.of(server, own) == {names.shown(server, name): name for name in own}


@given(SERVERS, SLUGS, OWN)
def test_a_name_does_not_depend_on_what_else_there_is(servers: list[str], another: str, name: str) -> None:
    assume(another not in servers)
    assert Names(servers).shown(servers[0], name) == Names([another, *servers]).shown(servers[0], name)


@given(SERVERS, st.text(max_size=80))
def test_only_names_that_are_shown_lead_anywhere(servers: list[str], text: str) -> None:
    names = Names(servers)
    own = names.name(text)
    assert own == "" or names.shown(names.server(text), own) == text


@pytest.mark.parametrize("length", [53, 54, 55, 64, 128])
def test_a_name_is_cut_only_where_it_must_be(length: int) -> None:
    names, name = Names(["erp"]), "t" * length
    shown = names.shown("erp", name)
    assert len(shown) == min(length + len("erp__"), LONGEST)
    assert (names.name(shown) == name) is (length <= LONGEST - len("erp__"))


def test_servers_that_would_be_called_alike_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.naming._digest", lambda *_: "0" * 8)
    with pytest.raises(ValueError, match="rename"):
        Names(["a" * 30 + "x", "a" * 30 + "y"])


def test_names_whose_digests_meet_are_left_out_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    names, long = Names(["erp"]), "t" * 60
    monkeypatch.setattr("gateway.mcp.aggregate.naming._digest", lambda *_: "0" * 8)
    assert names.of("erp", [long + "1", "pay", long + "2"]) == {"erp__pay": "pay"}
