"""Whose memory it is on a real LangGraph server: in memory, on loopback, with an `auth` handler of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph_api", reason="needs the extra server, in an environment of its own")
pytest.importorskip("langchain", reason="needs the extra langchain")

from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

from memos_core import MemOS
from tests.words import WordsEmbedder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

APP = Path(__file__).with_name("server_app.py")
PARTS = ("middleware", "tools", "nodes", "retriever", "below")
USERS = ("ann", "bob", "langgraph-studio-user")
ASKED = {"messages": [{"role": "user", "content": "How do I take my tea?"}]}

As = Callable[..., SyncLangGraphClient]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("server") / "store"
    with MemOS(path, embed=WordsEmbedder()) as memory:
        for user in USERS:
            memory.add(f"{user}'s tea", actor=user)
    return path


@pytest.fixture(scope="module")
def client_of(store: Path) -> Iterator[As]:
    """A client that comes in under a name, or with other headers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    graphs = {name: f"{APP}:{name}" for name in (*PARTS, "trusting")}
    settings = {"dependencies": ["."], "graphs": graphs, "auth": {"path": f"{APP}:auth"}}
    (store.parent / "langgraph.json").write_text(json.dumps(settings))
    paths = [str(APP.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)],
        cwd=store.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TEST_STORE": str(store), "LANGSMITH_TRACING": "false",
             "LANGGRAPH_CLI_NO_ANALYTICS": "1"},
    )  # fmt: skip
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "Starting queue" in line:
                ready.set()
        ready.set()  # it has ended

    reader = threading.Thread(target=read)
    reader.start()
    clients = []

    def client_of(name: str | None, **headers: str) -> SyncLangGraphClient:
        who = {} if name is None else {"authorization": name}
        clients.append(get_sync_client(url=f"http://127.0.0.1:{port}", api_key=None, headers={**who, **headers}))
        return clients[-1]

    try:
        ready.wait()
        assert process.poll() is None, "".join(lines)
        yield client_of
    finally:
        for client in clients:
            client.close()
        process.terminate()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def seen(client: SyncLangGraphClient, part: str, thread: str | None = None, **run: Any) -> set[str] | str:
    """Whose tea a run showed, or the name of the error that it ended with."""
    state = client.runs.wait(thread, part, input=ASKED, raise_error=False, **run)
    assert isinstance(state, dict)
    if "__error__" in state:
        return str(state["__error__"]["error"])
    return {user for user in USERS if f"{user}'s tea" in str(state["messages"][-1]["content"])}


def configured(**values: Any) -> Any:
    return {"config": {"configurable": values}}


@pytest.mark.parametrize("part", PARTS)
def test_an_authenticated_user_reaches_its_own_memory_and_no_other(client_of: As, part: str) -> None:
    ann = client_of("ann")
    assert seen(ann, part) == {"ann"}
    assert seen(ann, part, **configured(user_id="ann")) == {"ann"}
    assert seen(ann, part, context={"user_id": "ann"}) == {"ann"}
    assert seen(ann, part, **configured(user_id="bob")) == "AccessDenied"
    assert seen(ann, part, context={"user_id": "bob"}) == "AccessDenied"


@pytest.mark.parametrize("part", PARTS)
def test_who_forges_the_servers_word_is_who_the_server_says(client_of: As, part: str) -> None:
    forged = {"langgraph_auth_user": {"identity": "bob"}, "langgraph_auth_user_id": "bob"}
    assert seen(client_of("ann"), part, **configured(**forged)) == {"ann"}
    assert seen(client_of("ann"), part, context=forged) == {"ann"}
    assert seen(client_of("ann"), part, **configured(**forged, user_id="bob")) == "AccessDenied"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "says", [configured(user_id="ann"), {"context": {"user_id": "ann"}}], ids=["config", "context"]
)
def test_an_assistant_names_nobody_either(client_of: As, part: str, says: Any) -> None:
    bob = client_of("bob")
    mine = bob.assistants.create(part, **says)
    assert seen(bob, mine["assistant_id"]) == "AccessDenied"
    assert seen(client_of("ann"), mine["assistant_id"]) == {"ann"}


@pytest.mark.parametrize("part", PARTS)
def test_a_thread_of_anothers_is_no_way_to_its_memory(client_of: As, part: str) -> None:
    ann, bob = client_of("ann"), client_of("bob")
    thread = ann.threads.create()["thread_id"]
    assert seen(ann, part, thread, **configured(user_id="ann")) == {"ann"}
    assert seen(bob, part, thread) == {"bob"}
    assert seen(ann, part, thread) == {"ann"}


def test_the_studio_is_a_user_of_its_own(client_of: As) -> None:
    studio = client_of(None, **{"x-auth-scheme": "langsmith"})
    assert seen(studio, "middleware") == {"langgraph-studio-user"}
    assert seen(studio, "middleware", **configured(user_id="ann")) == "AccessDenied"


def test_a_program_that_trusts_its_clients_says_so(client_of: As) -> None:
    assert seen(client_of("ann"), "trusting", **configured(user_id="bob")) == {"bob"}
    assert seen(client_of("ann"), "trusting", context={"user_id": "bob"}) == {"bob"}
    assert seen(client_of("ann"), "trusting") == {"ann"}


def test_what_is_written_is_the_authenticated_users(client_of: As, store: Path) -> None:
    def said(client: SyncLangGraphClient, part: str, words: str, **run: Any) -> None:
        client.runs.wait(None, part, input={"messages": words}, raise_error=False, **run)

    for part in ("middleware", "nodes", "below"):
        said(client_of("ann"), part, f"I keep a parrot in {part}.")
        said(client_of("ann"), part, f"Forged a parrot in {part}.", **configured(user_id="bob"))
    with MemOS(store, embed=WordsEmbedder()) as memory:
        found = {
            user: " ".join(h.cube.text for h in memory.search("parrot", actor=user, k=50)) for user in ("ann", "bob")
        }
    for part in ("middleware", "nodes", "below"):
        assert f"a parrot in {part}" in found["ann"]
    assert "Forged" not in found["ann"] + found["bob"]
    assert "I keep a parrot" not in found["bob"]
