"""Agents and tools whose work goes on as tasks, which the test moves on; and whoever looks at them, by every way there is."""

from __future__ import annotations

import base64
import itertools
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

from tests.interaction.workflow_world import DataPeers, Play, workflow_gateway, written
from tests.interaction.world import MODERN, Gateway, Heard

TASKS_KEY = "io.modelcontextprotocol/tasks"
CAPABLE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS_KEY: {}}},
}
GRANTS = """\
p, *,           acme, task:desk, read, require, -, short, SEC-1
p, role:staff,  acme, task:desk, read,   allow, -, -, STAFF-3
p, role:staff,  acme, task:desk, cancel, allow, -, -, STAFF-4
p, role:staff,  acme, task:desk, update, allow, -, -, STAFF-5
p, agents:crew, acme, task:desk, read,   allow, -, -, CREW-3
p, agents:crew, acme, task:desk, cancel, allow, -, -, CREW-4
p, agents:crew, acme, task:desk, update, allow, -, -, CREW-5
"""
WORKS, DONE, FAILED = "working", "completed", "failed"
A2A_STATE = {
    "working": "TASK_STATE_WORKING",
    "completed": "TASK_STATE_COMPLETED",
    "failed": "TASK_STATE_FAILED",
    "cancelled": "TASK_STATE_CANCELED",
    "rejected": "TASK_STATE_REJECTED",
    "input_required": "TASK_STATE_INPUT_REQUIRED",
}


