"""Attacks on what travels with clients: foreign, expired, changed and displaced values are all answered as unknown."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Principal
from tests.mcp.test_sealed import paging
from tests.mcp.world import World, answer_of, gateway, reference_server
from tests.upstream.wire import upstream

KEY = b"k" * 32
ANNA = Principal("user:dev/anna", ("agent:one",), "acme", "wf", 0, "bearer", "0" * 64)
OTHERS = [
    replace(ANNA, subject="user:dev/ben"),
    replace(ANNA, tenant="other"),
    replace(ANNA, actors=()),
    replace(ANNA, actors=("agent:two",)),
    replace(ANNA, actors=("agent:one", "agent:two")),
]


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("other", OTHERS)
def test_a_value_of_one_principal_is_unknown_for_every_other(purpose: Purpose, other: Principal) -> None:
    sealed = Sealed([KEY])
    text = sealed.seal(purpose, "secret", server="ref", principal=ANNA)
    with pytest.raises(UnknownValueError):
        sealed.open(purpose, text, server="ref", principal=other)


@pytest.mark.parametrize("purpose", Purpose)
def test_a_value_of_one_purpose_server_or_call_is_unknown_for_every_other(purpose: Purpose) -> None:
    sealed = Sealed([KEY])
    text = sealed.seal(purpose, "secret", server="ref", principal=ANNA, bound="tools/call\0a")
    for other in Purpose:
        if other is not purpose:
            with pytest.raises(UnknownValueError):
                sealed.open(other, text, server="ref", principal=ANNA, bound="tools/call\0a")
    for server, bound in (("other", "tools/call\0a"), ("ref", "tools/call\0b"), ("ref", "")):
        with pytest.raises(UnknownValueError):
            sealed.open(purpose, text, server=server, principal=ANNA, bound=bound)


def test_a_value_that_was_changed_anywhere_is_unknown_and_so_is_a_second_spelling() -> None:
    sealed = Sealed([KEY])
    text = sealed.seal(Purpose.TASK, "t", server="ref", principal=ANNA)
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    changed = [bytes((*raw[:at], raw[at] ^ 1, *raw[at + 1 :])) for at in range(len(raw))]
    texts = [base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in changed]
    texts += [text[:-4], text + "AAAA", text + "=", text + "\n", " " + text, text.replace("_", "/"), "", "ü", "A" * (1 << 20)]
    if len(text) % 4:  # the last letter has bits that mean nothing
        texts += [text[:-1] + letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"]
    for each in set(texts) - {text}:
        with pytest.raises(UnknownValueError):
            sealed.open(Purpose.TASK, each, server="ref", principal=ANNA)
    for no_text in (None, 7, [text], {"a": text}):
        with pytest.raises(UnknownValueError):
            sealed.open(Purpose.TASK, no_text, server="ref", principal=ANNA)


async def test_a_foreign_displaced_or_invented_cursor_never_reaches_the_server(tmp_path: Path) -> None:
    async with upstream(paging) as there:
        url = f"http://127.0.0.1:{there.port}/mcp"
        async with gateway(tmp_path, {"ref": url, "other": url}) as world:
            cursor = answer_of(await world.modern("anna", "tools/list"))["result"]["nextCursor"]
            before = len(there.requests)
            tried = [
                await world.modern("ben", "tools/list", cursor=cursor),
                await world.modern("anna", "tools/list", server="other", cursor=cursor),
                await world.modern("anna", "tools/list", cursor="page:2"),
                await world.modern("anna", "tools/list", cursor=cursor[:-2] + "AA"),
            ]
            assert len(there.requests) == before
    said = [answer_of(answer)["error"] for answer in tried]
    assert {error["code"] for error in said} == {-32602}
    assert len({error["message"] for error in said}) == 1


@pytest.fixture(scope="module")
def two_servers() -> object:
    with reference_server() as url:
        yield {"ref": url, "other": url}


async def test_token_b_with_session_a_is_answered_404_as_an_unknown_session(tmp_path: Path, two_servers: dict[str, str]) -> None:
    async with gateway(tmp_path, two_servers) as world:
        session = await world.handshake("anna")
        bodies = [await _status(world, "ben", session), await _status(world, "anna", session[:-2] + "AA")]
        assert await _status(world, "anna", session) == (200, "")
    assert bodies[0] == bodies[1]
    assert bodies[0][0] == 404


async def test_a_session_of_one_server_is_unknown_at_another(tmp_path: Path, two_servers: dict[str, str]) -> None:
    async with gateway(tmp_path, two_servers) as world:
        session = await world.handshake("anna")
        answer = await world.legacy("anna", "tools/list", server="other", session=session)
    assert answer.status_code == 404


async def _status(world: World, person: str, session: str) -> tuple[int, str]:
    answer = await world.legacy(person, "tools/list", session=session)
    return answer.status_code, answer_of(answer).get("error", {}).get("message", "")
