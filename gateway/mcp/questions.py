"""What a server may ask a client, in either era, and what must be true of it whatever policy says (sans-I/O).

Later than a rule here nobody decides: policy may forbid a question that keeps them, and never allow one that does not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.mcp.methods import TASKS
from gateway.model import Refused
from gateway.reasons import Code

SAMPLE: Final = "sampling/createMessage"
ELICIT: Final = "elicitation/create"
ROOTS: Final = "roots/list"
METHODS: Final = frozenset({SAMPLE, ELICIT, ROOTS})
SAMPLING, FORM, URL, FOLDERS = "sampling", "elicitation.form", "elicitation.url", "roots"
"""What a client declares, in the words of `Call.declared`."""
TOOLS: Final = "sampling.tools"
"""That the model which is asked can be given tools."""
LATER: Final = "tasks"
"""That it may get a task instead of a result."""
_OBJECTS: Final = {
    SAMPLING: ("create", "sampling:{}"),
    FORM: ("form", "elicitation:{}"),
    URL: ("url", "elicitation:{}"),
    FOLDERS: ("read", "roots:{}"),
}
METHOD_OF: Final = {SAMPLING: SAMPLE, FORM: ELICIT, URL: ELICIT, FOLDERS: ROOTS}
_ACTIONS: Final = frozenset({"accept", "decline", "cancel"})
_LONGEST_URL: Final = 2048
_LONGEST_MESSAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one server's questions.

    max_tokens  the most that it may have sampled; url_hosts: where it may send people, exact names.
    """

    max_tokens: int = 4096
    url_hosts: frozenset[str] = frozenset()


class Question(msgspec.Struct, frozen=True, gc=False):
    """One question: its method and parameters as the server gave them, and what a client must have declared for it."""

    method: str
    params: dict[str, Any]
    needs: str

    def asked(self, server: str) -> tuple[str, str]:
        """(action, object) that policy is asked about."""
        return object_of(self.needs, server)


def object_of(needs: str, server: str) -> tuple[str, str]:
    """(action, object) of one kind of question."""
    action, form = _OBJECTS[needs]
    return action, form.format(server)


def question(method: object, params: object) -> Question:
    """What a server asks; `Refused(QUESTION_REFUSED)` for what is no question, or none that is known."""
    params = {} if params is None else params
    if not isinstance(method, str) or method not in METHODS or not isinstance(params, dict):
        raise _refused("not a question that is known")
    if method == SAMPLE:
        return Question(method, params, SAMPLING)
    if method == ROOTS:
        return Question(method, params, FOLDERS)
    mode = params.get("mode", "form")
    if mode not in {"form", "url"}:
        raise _refused("an elicitation of an unknown mode")
    return Question(method, params, URL if mode == "url" else FORM)


def kept(found: Question, rules: Rules, server: str) -> dict[str, Any]:
    """Its parameters as the client may see them; `Refused(QUESTION_REFUSED)` where a rule is broken."""
    params = {key: value for key, value in found.params.items() if key != "task"}  # tasks of clients are offered to nobody
    if found.needs == SAMPLING:
        return _sampling(params, rules)
    if found.needs == FOLDERS:
        return params
    message = params.get("message")
    if not isinstance(message, str):
        raise _refused("an elicitation without a message")
    if found.needs == FORM:
        _no_secret(message, params.get("requestedSchema"))
    else:
        _safe_url(params.get("url"), rules)
    return {**params, "message": f"{server} asks: {message[:_LONGEST_MESSAGE]}"}


