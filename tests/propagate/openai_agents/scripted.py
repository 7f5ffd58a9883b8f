"""The example of the OpenAI Agents SDK as it stands, with the SDK's own scripted model in place of one that needs a network."""

from __future__ import annotations

from typing import Any

import face
import openai_agent
from agents import set_tracing_disabled
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message, function_call


def step(call: ModelCall) -> Any:
    """A call of the tool `note` with the text of the question; after it, the tools that there are and what this one said."""
    last = call.input if isinstance(call.input, str) else call.input[-1].get("content", call.input[-1].get("output"))
    text = last if isinstance(last, str) else last[0]["text"]
    if isinstance(call.input, str) or "output" not in call.input[-1]:
        return [function_call("note", {"text": text}, call_id="1")]
    names = " ".join(sorted(tool.name for tool in call.tools))
    return [assistant_message(f"{names}: {text}")]


set_tracing_disabled(True)
openai_agent.model = ScriptedModel([ModelStep(responder=step)] * 1000)
face.serve("openai-agents", openai_agent.answer)
