"""The example of LangGraph as it stands, with a model that needs no network."""

from __future__ import annotations

from typing import Any

import face
import langgraph_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class Scripted(BaseChatModel):
    """One call of the tool `note` with the text of the question; then what the tool said."""

    names: list[str] = []  # noqa: RUF012  a pydantic field

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return Scripted(names=sorted(tool.name for tool in tools))

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        last = messages[-1]
        said = AIMessage(f"{' '.join(self.names)}: {last.text}")
        if not isinstance(last, ToolMessage):
            said = AIMessage("", tool_calls=[{"name": "note", "args": {"text": last.text}, "id": "1"}])
        return ChatResult(generations=[ChatGeneration(message=said)])


langgraph_agent.model = Scripted()
face.serve("langgraph", langgraph_agent.answer)
