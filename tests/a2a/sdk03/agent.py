"""An agent on the last SDK of A2A 0.3 (`a2a-sdk` 0.3), by its JSON-RPC application; prints `ready PORT`.

What it does is chosen by the first word of the message: message, input, auth, file, data, chunks, slow; else it echoes.
"""

import asyncio
import socket

import httpx
import uvicorn
from a2a.server.agent_execution import AgentExecutor
from a2a.server.apps import A2AStarletteApplication
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import (
    BasePushNotificationSender,
    InMemoryPushNotificationConfigStore,
    InMemoryTaskStore,
    TaskUpdater,
)
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentSkill,
    DataPart,
    FilePart,
    FileWithBytes,
    FileWithUri,
    Part,
    TaskState,
    TextPart,
)
from a2a.utils import new_agent_text_message, new_task


def text(words):
    return Part(root=TextPart(text=words))


class Executor(AgentExecutor):
    async def execute(self, context, event_queue):
        said = context.get_user_input()
        word = said.split(" ")[0]
        if word == "message":
            await event_queue.enqueue_event(new_agent_text_message("a message"))
            return
        task = context.current_task
        if task is None:
            task = new_task(context.message)
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        if word in {"input", "auth"}:
            state = TaskState.input_required if word == "input" else TaskState.auth_required
            await updater.update_status(state, updater.new_agent_message([text(f"more {word}")]), final=True)
            return
        if word == "file":
            by = FileWithBytes(bytes="aGVsbG8=", mime_type="text/plain", name="a.txt")
            at = FileWithUri(uri="https://files.example/a.txt", mime_type="text/plain")
            await updater.add_artifact([Part(root=FilePart(file=by)), Part(root=FilePart(file=at))], name="files")
        elif word == "data":
            await updater.add_artifact(
                [Part(root=DataPart(data={"n": 1, "none": None, "deep": [{"x": 1.5}]}, metadata={"m": "x"}))]
            )
        elif word == "chunks":
            await updater.add_artifact([text("one ")], artifact_id="a", append=False, last_chunk=False)
            await updater.add_artifact([text("two")], artifact_id="a", append=True, last_chunk=True)
        elif word == "slow":
            await asyncio.sleep(0.5)
        await updater.add_artifact([text(f"echo: {said}")])
        await updater.complete(updater.new_agent_message([text("done")]))

    async def cancel(self, context, event_queue):
        await TaskUpdater(event_queue, context.current_task.id, context.current_task.context_id).cancel()


def main():
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
    card = AgentCard(
        name="An agent of 0.3",
        description=f"Echoes, at {url}",
        version="1",
        url=url,
        capabilities=AgentCapabilities(streaming=True, push_notifications=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="echo", name="Echo", description="Echoes", tags=["demo"])],
        supports_authenticated_extended_card=True,
    )
    more = AgentSkill(id="more", name="More", description="For those who are known", tags=["demo"])
    extended = card.model_copy(update={"skills": [*card.skills, more]})
    store = InMemoryPushNotificationConfigStore()
    handler = DefaultRequestHandler(
        agent_executor=Executor(),
        task_store=InMemoryTaskStore(),
        push_config_store=store,
        push_sender=BasePushNotificationSender(httpx.AsyncClient(trust_env=False), store),
    )
    app = A2AStarletteApplication(card, handler, extended_agent_card=extended).build()
    print(f"ready {url.rsplit(':', 1)[1].rstrip('/')}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[sock])


if __name__ == "__main__":
    main()
