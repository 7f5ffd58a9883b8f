"""What travels with clients: it opens for whom, where and what for it was made, on every replica, until it is over."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.sealed import LIFETIME, Purpose, Sealed, UnknownValueError
from gateway.model import Principal
from tests.mcp.world import World, answer_of, gateway
from tests.upstream.wire import Reader, Upstream, Writer, upstream

OLD, NEW = b"o" * 32, b"n" * 32
ANNA = Principal("user:dev/anna", ("agent:one",), "acme", "wf", 0, "bearer", "0" * 64)


@pytest.mark.parametrize("purpose", Purpose)
def test_a_value_comes_back_as_it_was_and_fits_into_a_header(purpose: Purpose) -> None:
    sealed = Sealed([OLD])
    for inner in ("x", "ü" * 300, {"a": [1, None]}, ""):
        text = sealed.seal(purpose, inner, server="ref", principal=ANNA, bound="tools/call")
        assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
        assert sealed.open(purpose, text, server="ref", principal=ANNA, bound="tools/call") == inner


def test_two_values_of_the_same_never_look_alike_and_say_nothing_of_what_is_inside() -> None:
    sealed = Sealed([OLD])
    texts = {sealed.seal(Purpose.TASK, "task-1", server="ref", principal=ANNA) for _ in range(100)}
    assert len(texts) == 100
    assert len({text[:4] for text in texts}) > 90  # no common beginning: nothing of it is a plain header


def test_keys_rotate_without_a_value_that_is_refused() -> None:
    before = Sealed([OLD])
    both_old, both_new = Sealed([OLD, NEW]), Sealed([NEW, OLD])
    after = Sealed([NEW])
    made_first = before.seal(Purpose.TASK, "t", server="ref", principal=ANNA)
    made_then = both_new.seal(Purpose.TASK, "t", server="ref", principal=ANNA)
    for replica in (both_old, both_new):
        assert replica.open(Purpose.TASK, made_first, server="ref", principal=ANNA) == "t"
        assert replica.open(Purpose.TASK, made_then, server="ref", principal=ANNA) == "t"
    assert after.open(Purpose.TASK, made_then, server="ref", principal=ANNA) == "t"
    with pytest.raises(UnknownValueError):
        after.open(Purpose.TASK, made_first, server="ref", principal=ANNA)


@pytest.mark.parametrize("purpose", Purpose)
def test_a_value_is_over_at_its_time_and_not_before(purpose: Purpose) -> None:
    now = [1000.0]
    sealed = Sealed([OLD], now=lambda: now[0])
    text = sealed.seal(purpose, "x", server="ref", principal=ANNA)
    now[0] += LIFETIME[purpose]
    assert sealed.open(purpose, text, server="ref", principal=ANNA) == "x"
    now[0] += 1
    with pytest.raises(UnknownValueError):
        sealed.open(purpose, text, server="ref", principal=ANNA)


def test_an_endpoint_before_several_servers_learns_which_one_a_value_is_for() -> None:
    sealed = Sealed([OLD])
    text = sealed.seal(Purpose.TASK, "t", server="ref", principal=ANNA)
    assert sealed.routed(Purpose.TASK, text, principal=ANNA) == ("ref", "t")


def test_a_mark_is_the_same_every_time_and_proves_one_saying_to_one_principal() -> None:
    sealed, rotated = Sealed([OLD]), Sealed([NEW, OLD])
    mark = sealed.mark(Purpose.QUESTION, "task-1", "confirm", principal=ANNA)
    assert mark == sealed.mark(Purpose.QUESTION, "task-1", "confirm", principal=ANNA)
    assert rotated.marked(mark, Purpose.QUESTION, "task-1", "confirm", principal=ANNA)
    assert not sealed.marked(mark, Purpose.QUESTION, "task-1", "other", principal=ANNA)
    assert not sealed.marked(mark, Purpose.QUESTION, "task-1confirm", principal=ANNA)
    assert not Sealed([NEW]).marked(mark, Purpose.QUESTION, "task-1", "confirm", principal=ANNA)


@pytest.mark.parametrize("keys", [[], [b"short"], [OLD] * 9])
def test_keys_that_cannot_be_used_are_refused_at_the_start(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="1 to 8 keys of 32 bytes"):
        Sealed(keys)


async def paging(there: Upstream, reader: Reader, writer: Writer) -> None:
    """Three tools, a page each; a cursor that is not its own is an error of its own."""
    while request := await there.request(reader):
        body = json.loads(request.partition(b"\r\n\r\n")[2])
        cursor = body["params"].get("cursor", "page:0")
        at = int(cursor.removeprefix("page:"))
        tool = {"name": f"tool{at}", "inputSchema": {"type": "object"}}
        result: dict[str, Any] = {"tools": [tool], "resultType": "complete"}
        if at < 2:
            result["nextCursor"] = f"page:{at + 1}"
        answer = json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))


async def test_pages_are_turned_at_two_gateways_that_share_nothing_but_their_keys(tmp_path: Path) -> None:
    sealed = {"sealed": Sealed([OLD])}
    async with (
        upstream(paging) as there,
        gateway(tmp_path / "a", {"ref": f"http://127.0.0.1:{there.port}/mcp"}, **sealed) as one,
        gateway(tmp_path / "b", {"ref": f"http://127.0.0.1:{there.port}/mcp"}, **sealed) as other,
    ):
        found: list[str] = []
        cursor: dict[str, str] = {}
        for world in (one, other, one):
            result = answer_of(await world.modern("anna", "tools/list", **cursor))["result"]
            found += [tool["name"] for tool in result["tools"]]
            cursor = {"cursor": result["nextCursor"]} if "nextCursor" in result else {}
            assert "page" not in str(cursor)
    assert found == ["tool0", "tool1", "tool2"]


async def test_a_session_goes_on_at_another_gateway_that_has_the_keys(tmp_path: Path, server_url: str) -> None:
    keys = Sealed([NEW, OLD])
    async with (
        gateway(tmp_path / "a", {"ref": server_url}, sealed=keys) as one,
        gateway(tmp_path / "b", {"ref": server_url}, sealed=Sealed([OLD, NEW])) as other,
        gateway(tmp_path / "c", {"ref": server_url}) as stranger,
    ):
        session = await one.handshake("anna")
        for world, status in ((one, 200), (other, 200), (stranger, 404)):
            assert (await listed(world, session)).status_code == status


async def listed(world: World, session: str) -> Any:
    return await world.legacy("anna", "tools/list", session=session)