def _sampling(params: dict[str, Any], rules: Rules) -> dict[str, Any]:
    tokens = params.get("maxTokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1 or not isinstance(params.get("messages"), list):
        raise _refused("sampling without messages and maxTokens")
    said = {**params, "maxTokens": min(tokens, rules.max_tokens)}
    if "includeContext" in said:  # what other servers told the client is nothing of this one's
        said["includeContext"] = "none"
    return said


_WORD: Final = re.compile(r"[a-z]+|[0-9]+")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_ALWAYS: Final = frozenset(
    {
        "password", "passwords", "passwd", "passphrase", "passcode", "passwort", "kennwort", "secret", "secrets", "credential",
        "credentials", "apikey", "cvv", "cvc", "cvv2", "otp", "totp", "ssn", "mnemonic", "iban", "pin", "pwd",
    }
)  # fmt: skip
_PAIRS: Final = frozenset(
    {
        ("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("ssh", "key"), ("signing", "key"),
        ("access", "token"), ("auth", "token"), ("refresh", "token"), ("bearer", "token"), ("api", "token"), ("session", "token"),
        ("id", "token"), ("security", "token"), ("session", "cookie"), ("card", "number"), ("credit", "card"), ("debit", "card"),
        ("security", "code"), ("verification", "code"), ("recovery", "code"), ("recovery", "phrase"), ("seed", "phrase"),
        ("time", "code"), ("mfa", "code"), ("2", "fa"), ("social", "security"), ("account", "number"), ("pass", "word"),
    }
)  # fmt: skip
_INVISIBLE: Final = frozenset({"Cf", "Mn", "Cc"})


def _no_secret(message: str, schema: object) -> None:
    """A form is seen by client and model; the specification has secrets asked for by URL alone."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or len(properties) > 64:
        raise _refused("a form without fields")
    for text in (message, *_texts(properties)):
        if secretive(text):
            raise _refused("a form that asks for a secret")


def _texts(properties: Mapping[str, Any]) -> Iterator[str]:
    for name, field in properties.items():
        yield name
        if not isinstance(field, dict):
            raise _refused("a form with a field that is none")
        for key in ("title", "description", "format"):
            if isinstance(field.get(key), str):
                yield field[key]


def secretive(text: str) -> bool:
    """Whether a text speaks of a secret, spelled plainly, in camels, with marks, or with letters that nobody sees."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) not in _INVISIBLE)
    words = _WORD.findall(_HUMP.sub(" ", plain).lower())
    pairs = pairwise(words)
    return any(word in _ALWAYS for word in words) or any(pair in _PAIRS for pair in pairs)


def _safe_url(url: object, rules: Rules) -> None:
    """https, a host that is listed, and one reading of where it leads."""
    if not isinstance(url, str) or len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable():
        raise _refused("an elicitation without an address")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("an elicitation without an address") from None
    if parts.scheme != "https" or "@" in parts.netloc or "\\" in url or " " in url or port not in {None, 443}:
        raise _refused("an elicitation that leads elsewhere than to https")
    if (parts.hostname or "") not in rules.url_hosts:
        raise _refused("an elicitation that leads to a host that is not listed")


def declared(capabilities: object) -> frozenset[str]:
    """What a client that declares these may be asked."""
    if not isinstance(capabilities, dict):
        return frozenset()
    found = {name for name in (SAMPLING, FOLDERS) if isinstance(capabilities.get(name), dict)}
    if SAMPLING in found and isinstance(capabilities["sampling"].get("tools"), dict):
        found.add(TOOLS)
    ways = capabilities.get("elicitation")
    if isinstance(ways, dict):
        if isinstance(ways.get("form"), dict) or not isinstance(ways.get("url"), dict):
            found.add(FORM)  # an empty object is how older clients say it
        if isinstance(ways.get("url"), dict):
            found.add(URL)
    extensions = capabilities.get("extensions")
    if isinstance(extensions, dict) and TASKS in extensions:
        found.add(LATER)
    return frozenset(found)


def declaring(declared: AbstractSet[str]) -> dict[str, Any]:
    """The capabilities by which a client says this: how a session is told what its client said when it began."""
    said: dict[str, Any] = {}
    if SAMPLING in declared:
        said["sampling"] = {"tools": {}} if TOOLS in declared else {}
    if declared & {FORM, URL}:
        said["elicitation"] = {way.rpartition(".")[2]: {} for way in (FORM, URL) if way in declared}
    if FOLDERS in declared:
        said["roots"] = {}
    return said


def answered(needs: str, result: object) -> str:
    """What the person did, "" where the question was for none; ValueError for what answers no such question."""
    if not isinstance(result, dict):
        raise ValueError("an answer is an object")
    if needs in {FORM, URL}:
        action = result.get("action")
        if action not in _ACTIONS or not isinstance(result.get("content", {}), dict | None):
            raise ValueError("an answer to an elicitation has an action")
        return str(action)
    if needs == SAMPLING and not isinstance(result.get("role"), str):
        raise ValueError("an answer of a model has a role")
    if needs == FOLDERS and not isinstance(result.get("roots"), list):
        raise ValueError("an answer about folders lists them")
    return ""


def guessed(result: object) -> str:
    """To what kind of question this would be an answer: of one that nobody here knows to have been asked; "" for none."""
    for needs in (FORM, SAMPLING, FOLDERS):
        try:
            answered(needs, result)
        except ValueError:
            continue
        return needs
    return ""


def _refused(what: str) -> Refused:
    return Refused(Code.QUESTION_REFUSED, what)
