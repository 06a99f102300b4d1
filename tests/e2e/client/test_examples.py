"""examples/ run as they are: the backend under uvicorn, AsyncOpenAI, Node, LangChain in its own environment."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import textwrap
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from examples.fastapi_backend.app import create_app
from tests.e2e import process
from tests.e2e.client.conftest import MODEL
from tests.e2e.client.test_generation import ASKED, FRANCE, PARIS
from tests.e2e.emulated import API_KEY, Endpoint
from tests.e2e.gateway import configure, gateway
from tests.e2e.test_openai_node_client import FOLDER as NODE_FOLDER
from tests.e2e.test_openai_node_client import install
from tests.vllm_service.client.runpod_provider import runpod, stream_then
from tests.waiting import until
from vllm_service import RunPodVLLMService, errors
from vllm_service.testing import Close, Pause, refused

EXAMPLES = process.ROOT / "examples"
LANGCHAIN = process.ROOT / "build" / "langchain-openai-1"


@pytest.fixture(scope="module")
async def gateway_url(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A gateway whose one provider is the endpoint."""
    folder = tmp_path_factory.mktemp("gateway")
    own = {"endpoint_id": "ep", "api_url": endpoint.emulator.origin, "api_key_env": "OWN_KEY"}
    configure(folder, {"own": own}, {MODEL: {"offers": [{"provider": "own", "model": MODEL}]}})
    async with gateway(folder, OWN_KEY=API_KEY) as running:
        yield running.url


@pytest.fixture(params=["endpoint", "gateway"])
def variables(request: pytest.FixtureRequest, endpoint: Endpoint, gateway_url: str) -> dict[str, str]:
    """Where an OpenAI client of any language goes."""
    url = endpoint.emulator.openai_url if request.param == "endpoint" else gateway_url
    return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": API_KEY, "MODEL": MODEL}


@pytest.fixture(scope="module")
async def backend(endpoint: Endpoint) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(endpoint.emulator.openai_url, API_KEY) as client:
        yield client


@asynccontextmanager
async def serving(url: str, api_key: str) -> AsyncIterator[httpx.AsyncClient]:
    """The backend of an endpoint, under uvicorn on a free port; and a client of it."""
    app = create_app(lambda: RunPodVLLMService("ep", api_key, url, MODEL))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:
        yield client
    server.should_exit = True
    await task


def events(text: str) -> list[str]:
    """The data of each server-sent event."""
    return [
        "\n".join(line.removeprefix("data: ") for line in event.split("\n")) for event in text.strip().split("\n\n")
    ]


async def test_the_backend_generates(backend: httpx.AsyncClient) -> None:
    response = await backend.post("/generate", json={"prompt": FRANCE, "max_tokens": 99, "temperature": 0})
    assert response.status_code == 200
    assert response.json()["result"].strip() == PARIS
    assert response.json()["provider"] == "runpod"


async def test_the_backend_streams_text(backend: httpx.AsyncClient) -> None:
    response = await backend.post("/stream", json={"prompt": FRANCE, "max_tokens": 99, "temperature": 0})
    assert response.headers["content-type"].startswith("text/event-stream")
    *said, done = events(response.text)
    assert ("".join(said).strip(), done) == (PARIS, "[DONE]")


async def test_the_backend_streams_a_chat(backend: httpx.AsyncClient) -> None:
    response = await backend.post("/chat/stream", json={"messages": ASKED, "max_tokens": 99, "temperature": 0})
    *said, done = events(response.text)
    assert "".join(json.loads(event)["chunk"] for event in said) == PARIS
    assert done == "[DONE]"
    assert len(said) > 3


async def test_the_backend_knows_how_its_endpoint_does(backend: httpx.AsyncClient) -> None:
    document = (await backend.get("/health")).json()
    assert document["status"] == "healthy"
    assert sum(document["workers"].values()) >= 1


@pytest.mark.parametrize("path", ["/generate", "/stream"])
async def test_the_engines_errors_keep_their_status(backend: httpx.AsyncClient, path: str) -> None:
    response = await backend.post(path, json={"prompt": "word " * 3000})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "2048" in response.json()["error"]["message"]
    assert (await backend.post(path, json={"prompt": ""})).status_code == 422


async def test_the_backends_own_trouble_is_not_its_callers(endpoint: Endpoint) -> None:
    async with serving(endpoint.emulator.openai_url, "wrong") as client:
        response = await client.post("/generate", json={"prompt": FRANCE})
        assert (response.status_code, response.json()["error"]["code"]) == (502, "UNAUTHORIZED_401")


async def test_a_caller_who_leaves_the_backend_ends_the_generation() -> None:
    async with (
        runpod(lambda request: stream_then(Pause(None), "Once")) as provider,
        serving(provider.url, "k") as client,
    ):
        async with client.stream("POST", "/stream", json={"prompt": "A story"}) as response:
            assert await anext(response.aiter_lines()) == "data: Once"
        await asyncio.wait_for(provider.was_left.wait(), 10)


async def test_a_stream_that_breaks_says_so_in_an_event() -> None:
    async with runpod(lambda request: stream_then(Close(), "a\nb")) as provider, serving(provider.url, "k") as client:
        response = await client.post("/stream", json={"prompt": "A story"})
    assert response.text.startswith("data: a\ndata: b\n\nevent: error\ndata: {")
    assert "[DONE]" not in response.text


