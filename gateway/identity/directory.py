"""Who somebody is now: their present groups, and whether their account still stands.  A SCIM 2.0 service (RFC 7644), or a file.

A directory that does not answer, or not about exactly one person, has said nothing, and nothing is no permission.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote, urlencode

from gateway import located_yaml
from gateway.identity.asking import Ask
from gateway.identity.renewal import SourceError
from gateway.identity.strictjson import loads
from gateway.identity.token import is_text
from gateway.model import Refused, UpstreamError
from gateway.problem import Problem, ProblemError
from gateway.reasons import Code

MAX_GROUPS = 2000
MAX_PEOPLE = 10_000
MAX_REMEMBERED = 4096
MAX_ASKED = 32
MAX_FILE_BYTES = 1024 * 1024
MAX_DEPTH = 16
LOOK_SECONDS = 1.0
LOOK_UP_SECONDS = 10.0

_SCIM = b"application/scim+json"
_ID = re.compile(r"[A-Za-z0-9._~@:+-]{1,255}")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody as the directory knows them now.  Whom it does not know has no account: not active, no groups."""

    groups: frozenset[str]
    active: bool


NOBODY = Person(frozenset(), active=False)


class DirectoryError(SourceError):
    """The directory said nothing that could be used; the text repeats nothing of what it said."""


class Directory(Protocol):
    """Where people are looked up."""

    async def look(self, sub: str) -> Person:
        """The person whom the issuer calls `sub`; `Refused(INVALID_CREDENTIAL)` where that cannot be established."""

    async def close(self) -> None:
        """End what is being asked."""


def _unknown(reason: str) -> Refused:
    return Refused(Code.INVALID_CREDENTIAL, f"the directory cannot be asked: {reason}")


