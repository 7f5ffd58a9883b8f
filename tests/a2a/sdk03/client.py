"""What the client of the last SDK of A2A 0.3 makes of an agent, operation by operation, as JSON on stdout.

python client.py URL stream|whole WEBHOOK [AUTHORIZATION]
"""

import asyncio
import json
import sys

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import (
    GetTaskPushNotificationConfigParams,
    Message,
    Part,
    PushNotificationAuthenticationInfo,
    PushNotificationConfig,
    Role,
    TaskIdParams,
    TaskPushNotificationConfig,
    TaskQueryParams,
    TextPart,
)


async def main(url, mode, webhook, authorization=""):
    headers = {"authorization": authorization} if authorization else {}
    said = []

    async def note(work):
        try:
            answer = await work
        except Exception as error:  # noqa: BLE001  what it raises is what is compared
            said.append(f"{type(error).__name__}: {error}")
            return None
        said.append(answer.model_dump(mode="json", exclude_none=True) if answer is not None else None)
        return answer

    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        card = await A2ACardResolver(http, url).get_agent_card()
        said.append(
            {"capabilities": card.capabilities.model_dump(mode="json", exclude_none=True), "version": card.protocol_version}
        )
        client = ClientFactory(ClientConfig(streaming=mode == "stream", httpx_client=http)).create(card)
        extended = await client.get_card()
        said.append([card.supports_authenticated_extended_card, [skill.id for skill in extended.skills]])

        async def send(words, **more):
            message = Message(role=Role.user, parts=[Part(root=TextPart(text=words))], message_id=f"m-{len(said)}", **more)
            last = None
            try:
                async for event in client.send_message(message):
                    found = [event] if isinstance(event, Message) else [each for each in event if each is not None]
                    said.append([each.model_dump(mode="json", exclude_none=True) for each in found])
                    last = found[0]
            except Exception as error:  # noqa: BLE001
                said.append(f"{type(error).__name__}: {error}")
            return last

        for words in ("hello", "message", "file", "data", "chunks", "auth"):
            await send(words)
        open_task = await send("input")
        await note(client.get_task(TaskQueryParams(id=open_task.id, history_length=1)))
        await note(client.get_task(TaskQueryParams(id="never-was")))
        await send("hello again", task_id=open_task.id, context_id=open_task.context_id)
        other = await send("input")
        authentication = PushNotificationAuthenticationInfo(schemes=["Bearer"], credentials="c")
        config = PushNotificationConfig(id="mine", url=webhook, token="client-token", authentication=authentication)
        await note(client.set_task_callback(TaskPushNotificationConfig(task_id=other.id, push_notification_config=config)))
        named = GetTaskPushNotificationConfigParams(id=other.id, push_notification_config_id="mine")
        await note(client.get_task_callback(named))
        await send("slow", task_id=other.id, context_id=other.context_id)
        third = await send("input")
        await note(client.cancel_task(TaskIdParams(id=third.id)))
        await note(client.cancel_task(TaskIdParams(id="never-was")))
    print(json.dumps(said))


asyncio.run(main(*sys.argv[1:]))