async def test_when_to_come_back_is_passed_on() -> None:
    async with (
        runpod(lambda request: refused(429, retry_after="7")) as provider,
        serving(provider.url, "k") as client,
    ):
        response = await client.post("/generate", json={"prompt": "x"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


async def test_asyncopenai_alone(variables: dict[str, str]) -> None:
    ended = await process.run(str(EXAMPLES / "asyncopenai.py"), **variables)
    assert (ended.stdout.splitlines(), ended.code) == ([PARIS, PARIS], 0), ended.stderr


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed")
async def test_the_node_sdk(variables: dict[str, str], tmp_path: Path) -> None:
    """With the packages that the Node tests install; where those are, an import finds them."""
    await install()
    (tmp_path / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    shutil.copy(EXAMPLES / "node" / "chat.mjs", tmp_path)
    running = await asyncio.create_subprocess_exec(
        "node",
        str(tmp_path / "chat.mjs"),
        env=process.environment(**variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaints = await running.communicate()
    assert output.decode().splitlines() == [PARIS, PARIS], complaints.decode()


async def test_langchain(variables: dict[str, str]) -> None:
    """In an environment under build/, made once: LangChain pins packages of its own."""
    python = await asyncio.to_thread(with_langchain)
    running = await asyncio.create_subprocess_exec(
        str(python),
        str(EXAMPLES / "langchain_gateway.py"),
        env=process.environment(**variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaints = await running.communicate()
    assert output.decode().splitlines() == [PARIS, PARIS], complaints.decode()


def with_langchain() -> Path:
    """The interpreter of an environment that has langchain-openai; skips the test where it cannot be installed."""
    python, done = LANGCHAIN / "bin" / "python", LANGCHAIN / "installed"
    if not done.exists():
        venv.create(LANGCHAIN, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "langchain-openai>=1,<2"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            pytest.skip(f"langchain-openai cannot be installed: {ended.stderr.strip()[-300:]}")
        done.touch()
    return python


async def test_the_client_at_the_gateway(gateway_url: str) -> None:
    """The same calls; only the native queue is RunPod's alone."""
    async with RunPodVLLMService(base_url=gateway_url, api_key=API_KEY, default_model=MODEL) as service:
        assert (await service.generate(FRANCE, max_tokens=99, temperature=0)).strip() == PARIS
        assert "".join([text async for text in service.stream_chat(ASKED, temperature=0)]) == PARIS
        assert (await service.chat(ASKED, temperature=0)).request_id is not None
        with pytest.raises(errors.NotFound):
            await service.chat(ASKED, "nobody")
        with pytest.raises(errors.ConfigurationError):
            await service.health()


FRAGMENT = """
import asyncio
from vllm_service import RunPodVLLMService

async def main():
    messages = [{{"role": "user", "content": {question!r}}}]
    prompts = [{question!r}] * 3
    tools = None
    async with RunPodVLLMService() as service:
{code}

asyncio.run(main())
"""
BLOCKS = re.findall(r"```python\n(.*?)```", (process.ROOT / "docs" / "client.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(
    "block", BLOCKS, ids=lambda block: next(line for line in block.splitlines() if "import" not in line)
)
async def test_the_pages_examples_run(endpoint: Endpoint, block: str, tmp_path: Path) -> None:
    """Whole ones as they are; pieces with a service, prompts, messages and no tools around them."""
    whole = block.startswith(("import", "from"))
    code = block if whole else FRAGMENT.format(question=FRANCE, code=textwrap.indent(block, " " * 8))
    (tmp_path / "example.py").write_text(code)
    there = own_variables(endpoint) | {"PYTHONPATH": str(process.ROOT), "CONFIG_DIR": str(tmp_path)}
    ended = await process.run_in(tmp_path, "-W", "error", str(tmp_path / "example.py"), **there)
    assert ended.code == 0, ended.stderr
    assert PARIS in ended.stdout or not whole


def own_variables(endpoint: Endpoint) -> dict[str, str]:
    """What the client reads."""
    return {
        "RUNPOD_API_URL": endpoint.emulator.origin,
        "RUNPOD_VLLM_ENDPOINT_ID": "ep",
        "RUNPOD_API_KEY": API_KEY,
        "RUNPOD_DEFAULT_MODEL": MODEL,
    }


INTERFACE_EXAMPLES = """
import asyncio
from vllm_service import LLMRouter, RoutingStrategy, RunPodVLLMService

QUESTION = {question!r}
messages = [{{"role": "user", "content": QUESTION}}]

async def main():
    service = RunPodVLLMService()
    exact = dict(max_tokens=99, temperature=0)
    print((await service.generate(QUESTION, **exact)).strip())
    print("".join([text async for text in service.stream(QUESTION, **exact)]).strip())
    print("".join([text async for text in service.stream_chat(messages, **exact)]))
    print(*[text.strip() for text in await service.batch_generate([QUESTION, QUESTION], **exact)], sep="\\n")
    print((await service.generate_with_retry(QUESTION, **exact)).strip())
    best = await service.ensemble_generate(QUESTION, models=[service.select_model_by_task("code")], **exact)
    print(best.text.strip())
    router = LLMRouter(strategy=RoutingStrategy.BALANCED)
    print(await router.generate(QUESTION, **exact))
    await service.close()
    await router.close()

asyncio.run(main())
"""


async def test_the_client_examples_of_the_interface_run_as_written(endpoint: Endpoint) -> None:
    """Nothing but RUNPOD_* is set."""
    code = INTERFACE_EXAMPLES.format(question=FRANCE)
    ended = await process.run("-X", "dev", "-W", "error", "-c", code, **own_variables(endpoint))
    assert (ended.stdout.splitlines(), ended.complaints) == ([PARIS] * 8, [])
