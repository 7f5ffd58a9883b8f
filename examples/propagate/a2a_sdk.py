"""An agent on the A2A SDK that passes what it is asked on to another agent, through the gateway."""

from __future__ import annotations

import os

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.helpers.proto_helpers import get_message_text, new_text_message
from a2a.types import Role, SendMessageRequest
from face import serve

from gateway.propagate import Carrier

GATEWAY = os.environ["GATEWAY_URL"]
carrier = Carrier(GATEWAY, os.environ["AGENT_SECRET"])


async def answer(text: str) -> str:
    """What the other agent answers."""
    async with httpx.AsyncClient(event_hooks=carrier.hooks, timeout=60) as http:
        factory = ClientFactory(ClientConfig(httpx_client=http, streaming=False))
        client = await factory.create_from_url(f"{GATEWAY}/a2a/{os.environ['PEER']}")
        request = SendMessageRequest(message=new_text_message(text, role=Role.ROLE_USER))
        replies = [reply async for reply in client.send_message(request)]
    return get_message_text(replies[-1].message)


if __name__ == "__main__":
    serve("a2a-sdk", answer)
