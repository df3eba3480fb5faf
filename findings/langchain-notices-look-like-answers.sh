#!/usr/bin/env bash
# LangChain's ModelCallLimitMiddleware ends a run with a message of its own. Expected: a mark by which a program that keeps what the assistant
# said can tell it from an answer (a name, a source in its metadata, as summaries have `lc_source`). Seen: an AIMessage without any, the last
# one of the run; only its words tell it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q langchain==1.4.7 langchain-core==1.7.2 langgraph==1.2.22
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

print(*(f"{name} {version(name)}" for name in ("langchain", "langchain-core", "langgraph")))


@tool
def look() -> str:
    """Look."""
    return "nothing"


class Model(GenericFakeChatModel):
    def bind_tools(self, tools, **kwargs):
        return self


call = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
agent = create_agent(
    Model(messages=iter([call])), [look], middleware=[ModelCallLimitMiddleware(run_limit=1, exit_behavior="end")]
)
last = agent.invoke({"messages": "hello"})["messages"][-1]
print("the last message:", repr(last))
assert isinstance(last, AIMessage) and "limit" in last.text, last
assert (last.name, last.additional_kwargs, last.response_metadata, last.usage_metadata) == (None, {}, {}, None), last
print("as found: an answer by its class, and nothing in it says that a program wrote it")
PY
