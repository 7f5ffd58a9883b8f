"""Ways to ask for what is another person's at the same agent, over every binding: plainly, and in disguises that parsers know.

A trick is tried with the ids of somebody else, with ids that never were, and (where it is no disguise) by the owner.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

ZERO: Final = "00000000-0000-4000-8000-000000000000"
RPC, REST, GRPC = "JSONRPC", "HTTP+JSON", "GRPC"
ALL = (RPC, REST, GRPC)
HOOK: Final = "http://127.0.0.1:9/hook"


@dataclass(frozen=True)
class Names:
    """What a request names: a task, its context, a configuration, a page of a list; and a task that is the asker's own.

    word, inner  another context: as its owner calls it, who made that word up, and as the agent knows it.
    """

    task: str = ZERO
    context: str = ZERO
    config: str = "mine"
    page: str = ""
    own: str = ZERO
    word: str = ZERO
    inner: str = ZERO


@dataclass(frozen=True)
class Trick:
    """op and params: an operation as every binding says it; `raw` the bytes of JSON-RPC, or (verb, path, body) of HTTP+JSON.

    version of the protocol in which it is said.
    owner   whether the owner of what is named is answered well; a disguise is refused to everybody; None: nobody looks.
    lists   whether what is answered is a list, or the asker's own, in which nothing of the other's may stand.
    begins  whether a conversation begins: of whoever says it, by the word that they said.
    echoes  whether what was said may stand in the answer.
    asks    whether the agent may be asked, as it is the asker's own task that is named to it.
    """

    op: str = ""
    params: Callable[[Names], Any] | None = None
    raw: Callable[[Names], Any] | None = None
    bindings: tuple[str, ...] = ALL
    version: str = "1.0"
    owner: bool | None = False
    lists: bool = False
    begins: bool = False
    echoes: bool = False
    asks: bool = False


def said(**more: Any) -> dict[str, Any]:
    return {"message": {"messageId": "tck-complete-task-m", "role": "ROLE_USER", "parts": [{"text": "hi"}], **more}}


PLAIN: Mapping[str, Trick] = {
    "read": Trick("GetTask", lambda n: {"id": n.task}),
    "read, as another tenant": Trick("GetTask", lambda n: {"id": n.task, "tenant": "paul"}, bindings=(RPC, GRPC)),
    "read, with a history": Trick("GetTask", lambda n: {"id": n.task, "historyLength": 5}),
    "cancel": Trick("CancelTask", lambda n: {"id": n.task}),
    "cancel, saying why": Trick("CancelTask", lambda n: {"id": n.task, "metadata": {"user": "paul"}}),
    "follow": Trick("SubscribeToTask", lambda n: {"id": n.task}),
    "go on with it": Trick("SendMessage", lambda n: said(taskId=n.task)),
    "go on with it in a stream": Trick("SendStreamingMessage", lambda n: said(taskId=n.task)),
    "go on with it, saying its context": Trick("SendMessage", lambda n: said(taskId=n.task, contextId=n.context)),
    "refer to it": Trick("SendMessage", lambda n: said(referenceTaskIds=[n.task])),
    "refer to it in a stream": Trick("SendStreamingMessage", lambda n: said(referenceTaskIds=[n.task])),
    "refer to it after one's own": Trick("SendMessage", lambda n: said(referenceTaskIds=[n.own, n.task])),
    "refer to it from one's own": Trick("SendMessage", lambda n: said(taskId=n.own, referenceTaskIds=[n.task])),
    "hook": Trick("CreateTaskPushNotificationConfig", lambda n: {"taskId": n.task, "id": "new", "url": HOOK}),
    "replace a hook": Trick("CreateTaskPushNotificationConfig", lambda n: {"taskId": n.task, "id": n.config, "url": HOOK}),
    "read a hook": Trick("GetTaskPushNotificationConfig", lambda n: {"taskId": n.task, "id": n.config}),
    "list hooks": Trick("ListTaskPushNotificationConfigs", lambda n: {"taskId": n.task}),
    "unhook": Trick("DeleteTaskPushNotificationConfig", lambda n: {"taskId": n.task, "id": n.config}),
    "enter its context": Trick("SendMessage", lambda n: said(contextId=n.context), begins=True),
    "enter its context in a stream": Trick("SendStreamingMessage", lambda n: said(contextId=n.context), begins=True),
    "enter it by a word": Trick("SendMessage", lambda n: said(contextId=n.word), begins=True),
    "enter it by a word in a stream": Trick("SendStreamingMessage", lambda n: said(contextId=n.word), begins=True),
    "enter it as the agent calls it": Trick("SendMessage", lambda n: said(contextId=n.inner), begins=True),
    "enter it from one's own task": Trick(
        "SendMessage", lambda n: said(taskId=n.own, contextId=n.context), asks=True, echoes=True
    ),
    "enter it by a word from one's own task": Trick(
        "SendMessage", lambda n: said(taskId=n.own, contextId=n.word), asks=True, echoes=True
    ),
    "list a context by a word": Trick("ListTasks", lambda n: {"contextId": n.word}, lists=True),
    "list a context as the agent calls it": Trick("ListTasks", lambda n: {"contextId": n.inner}, lists=True),
    "list its context": Trick("ListTasks", lambda n: {"contextId": n.context}, lists=True),
    "list its context with artifacts": Trick(
        "ListTasks", lambda n: {"contextId": n.context, "includeArtifacts": True, "historyLength": 9}, lists=True
    ),
    "list everything": Trick("ListTasks", lambda _: {"pageSize": 100}, lists=True),
    "list everything of another tenant": Trick("ListTasks", lambda _: {"tenant": "paul"}, bindings=(RPC, GRPC), lists=True),
    "go on in the pages of another": Trick("ListTasks", lambda n: {"pageSize": 1, "pageToken": n.page or "never-was"}),
}


def _rpc(method: str, params: str) -> Callable[[Names], bytes]:
    """JSON-RPC with this text for params, in which `%(task)s` and so on stand."""
    text = f'{{"jsonrpc": "2.0", "id": 1, "method": "{method}", "params": {params}}}'
    return lambda names: (text % names.__dict__).encode()


def _message(members: str) -> str:
    return f'{{"message": {{"messageId": "m", "role": "ROLE_USER", "parts": [{{"text": "x"}}], {members}}}}}'


def _body(members: str) -> Callable[[Names], Any]:
    return lambda names: ("POST", "/message:send", (_message(members) % names.__dict__).encode())


BEGINS: Final = "a context in its other spelling"
MEMBERS: Mapping[str, tuple[str, bool]] = {
    "its other spelling": ('"task_id": "%(task)s"', True),
    "references in their other spelling": ('"reference_task_ids": ["%(task)s"]', True),
    BEGINS: ('"context_id": "%(context)s"', True),
    "one's own, then the other": ('"taskId": "%(own)s", "task_id": "%(task)s"', False),
    "the other, then one's own": ('"task_id": "%(task)s", "taskId": "%(own)s"', False),
    "twice": ('"taskId": "%(own)s", "taskId": "%(task)s"', False),
    "twice, once escaped": ('"taskId": "%(own)s", "task\\u0049d": "%(task)s"', False),
    "references twice": ('"referenceTaskIds": [], "referenceTaskIds": ["%(task)s"]', False),
    "references in both spellings": ('"referenceTaskIds": [], "reference_task_ids": ["%(task)s"]', False),
    "a context twice": ('"contextId": "own-talk", "contextId": "%(context)s"', False),
    "a context in both spellings": ('"contextId": "own-talk", "context_id": "%(context)s"', False),
    "a list for one": ('"taskId": ["%(task)s"]', False),
    "an object for one": ('"taskId": {"id": "%(task)s"}', False),
    "a text for a list": ('"referenceTaskIds": "%(task)s"', False),
    "with a space": ('"taskId": "%(task)s "', False),
    "with a line break": ('"taskId": "%(task)s\\n"', False),
    "with a nought": ('"taskId": "%(task)s\\u0000"', False),
    "with a mark that nobody sees": ('"taskId": "%(task)s\\u200b"', False),
}
"""Members of a message by which one parser could see another task than the next; and whether the owner may say it so."""

IN_BODIES: Mapping[str, Trick] = {
    f"{name} ({binding})": Trick(
        raw=_rpc("SendMessage", _message(text)) if binding == RPC else _body(text),
        bindings=(binding,),
        owner=owner,
        begins=name == BEGINS,
    )
    for name, (text, owner) in MEMBERS.items()
    for binding in (RPC, REST)
}
OF_RPC: Mapping[str, Trick] = {
    "an id twice": Trick(raw=_rpc("GetTask", '{"id": "%(own)s", "id": "%(task)s"}')),
    "params twice": Trick(raw=_rpc("GetTask", '{"id": "%(own)s"}, "params": {"id": "%(task)s"}')),
    "methods twice": Trick(raw=_rpc('ListTasks", "method": "GetTask', '{"id": "%(task)s"}')),
    "params in a list": Trick(raw=_rpc("GetTask", '["%(task)s"]')),
    "a batch": Trick(raw=lambda n: b"[" + _rpc("GetTask", '{"id": "%(task)s"}')(n) + b"]"),
    "an id in capitals": Trick(raw=lambda n: _rpc("GetTask", f'{{"id": "{n.task.upper()}"}}')(n)),
    "an id in percents": Trick(raw=lambda n: _rpc("GetTask", f'{{"id": "%%{ord(n.task[0]):x}{n.task[1:]}"}}')(n)),
    "a name of the older version": Trick(raw=_rpc("tasks/get", '{"id": "%(task)s"}')),
    "a state by its number": Trick(raw=_rpc("ListTasks", '{"contextId": "%(context)s", "status": 6}')),
    "hooks in the other spelling, and one's own": Trick(
        raw=_rpc("ListTaskPushNotificationConfigs", '{"taskId": "%(own)s", "task_id": "%(task)s"}')
    ),
    "a hook for one's own and another": Trick(
        raw=_rpc("CreateTaskPushNotificationConfig", f'{{"taskId": "%(own)s", "task_id": "%(task)s", "url": "{HOOK}"}}')
    ),
    "an inline hook for another": Trick(
        owner=True,
        raw=_rpc(
            "SendMessage",
            _message('"taskId": "%(task)s"')[:-1]
            + f', "configuration": {{"taskPushNotificationConfig": {{"taskId": "%(task)s", "url": "{HOOK}"}}}}}}',
        ),
    ),
}


def _old(members: str) -> str:
    said = '"kind": "message", "messageId": "tck-complete-task-m", "role": "user", "parts": [{"kind": "text", "text": "x"}]'
    return f'{{"message": {{{said}, {members}}}}}'


_PUSH: Final = "tasks/pushNotificationConfig"
OF_0_3: Mapping[str, Trick] = {
    name: Trick(raw=_rpc(method, params), version="0.3", owner=owner, begins="contextId" in params)
    for name, (method, params, owner) in {
        "read": ("tasks/get", '{"id": "%(task)s"}', True),
        "read, with a history": ("tasks/get", '{"id": "%(task)s", "historyLength": 3}', True),
        "cancel": ("tasks/cancel", '{"id": "%(task)s"}', True),
        "follow": ("tasks/resubscribe", '{"id": "%(task)s"}', None),  # the owner's stream stays open
        "go on with it": ("message/send", _old('"taskId": "%(task)s"'), True),
        "go on with it in a stream": ("message/stream", _old('"taskId": "%(task)s", "task_id": "%(task)s"'), False),
        "go on in the other spelling": ("message/send", _old('"task_id": "%(task)s"'), True),
        "refer to it": ("message/send", _old('"referenceTaskIds": ["%(task)s"]'), True),
        "refer in the other spelling": ("message/send", _old('"reference_task_ids": ["%(task)s"]'), True),
        "enter its context": ("message/send", _old('"contextId": "%(context)s"'), True),
        "enter it by a word": ("message/send", _old('"contextId": "%(word)s"'), True),
        "one's own, then the other": ("message/send", _old('"taskId": "%(own)s", "task_id": "%(task)s"'), False),
        "twice": ("message/send", _old('"taskId": "%(own)s", "taskId": "%(task)s"'), False),
        "hook": (f"{_PUSH}/set", f'{{"taskId": "%(task)s", "pushNotificationConfig": {{"url": "{HOOK}"}}}}', True),
        "read a hook": (f"{_PUSH}/get", '{"id": "%(task)s", "pushNotificationConfigId": "%(config)s"}', True),
        "list hooks": (f"{_PUSH}/list", '{"id": "%(task)s"}', True),
        "unhook": (f"{_PUSH}/delete", '{"id": "%(task)s", "pushNotificationConfigId": "%(config)s"}', True),
        "a method of the newer version": ("GetTask", '{"id": "%(task)s"}', False),
    }.items()
}


def _path(verb: str, path: str, body: Any = None) -> Callable[[Names], Any]:
    text = json.dumps(body) if body is not None else None
    return lambda names: (verb, path % names.__dict__, (text % names.__dict__).encode() if text is not None else None)


OF_REST: Mapping[str, Trick] = {
    "below a tenant": Trick(raw=_path("GET", "/acme/tasks/%(task)s")),
    "below the owner as tenant": Trick(raw=_path("GET", "/paul/tasks/%(task)s")),
    "a tenant in the query": Trick(raw=_path("GET", "/tasks/%(task)s?tenant=paul"), owner=True),
    "one's own path, another in the query": Trick(raw=_path("GET", "/tasks/%(own)s?id=%(task)s"), lists=True),
    "likewise in the other spelling": Trick(raw=_path("GET", "/tasks/%(own)s?task_id=%(task)s"), lists=True),
    "a context in the other spelling": Trick(raw=_path("GET", "/tasks?context_id=%(context)s"), lists=True),
    "a context twice": Trick(raw=_path("GET", "/tasks?contextId=own&contextId=%(context)s")),
    "one's own path, another in the body": Trick(raw=_path("POST", "/tasks/%(own)s:cancel", {"id": "%(task)s"})),
    "a hook whose body names another": Trick(
        raw=_path("POST", "/tasks/%(own)s/pushNotificationConfigs", {"taskId": "%(task)s", "url": HOOK})
    ),
    "a hook whose body names another otherwise": Trick(
        raw=_path("POST", "/tasks/%(own)s/pushNotificationConfigs", {"task_id": "%(task)s", "url": HOOK})
    ),
    "another's hook at one's own task": Trick(raw=_path("GET", "/tasks/%(own)s/pushNotificationConfigs/%(config)s"), asks=True),
    "up and down again": Trick(raw=_path("GET", "/tasks/%(own)s/../%(task)s"), owner=True),
    "up and down in percents": Trick(raw=_path("GET", "/tasks/%(own)s/%%2e%%2e/%(task)s")),
    "a slash in percents": Trick(raw=_path("GET", "/tasks%%2f%(task)s"), owner=True),
    "two slashes": Trick(raw=_path("GET", "//tasks/%(task)s")),
    "a slash at the end": Trick(raw=_path("GET", "/tasks/%(task)s/")),
    "a parameter of the path": Trick(raw=_path("GET", "/tasks/%(task)s;x=1")),
    "a letter in percents": Trick(raw=lambda n: ("GET", f"/tasks/%{ord(n.task[0]):x}{n.task[1:]}", None), owner=True),
    "a colon in percents": Trick(raw=_path("POST", "/tasks/%(task)s%%3acancel"), owner=True),
    "two verbs": Trick(raw=_path("POST", "/tasks/%(task)s:cancel:subscribe")),
    "a nought at the end": Trick(raw=_path("GET", "/tasks/%(task)s%%00")),
    "a space at the end": Trick(raw=_path("GET", "/tasks/%(task)s%%20")),
    "capitals": Trick(raw=lambda n: ("GET", f"/tasks/{n.task.upper()}", None)),
    "the older version's path": Trick(raw=_path("GET", "/v1/tasks/%(task)s")),
    "everything's hooks": Trick(raw=_path("GET", "/tasks/-/pushNotificationConfigs/%(config)s")),
    "a field mask": Trick(raw=_path("GET", "/tasks/%(task)s?fields=*&key=x"), owner=True),
    "a page of another in percents": Trick(
        raw=lambda n: ("GET", f"/tasks?pageSize=1&pageToken={quote(n.page or 'x')}", None), owner=True
    ),
}


def _over(binding: str, tricks: Mapping[str, Trick]) -> Mapping[str, Trick]:
    return {f"{name} ({binding})": replace(trick, bindings=(binding,)) for name, trick in tricks.items()}


TRICKS: Mapping[str, Trick] = {
    **{name: replace(trick, owner=True) for name, trick in PLAIN.items()},
    "enter it by a word from one's own task": replace(PLAIN["enter it by a word from one's own task"], owner=None),
    **IN_BODIES,
    **_over(RPC, OF_RPC),
    **{f"{name} (0.3)": replace(trick, bindings=(RPC,)) for name, trick in OF_0_3.items()},
    **_over(REST, OF_REST),
}
