"""Directories: who somebody is now, by SCIM on a real socket or by a file; what is not said exactly is no permission."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.identity.asking import asking
from gateway.identity.directory import FileDirectory, Person, ScimDirectory, read_people
from gateway.model import Refused
from gateway.problem import ProblemError
from gateway.reasons import Code
from gateway.upstream.client import Upstreams
from tests.identity.provider import Answer, Asked, Provider, provider

NOBODY = Person(frozenset(), active=False)


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scim:
    """A SCIM 2.0 service (RFC 7644) of some people, which compares names without regard to case, as some do."""

    def __init__(self, at: Provider) -> None:
        self.at = at
        self.users: list[dict[str, object]] = []
        self.groups: dict[str, list[str]] = {}
        at.routes["/scim/Users"] = self.search
        at.routes["/scim/Groups"] = self.memberships

    def add(self, user_id: str, external: str | None = None, **more: object) -> None:
        user = {"id": user_id, "externalId": external, "active": True, "groups": []} | more
        self.users.append({k: v for k, v in user.items() if v is not None})
        self.at.routes[f"/scim/Users/{user_id}"] = lambda _: (200, self.users[-1])

    def search(self, asked: Asked) -> Answer:
        wanted = asked.query["filter"].removeprefix('externalId eq "').removesuffix('"').lower()
        return listed([user for user in self.users if str(user.get("externalId", "")).lower() == wanted])

    def memberships(self, asked: Asked) -> Answer:
        wanted = asked.query["filter"].removeprefix('members.value eq "').removesuffix('"')
        return listed([{"id": f"id-{name}", "displayName": name} for name, ids in self.groups.items() if wanted in ids])


def listed(resources: list[dict[str, object]]) -> Answer:
    schema = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
    return 200, {"schemas": [schema], "totalResults": len(resources), "Resources": resources}


@pytest.fixture
async def scim() -> AsyncIterator[Scim]:
    async with provider() as it:
        yield Scim(it)


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    it = Upstreams()
    yield it
    await it.aclose()


def directory(scim: Scim, upstreams: Upstreams, time: Time | None = None, **changes: object) -> ScimDirectory:
    ask = asking(upstreams, private=True)
    return ScimDirectory(f"{scim.at.url}/scim/", "s3cret", ask, 60, monotonic=time or Time(), **changes)  # type: ignore[arg-type]


def member(name: str) -> dict[str, str]:
    return {"value": f"id-{name}", "display": name}


async def test_a_person_is_found_by_external_id_and_the_service_sees_who_asks(scim: Scim, upstreams: Upstreams) -> None:
    scim.add("2819c223", "paul", groups=[member("buyers"), member("staff")])
    assert await directory(scim, upstreams).look("paul") == Person(frozenset({"buyers", "staff"}), active=True)
    asked = scim.at.asked[-1]
    assert asked.headers["authorization"] == "Bearer s3cret"
    assert asked.query["filter"] == 'externalId eq "paul"'


async def test_a_person_is_found_by_id_where_no_external_id_is_theirs(scim: Scim, upstreams: Upstreams) -> None:
    scim.add("2819c223", None, groups=[member("buyers")])
    assert await directory(scim, upstreams).look("2819c223") == Person(frozenset({"buyers"}), active=True)


async def test_groups_are_named_as_the_settings_say_and_never_both_ways(scim: Scim, upstreams: Upstreams) -> None:
    scim.add("1", "paul", groups=[{"value": "g-1", "display": "g-2"}])
    assert (await directory(scim, upstreams).look("paul")).groups == {"g-2"}
    assert (await directory(scim, upstreams, named="value").look("paul")).groups == {"g-1"}


async def test_where_a_user_does_not_tell_their_groups_the_groups_are_asked(scim: Scim, upstreams: Upstreams) -> None:
    scim.add("1", "paul", groups=None)
    scim.groups = {"buyers": ["1"], "staff": ["1", "2"], "others": ["2"]}
    assert (await directory(scim, upstreams).look("paul")).groups == {"buyers", "staff"}
    assert (await directory(scim, upstreams, named="value").look("paul")).groups == {"id-buyers", "id-staff"}
    del scim.at.routes["/scim/Groups"]
    with pytest.raises(Refused, match="who is in which group"):
        await directory(scim, upstreams).look("paul")


@pytest.mark.parametrize("active", [False, None, "true", 1])
async def test_an_account_that_is_not_plainly_active_is_nobody(scim: Scim, upstreams: Upstreams, active: object) -> None:
    scim.add("1", "paul", groups=[member("buyers")], active=active)
    assert await directory(scim, upstreams).look("paul") == NOBODY


async def test_whom_the_directory_does_not_know_is_nobody(scim: Scim, upstreams: Upstreams) -> None:
    assert await directory(scim, upstreams).look("ghost") == NOBODY
    assert await directory(scim, upstreams).look("a b/../c") == NOBODY
    assert "/scim/Users/a b/../c" not in {asked.path for asked in scim.at.asked}


@pytest.mark.parametrize("sub", ['x" or active eq "true', "x\\", "x\n", '"'])
async def test_a_name_cannot_change_the_question(scim: Scim, upstreams: Upstreams, sub: str) -> None:
    scim.add("1", "paul", groups=[member("buyers")])
    with pytest.raises(Refused):
        await directory(scim, upstreams).look(sub)
    assert scim.at.asked == []


async def test_a_service_that_is_not_exact_about_names_hands_out_nobody_else(scim: Scim, upstreams: Upstreams) -> None:
    scim.add("1", "paul", groups=[member("root")])
    with pytest.raises(Refused, match="somebody else"):
        await directory(scim, upstreams).look("PAUL")
    scim.at.routes["/scim/Users"] = lambda _: listed([])
    scim.at.tell("/scim/Users/mia", {"id": "paul", "active": True, "groups": [member("root")]})
    with pytest.raises(Refused, match="somebody else"):
        await directory(scim, upstreams).look("mia")


async def test_two_people_of_one_name_are_not_looked_into(scim: Scim, upstreams: Upstreams) -> None:
    scim.add("1", "paul")
    scim.add("2", "paul")
    with pytest.raises(Refused, match="two people"):
        await directory(scim, upstreams).look("paul")


GOOD = {"id": "1", "externalId": "paul", "active": True, "groups": []}
BAD_ANSWERS: dict[str, Answer] = {
    "401": (401, {}),
    "500": (500, {"totalResults": 1, "Resources": [GOOD]}),
    "302": (302, {"totalResults": 1, "Resources": [GOOD]}),
    "no JSON": (200, b"{"),
    "a list": (200, [GOOD]),
    "no total": (200, {"Resources": [GOOD]}),
    "total as text": (200, {"totalResults": "1", "Resources": [GOOD]}),
    "total as true": (200, {"totalResults": True, "Resources": [GOOD]}),
    "a part of them": (200, {"totalResults": 2, "Resources": [GOOD]}),
    "resources no list": (200, {"totalResults": 1, "Resources": GOOD}),
    "a resource no object": (200, {"totalResults": 1, "Resources": ["paul"]}),
    "groups as text": (200, {"totalResults": 1, "Resources": [GOOD | {"groups": "buyers"}]}),
    "a group as text": (200, {"totalResults": 1, "Resources": [GOOD | {"groups": ["buyers"]}]}),
    "a group without a name": (200, {"totalResults": 1, "Resources": [GOOD | {"groups": [{"value": "1"}]}]}),
    "a group's name with a newline": (200, {"totalResults": 1, "Resources": [GOOD | {"groups": [{"display": "a\nb"}]}]}),
    "too many groups": (200, {"totalResults": 1, "Resources": [GOOD | {"groups": [{"display": f"g{n}"} for n in range(2001)]}]}),
    "twice a member": (200, b'{"totalResults": 1, "totalResults": 0, "Resources": []}'),
    "too large": (200, b'{"totalResults": 0, "a": "' + b"a" * 1_100_000 + b'"}'),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_answer_that_does_not_say_it_exactly_says_nothing(scim: Scim, upstreams: Upstreams, answer: Answer) -> None:
    scim.at.routes["/scim/Users"] = lambda _: answer
    with pytest.raises(Refused) as caught:
        await directory(scim, upstreams).look("paul")
    assert caught.value.code is Code.INVALID_CREDENTIAL


async def test_a_service_that_cannot_be_reached_is_a_refusal_even_of_whom_it_knew(scim: Scim, upstreams: Upstreams) -> None:
    time = Time()
    scim.add("1", "paul", groups=[member("buyers")])
    people = directory(scim, upstreams, time)
    await people.look("paul")
    scim.at.tell("/scim/Users", {}, 503)
    time.now += 59
    assert (await people.look("paul")).active
    time.now += 1
    with pytest.raises(Refused, match="503"):
        await people.look("paul")


async def test_however_many_ask_the_service_is_asked_once_a_minute(scim: Scim, upstreams: Upstreams) -> None:
    time = Time()
    scim.add("1", "paul", groups=[member("buyers")])
    people = directory(scim, upstreams, time)
    await asyncio.gather(*(people.look("paul") for _ in range(50)))
    assert scim.at.count("/scim/Users") == 1
    time.now += 60
    await people.look("paul")
    assert scim.at.count("/scim/Users") == 2


async def test_invented_people_do_not_make_more_than_so_many_questions_at_a_time(scim: Scim, upstreams: Upstreams) -> None:
    scim.at.gate = asyncio.Event()
    people = directory(scim, upstreams)
    asked = [asyncio.create_task(people.look(f"p{n}")) for n in range(33)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert [task.exception().code for task in done] == [Code.OVERLOADED]  # type: ignore[union-attr]
    await people.close()
    await asyncio.gather(*asked, return_exceptions=True)
    scim.at.gate.set()


def write(path: Path, text: str) -> None:
    aside = path.with_suffix(".aside")
    aside.write_text(text)
    aside.replace(path)


async def test_a_file_of_people_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path, time = tmp_path / "people.yaml", Time()
    write(path, "paul: {groups: [buyers], active: true}\nmia: {groups: [], active: false}\n")
    people = FileDirectory(path, time)
    assert await people.look("paul") == Person(frozenset({"buyers"}), active=True)
    assert not (await people.look("mia")).active
    assert await people.look("ghost") == NOBODY
    write(path, "paul: {groups: [buyers], active: false}\n")
    time.now += 1
    assert not (await people.look("paul")).active


async def test_while_the_file_is_broken_or_gone_nobody_is_known_and_that_is_a_refusal(tmp_path: Path) -> None:
    path, time = tmp_path / "people.yaml", Time()
    write(path, "paul: {groups: [buyers], active: true}\n")
    people = FileDirectory(path, time)
    write(path, "paul: {groups: [buyers], active: maybe}\n")
    time.now += 1
    for _ in range(2):
        with pytest.raises(Refused, match="not as it should be"):
            await people.look("paul")
        time.now += 1
    path.unlink()
    with pytest.raises(Refused):
        await people.look("paul")
    write(path, "paul: {groups: [buyers], active: true}\n")
    time.now += 1
    assert (await people.look("paul")).active


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("paul: {groups: [a], active: true}\npaul: {groups: [b], active: true}\n", ":2:1"),
        ("a: {groups: [a], active: true}\nb: {groups: a, active: true}\n", ":2:1"),
        ("a: {groups: [a]}\n", ":1:1"),
        ("a: {groups: [1], active: true}\n", ":1:1"),
        ("a: {groups: [a], active: 'true'}\n", ":1:1"),
        ("a: {groups: [a], active: true, admin: true}\n", ":1:1"),
        ("a: {groups: [' a'], active: true}\n", ":1:1"),
        ("- a\n", ""),
        ("a: [\n", ":"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place_when_the_gateway_starts(text: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "people.yaml"
    path.write_text(text)
    with pytest.raises(ProblemError) as caught:
        FileDirectory(path)
    assert f"{path}{where}" in str(caught.value)


def test_a_file_that_is_missing_not_text_or_too_large_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="No such file"):
        FileDirectory(tmp_path / "nothing.yaml")
    with pytest.raises(ProblemError, match="UTF-8"):
        read_people(b"\xff", tmp_path)
    with pytest.raises(ProblemError, match="larger"):
        read_people(b" " * (1024 * 1024 + 1), tmp_path)
