"""Pages in special places: for agents, without a network, in a ZeroGPU Space."""

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import types
from functools import wraps
from inspect import isgeneratorfunction

import pytest
from browsing import ANSWERS, CLOSE, PROMPT
from conftest import family_file, free_port

from dogerm.errors import ServeError
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.ui import serve
from dogerm.ui.page import build
from dogerm.ui.studio import Studio
from dogerm.ui.zero import on_gpu

MIX = {"math": 1, "code": 1}
TOOLS = ["score", "curve", "pairs", "merge_report"]


async def asked(url: str, *call) -> tuple[list, object]:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    address = f"{url}gradio_api/mcp/"
    async with (
        streamable_http_client(address) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = (await session.list_tools()).tools
        return tools, await session.call_tool(*call)


def test_agents_have_the_endpoints_as_tools_and_nothing_else(folders, engine, tmp_path):
    pytest.importorskip("mcp", reason="MCP needs gradio[mcp]")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    file = family_file(folders, tmp_path)
    app = serve(file, port=port, device="cpu", mcp=True, block=False)
    try:
        arguments = {
            "instruction": PROMPT,
            "responses": ANSWERS,
            "lam": 0.5,
            "shares": MIX,
        }
        tools, answer = asyncio.run(asked(url, "score", arguments))
        _, wrong = asyncio.run(asked(url, "score", arguments | {"lam": 2}))
    finally:
        app.close()
    assert [tool.name for tool in tools] == TOOLS
    for tool in tools:
        assert len(tool.description) > 60
        for name, argument in tool.inputSchema["properties"].items():
            assert argument["description"], (tool.name, name)
    assert tools[0].inputSchema["required"] == list(arguments)
    wanted = score(engine, Recipe(0.5, MIX), [(PROMPT, ANSWERS)])[0]
    said = eval(answer.content[0].text, {})
    assert said["merged"] == pytest.approx(wanted, abs=CLOSE)
    assert wrong.isError and "between 0 and 1, got 2" in wrong.content[0].text


def test_mcp_without_its_package_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ServeError, match=r"pip install 'gradio\[mcp\]'"):
        serve("no such family", mcp=True)


def test_offline_and_a_public_link_do_not_go_together():
    with pytest.raises(ServeError, match="leave out --share or --offline"):
        serve("no such family", offline=True, share=True)


# Serves a page offline where analytics are on and the hub's client was loaded before, then
# scores; prints every host that was asked for, and what a family on the hub is answered.
OFFLINE = """
import socket, sys
import huggingface_hub
asked, look_up, connect = [], socket.getaddrinfo, socket.socket.connect
HERE = ("127.0.0.1", "localhost", "::1", "0.0.0.0", None)

def getaddrinfo(host, *rest, **more):
    if host not in HERE:
        asked.append(host)
    return look_up(host, *rest, **more)

def connected(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in HERE:
        asked.append(address[0])
    return connect(self, address)

socket.getaddrinfo, socket.socket.connect = getaddrinfo, connected
import json, time
from dogerm.errors import DogermError
from dogerm.family import Family
from dogerm.ui import serve

file, port = sys.argv[1], int(sys.argv[2])
try:
    serve(Family.of("someone/model", {"math": "someone/other"}), offline=True)
except DogermError as error:
    said = str(error)
app = serve(file, port=port, device="cpu", offline=True, block=False)
from gradio_client import Client

client = Client(f"http://127.0.0.1:{port}/", verbose=False)
found = client.predict("Two?", ["a", "b"], 0.5, {"math": 1}, api_name="/score")
time.sleep(2)
print(json.dumps({"asked": asked, "said": said, "rewards": len(found["merged"])}))
app.close()
"""


def test_offline_asks_no_host(folders, tmp_path):
    online = {"HF_HUB_OFFLINE", "GRADIO_ANALYTICS_ENABLED"}
    environment = {k: v for k, v in os.environ.items() if k not in online}
    environment |= {"GRADIO_ANALYTICS_ENABLED": "True", "HF_HOME": str(tmp_path / "hf")}
    file = family_file(folders, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(file), str(free_port())],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("{"))
    )
    assert found["asked"] == [] and found["rewards"] == 2
    assert "someone/other is neither a folder here" in found["said"]


def forking_spaces() -> types.ModuleType:
    """A stand-in for Hugging Face's package: every call of `GPU` in a fork of its own."""
    context, module = multiprocessing.get_context("fork"), types.ModuleType("spaces")

    def in_fork(task, given):
        ours, theirs = context.Pipe()

        def work():
            found = task(*given)
            theirs.send(list(found) if isgeneratorfunction(task) else found)

        process = context.Process(target=work)
        process.start()
        assert ours.poll(60), "the fork did not answer"
        found = ours.recv()
        process.join()
        return found

    def GPU(duration):
        assert 0 < duration <= 120

        def lend(task):
            @wraps(task)
            def whole(*given):
                return in_fork(task, given)

            @wraps(task)
            def growing(*given):
                yield from in_fork(task, given)

            return growing if isgeneratorfunction(task) else whole

        return lend

    module.GPU = GPU
    return module


def test_a_zero_gpu_call_carries_all_it_needs_and_leaves_nothing(engine):
    page = build(Studio(engine, "tiny"), public=True)
    on_gpu(page, forking_spaces())
    events = {event.api_name: event.fn for event in page.fns.values() if event.fn}
    engine.apply(engine.family.recipe(0))
    for lam in (0.8, 0.3):
        found = events["score"](PROMPT, ANSWERS, lam, MIX)
        wanted = score(engine, Recipe(lam, MIX), [(PROMPT, ANSWERS)])[0]
        engine.apply(engine.family.recipe(0))
        assert found["merged"] == pytest.approx(wanted, abs=CLOSE)
    curve = events["curve"](PROMPT, ANSWERS, MIX, [0, 0.5, 1])
    assert len(curve["rewards"]) == 3 and engine.recipe.lam == 0
    row = {"prompt": PROMPT, "chosen": "a", "rejected": "b"}
    *_, report = events["pairs"]([row], MIX, [0, 1])
    assert len(report["recipes"]) == 2 and engine.recipe.lam == 0


def test_every_event_that_reaches_the_engine_is_lent_the_gpu(engine):
    page = build(Studio(engine, "tiny"), public=True)
    lent = types.ModuleType("spaces")
    lent.GPU = lambda duration: lambda task: ("lent", task)
    on_gpu(page, lent)
    for event in page.fns.values():
        ours = event.concurrency_id in ("engine", "long")
        assert (isinstance(event.fn, tuple)) == bool(event.fn and ours)
    assert sum(isinstance(event.fn, tuple) for event in page.fns.values()) > 10