class TaskPeers(DataPeers):
    """What goes on as a task does so until `move` says otherwise.

    works   tools and agents (`desk.find`, `a2a:clerk`) whose calls become tasks.
    lies    by task: what a look at it is answered with instead.
    """

    works: set[str]
    lies: dict[str, dict[str, Any]]
    callbacks: dict[str, dict[str, Any]]
    hook: str

    def setup(self) -> None:
        """Everything at its beginning."""
        self.says, self.works, self.lies, self.callbacks = {}, set(), {}, {}
        self.numbers = itertools.count()

    def move(self, task: str, state: str, data: dict[str, Any] | None = None) -> None:
        """What the upstream says of a task from now on."""
        found = self.tasks[task]
        if "taskId" in found:
            found["status"] = state
            if data is not None:
                found["result"] = {"content": [], "structuredContent": data}
            return
        found["status"] = {"state": A2A_STATE[state]}
        found["artifacts"] = [] if data is None else [{"artifactId": "1", "parts": [{"data": data}]}]

    def answer(self, heard: Heard) -> dict[str, Any]:
        kind, name = heard.path.strip("/").split("/")
        method, params = heard.message["method"], heard.message.get("params", {})
        about = method.startswith("tasks/") or method == "subscriptions/listen"
        if kind != "mcp" or not (about or f"{name}.{params.get('name')}" in self.works):
            return super().answer(heard)
        self.heard.append(heard)
        if method == "subscriptions/listen":
            return {"messages": self._notices(params["notifications"], heard.message["id"])}
        if method == "tools/call":
            task = f"t-{uuid.uuid4()}"
            self.tasks[task] = {"taskId": task, "status": "working", "createdAt": "2026-01-01T00:00:00Z", "ttlMs": None}
            result = self.tasks[task] | {"resultType": "task"}
        elif method == "tasks/get":
            result = self.lies.get(params["taskId"], self.tasks[params["taskId"]]) | {"resultType": "complete"}
        else:
            result = {"resultType": "complete"}
        return {"jsonrpc": "2.0", "id": heard.message["id"], "result": result}

    def _task(self, name: str, method: str, params: dict[str, Any], heard: Heard) -> Any:
        if method == "CreateTaskPushNotificationConfig":
            self.callbacks[params["taskId"]] = params
            return params
        if method == "ListTasks":
            whole = params.get("includeArtifacts", False)
            tasks = [task if whole else {**task, "artifacts": []} for task in self.tasks.values() if task.get("agent") == name]
            told = [{key: value for key, value in task.items() if key != "agent"} for task in tasks]
            return {"tasks": told, "nextPageToken": "", "pageSize": 50, "totalSize": len(told)}
        known = params.get("id") or params.get("message", {}).get("taskId")
        if known in self.tasks and (method != "SendMessage" or f"a2a:{name}" in self.works):
            if method == "CancelTask":
                self.move(known, "cancelled")
            task = self.lies.get(known) or {key: value for key, value in self.tasks[known].items() if key != "agent"}
            if method == "SubscribeToTask":
                return self._events(task)
            return {"task": task} if method == "SendMessage" else task
        if f"a2a:{name}" not in self.works:
            return super()._task(name, method, params, heard)
        task = {"id": str(uuid.uuid4()), "contextId": str(uuid.uuid4()), "status": {"state": "TASK_STATE_WORKING"}}
        self.tasks[task["id"]] = task | {"agent": name}
        return {"task": task}

    def _notices(self, wanted: dict[str, Any], rpc_id: Any) -> list[dict[str, Any]]:
        """A stream that says where every task that is asked for stands, and ends."""
        said = [("notifications/subscriptions/acknowledged", {"notifications": wanted})]
        said += [("notifications/tasks", self.tasks[task]) for task in wanted.get("taskIds", ())]
        told = [{"jsonrpc": "2.0", "method": method, "params": params} for method, params in said]
        return [*told, {"jsonrpc": "2.0", "id": rpc_id, "result": {"resultType": "complete"}}]

    def _events(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """A stream that begins before the task's end and goes on to it."""
        about = {"taskId": task["id"], "contextId": task["contextId"]}
        artifacts = [{"artifactUpdate": about | {"artifact": each, "lastChunk": True}} for each in task["artifacts"]]
        begun = {"task": task | {"status": {"state": "TASK_STATE_WORKING"}, "artifacts": []}}
        return [begun, *artifacts, {"statusUpdate": about | {"status": task["status"]}}]


def task_gateway(folder: Path, peers: TaskPeers, workflows: dict[str, str], **more: Any) -> Gateway:
    """A gateway, not yet started, whose bundle also lets everybody see to their tasks."""
    peers.setup()
    both = {
        f"{name}-{protocol}": _named(name, rules, protocol) for name, rules in workflows.items() for protocol in ("mcp", "a2a")
    }
    gateway = workflow_gateway(folder, peers, both, **more)
    grants = folder / "policies" / "grants" / "all.csv"
    grants.write_text(grants.read_text() + GRANTS)
    (folder / "policies" / "obligations.yaml").write_text("short: {type: limit, answer_bytes: 4000}\n")
    return gateway


def _named(name: str, rules: str, protocol: str) -> str:
    return f"workflow: {name}-{protocol}\nbinds: []\n{written(rules, protocol)}\n"


class TaskPlay(Play):
    """A history in which tasks are begun and looked at, in either protocol."""

    peers: TaskPeers

    def workflow(self, person: str) -> str:
        """Id of the one that this person began."""
        said = self.begun(person).split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(said + "=="))["wf"])

    def begin(self, who: str, resource: str, arguments: dict[str, Any]) -> str:
        """A call that becomes a task: the id of it, as its owner has it."""
        answer = self.does(who, resource, arguments)
        result = answer.json()["result"]
        return str(result["task"]["id"] if resource.startswith("a2a:") else result["taskId"])

    def call(self, who: str, tool: str, arguments: dict[str, Any]) -> httpx.Response:
        """A tool, by a client that can have tasks."""
        server, name = tool.split(".")
        return self.mcp(who, server, "tools/call", name, {"name": name, "arguments": arguments})

    def mcp(self, who: str, server: str, method: str, name: str, params: dict[str, Any]) -> httpx.Response:
        """Any request of the stateless era."""
        secret, delegation = self.frame(who)
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": method,
            "Mcp-Name": name,
            "Authorization": f"Bearer {secret}",
            "Bailiwick-Delegation": delegation,
        }
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": CAPABLE}}
        return self.gateway.post(f"/mcp/{server}" if server else "/mcp", message, headers)

    def a2a(self, who: str, agent: str, method: str, params: dict[str, Any]) -> httpx.Response:
        """Any operation."""
        secret, delegation = self.frame(who)
        return self.gateway.ask(agent.removeprefix("a2a:"), method, params, secret, **{"Bailiwick-Delegation": delegation})

    def look(self, who: str, resource: str, task: str) -> httpx.Response:
        """How far a task is."""
        if resource.startswith("a2a:"):
            return self.a2a(who, resource, "GetTask", {"id": task})
        return self.mcp(who, resource.split(".", maxsplit=1)[0], "tasks/get", task, {"taskId": task})

    def cancel(self, who: str, resource: str, task: str) -> httpx.Response:
        """Have it cancelled."""
        if resource.startswith("a2a:"):
            return self.a2a(who, resource, "CancelTask", {"id": task})
        return self.mcp(who, resource.split(".", maxsplit=1)[0], "tasks/cancel", task, {"taskId": task})

    def inner(self, resource: str) -> str:
        """The upstream's own id of the task that was begun last."""
        kind = "id" if resource.startswith("a2a:") else "taskId"
        return str([task[kind] for task in self.peers.tasks.values() if kind in task][-1])


@contextmanager
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook: its address, and what came."""
    came: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/news", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