class ScimDirectory:
    """People of a SCIM service, found by `externalId`, else by `id`; each answer counts for `seconds`."""

    def __init__(
        self,
        url: str,
        token: str,
        ask: Ask,
        seconds: int,
        *,
        named: Literal["display", "value"] = "display",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`token` is its bearer token, "" where it wants none; `named` says which member of a group is its name here."""
        self._base = url.rstrip("/")
        self._headers = ((b"authorization", b"Bearer " + token.encode("latin-1")),) if token else ()
        self._ask = ask
        self._seconds = seconds
        self._named = named
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[Person, float]] = OrderedDict()
        self._flights: dict[str, asyncio.Task[Person | str]] = {}

    async def look(self, sub: str) -> Person:
        """See `Directory`."""
        known = self._known.get(sub)
        if known is not None and 0 <= self._monotonic() - known[1] < self._seconds:
            self._known.move_to_end(sub)
            return known[0]
        flight = self._flights.get(sub)
        if flight is None:
            if len(self._flights) >= MAX_ASKED:
                raise Refused(Code.OVERLOADED, "too many people are being looked up")
            flight = self._flights[sub] = asyncio.create_task(self._looked(sub), name="directory")
        found = await asyncio.shield(flight)
        if isinstance(found, str):
            raise _unknown(found)
        return found

    async def close(self) -> None:
        """See `Directory`."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _looked(self, sub: str) -> Person | str:
        """The person, or why nobody knows; kept for a while where it is a person."""
        began = self._monotonic()
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                person = await self._find(sub)
        except (SourceError, UpstreamError) as error:
            return str(error)
        except OSError as error:
            return type(error).__name__
        finally:
            del self._flights[sub]
        self._known[sub] = (person, began)
        self._known.move_to_end(sub)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return person

    async def _find(self, sub: str) -> Person:
        if '"' in sub or "\\" in sub or not sub.isprintable():
            msg = "the name cannot be asked for"
            raise DirectoryError(msg)
        wanted = {"attributes": "id,externalId,active,groups", "count": "2"}
        listed = await self._get("Users?" + urlencode({"filter": f'externalId eq "{sub}"', **wanted}, quote_via=quote))
        users = [] if listed is None else _resources(listed)
        if len(users) > 1:
            msg = "two people have that externalId"
            raise DirectoryError(msg)
        if users:
            if users[0].get("externalId") != sub:  # a service that compares as it likes must not hand out somebody else
                msg = "it answered about somebody else"
                raise DirectoryError(msg)
            return await self._person(users[0])
        if _ID.fullmatch(sub) is None or sub in {".", ".."}:
            return NOBODY
        user = await self._get(f"Users/{quote(sub, safe='')}?" + urlencode({"attributes": "id,active,groups"}))
        if user is None:
            return NOBODY
        if user.get("id") != sub:
            msg = "it answered about somebody else"
            raise DirectoryError(msg)
        return await self._person(user)

    async def _person(self, user: Mapping[str, object]) -> Person:
        if user.get("active") is not True:  # what is unassigned has not been said
            return NOBODY
        groups = user.get("groups")
        if groups is None:  # RFC 7643 §2.5: it may be left out because there are none, or because nobody looked
            groups = await self._memberships(user.get("id"))
            member = "displayName" if self._named == "display" else "id"
        else:
            member = self._named
        if not isinstance(groups, list) or len(groups) > MAX_GROUPS:
            msg = f"groups are not a list of at most {MAX_GROUPS}"
            raise DirectoryError(msg)
        names = [group.get(member) if isinstance(group, dict) else None for group in groups]
        if not all(is_text(name) for name in names):
            msg = f"a group has no {member}"
            raise DirectoryError(msg)
        return Person(frozenset(str(name) for name in names), active=True)

    async def _memberships(self, user_id: object) -> list[dict[str, object]]:
        if not isinstance(user_id, str) or _ID.fullmatch(user_id) is None:
            msg = "a user has no id"
            raise DirectoryError(msg)
        query = {"filter": f'members.value eq "{user_id}"', "attributes": "id,displayName", "count": str(MAX_GROUPS + 1)}
        listed = await self._get("Groups?" + urlencode(query, quote_via=quote))
        if listed is None:
            msg = "it does not say who is in which group"
            raise DirectoryError(msg)
        return _resources(listed)

    async def _get(self, target: str) -> dict[str, object] | None:
        status, body = await self._ask(f"{self._base}/{target}", ((b"accept", _SCIM), *self._headers), None)
        if status == 404:
            return None
        if status != 200:
            msg = f"it answers {status}"
            raise DirectoryError(msg)
        try:
            document = loads(body, MAX_DEPTH)
        except ValueError as error:
            msg = f"its answer is {error}"
            raise DirectoryError(msg) from None
        if not isinstance(document, dict):
            msg = "its answer is no object"
            raise DirectoryError(msg)
        return document


def _resources(listed: Mapping[str, object]) -> list[dict[str, object]]:
    """The resources of a ListResponse (RFC 7644 §3.4.2) that holds all there are; a part of them is not an answer."""
    total, resources = listed.get("totalResults"), listed.get("Resources", [])
    if type(total) is not int or not isinstance(resources, list) or not all(isinstance(each, dict) for each in resources):
        msg = "its answer is no list of resources"
        raise DirectoryError(msg)
    if total != len(resources):
        msg = "it tells a part of the resources only"
        raise DirectoryError(msg)
    return resources


class FileDirectory:
    """People of a YAML file, `<sub>: {groups: [...], active: true}`; looked at once a second, read again when it changes."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Reads it at once; ProblemError with its place for a file that is no directory."""
        self._path = path
        self._monotonic = monotonic
        self._looked = monotonic()
        self._failure = ""
        self._seen: Seen | None
        self._seen, self._people = _look(path, None, {})

    async def look(self, sub: str) -> Person:
        """See `Directory`.  While the file is broken nobody is known, and that is refused."""
        now = self._monotonic()
        if not 0 <= now - self._looked < LOOK_SECONDS:
            self._looked = now
            try:
                self._seen, self._people = await asyncio.to_thread(_look, self._path, self._seen, self._people)
                self._failure = ""
            except ProblemError as error:
                self._seen, self._failure = None, str(error.problems[0].location)
        if self._failure:
            raise _unknown(f"{self._failure} is not as it should be")
        return self._people.get(sub, NOBODY)

    async def close(self) -> None:
        """See `Directory`."""


Seen = tuple[int, int, int]


def _look(path: Path, seen: Seen | None, people: Mapping[str, Person]) -> tuple[Seen, Mapping[str, Person]]:
    try:
        status = path.stat()
        now = (status.st_mtime_ns, status.st_size, status.st_ino)
        if now == seen:
            return now, people
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ProblemError(Problem("unreadable-file", error.strerror or type(error).__name__, str(path))) from error
    return now, read_people(data, path)


def read_people(data: bytes, path: Path) -> dict[str, Person]:
    """The people of a directory's file; ProblemError with every mistake and its place."""
    if len(data) > MAX_FILE_BYTES:
        raise ProblemError(Problem("too-large", f"larger than {MAX_FILE_BYTES} bytes", str(path)))
    try:
        document = located_yaml.parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ProblemError(Problem("not-utf8", "not UTF-8 text", str(path))) from error
    problems = [
        Problem(fault.code, fault.message, f"{path}:{fault.mark.line}:{fault.mark.column}", fault.help)
        for fault in document.faults
    ]
    people: dict[str, Person] = {}
    entries = document.value
    if not isinstance(entries, dict) or len(entries) > MAX_PEOPLE:
        help_ = "write a line for each: `8f14e45f: {groups: [buyers], active: true}`"
        problems.append(Problem("wrong-type", f"a directory maps at most {MAX_PEOPLE} people", str(path), help_))
        entries = {}
    for sub, entry in entries.items():
        person = _entry(entry)
        if person is None or not is_text(sub):
            mark = document.keys[sub,]
            help_ = f"write {sub}: {{groups: [buyers], active: true}}"
            message = f"a person has a list of at most {MAX_GROUPS} groups, and active: true or false"
            problems.append(Problem("wrong-type", message, f"{path}:{mark.line}:{mark.column}", help_))
        else:
            people[sub] = person
    if problems:
        raise ProblemError(*problems)
    return people


def _entry(entry: object) -> Person | None:
    if not isinstance(entry, dict) or entry.keys() != {"groups", "active"}:
        return None
    groups, active = entry["groups"], entry["active"]
    if not isinstance(active, bool) or not isinstance(groups, list) or len(groups) > MAX_GROUPS:
        return None
    return Person(frozenset(map(str, groups)), active=active) if all(is_text(group) for group in groups) else None
