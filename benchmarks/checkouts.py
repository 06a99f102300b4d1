"""The programs of any checkout, started only by public commands, so that an old and a new tree are measured alike.

Nothing of a measured checkout is imported here: its gateway is `python -m vllm_service serve`, its keys are made by its
own `keys` command, its LLMRouter is used by benchmarks/router_calls.py with that checkout as the current directory.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.worker_stack import environment, free_port, process

MODEL = "small"
STOP_SECONDS = 30
ORGANISATION = "bench"
NO_LIMITS = ("--tokens-per-day", "none", "--requests-per-day", "none", "--tokens-per-month", "none")
ROUTER_CALLS = Path(__file__).with_name("router_calls.py").resolve()
#: One process for all commands: one for each would take half a second for its imports.
COMMANDS = """
import json, runpy, sys
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["vllm_service", *arguments]
    try:
        runpy.run_module("vllm_service", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
"""


@dataclass(frozen=True)
class Gateway:
    """A gateway that serves MODEL."""

    #: Without /v1.
    url: str
    pid: int
    #: The keys that it accepts.
    keys: list[str]


def configure(directory: Path, upstream: str) -> dict[str, str]:
    """Writes providers.yaml and models.yaml for one hosted provider. Returns the variables that name their folder."""
    directory.mkdir(parents=True, exist_ok=True)
    price = {"input": 0.02, "output": 0.02, "as_of": "2026-11-21"}
    provider = {"base_url": f"{upstream}/v1", "prices": {"fake": price}}
    model = {"offers": [{"provider": "fake", "model": "fake"}]}
    (directory / "providers.yaml").write_text(json.dumps({"providers": {"fake": provider}}))  # JSON is YAML
    (directory / "models.yaml").write_text(json.dumps({"baseline": "openai/gpt-4o-mini", "models": {MODEL: model}}))
    return {"CONFIG_DIR": str(directory), "DATA_DIR": str(directory / "data")}


async def make_keys(tree: Path, variables: Mapping[str, str], count: int, *, limited: bool) -> list[str]:
    """Creates keys of one organisation in the SQLite file of DATA_DIR. Returns their secrets."""
    commands = [["keys", "create", ORGANISATION, "--tier", "enterprise"]] * count
    if not limited:
        commands.append(["keys", "limits", ORGANISATION, *NO_LIMITS])
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMANDS, json.dumps(commands)),
        cwd=tree,
        env=environment(variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await made.communicate()
    keys = out.decode().splitlines()[:count]
    if made.returncode or len(keys) < count:
        raise RuntimeError(f"{tree}: `vllm_service keys create` failed:\n{errors.decode()[-2000:]}")
    return keys


@asynccontextmanager
async def upstream(*options: str) -> AsyncIterator[str]:
    """Starts a provider that answers at once and streams chunks at set times. Yields its URL without /v1."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with process("-m", "benchmarks.gateway_upstream", "--port", str(port), *options, wait_for=url):
        yield url


@asynccontextmanager
async def gateway(
    tree: Path,
    upstream_url: str,
    directory: Path,
    *,
    keys: int = 1,
    limited: bool = True,
    launcher: Sequence[str] = (),
) -> AsyncIterator[Gateway]:
    """Starts `python -m vllm_service serve` of a checkout, with keys, quotas and ledger on SQLite.

    limited: the organisation keeps its default quotas, else it has none. launcher: precedes `-m vllm_service`.
    """
    variables = configure(directory, upstream_url)
    secrets = await make_keys(tree, variables, keys, limited=limited)
    port = free_port()
    serving = {"SERVICE_PORT": str(port), "REQUIRE_KEYS": "true", "REQUESTS_PER_SECOND_PER_IP": "10000000"}
    command = (*launcher, "-m", "vllm_service", "serve")
    url = f"http://127.0.0.1:{port}"
    async with process(*command, variables=variables | serving, wait_for=f"{url}/health/live", directory=tree) as pid:
        yield Gateway(url, pid, secrets)


class Router:
    """A process with an LLMRouter of a checkout, which makes calls on command (benchmarks/router_calls.py)."""

    def __init__(self, started: asyncio.subprocess.Process) -> None:
        self._process = started

    async def calls(self, count: int) -> Mapping[str, Any]:
        """Makes `count` calls. Returns what router_calls.py prints about them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % count)
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process with the LLMRouter has ended: see its errors above")
        measured: Mapping[str, Any] = json.loads(line)
        return measured


@asynccontextmanager
async def router(
    tree: Path, upstream_url: str, directory: Path, *, callers: int, launcher: Sequence[str] = ()
) -> AsyncIterator[Router]:
    """Starts an LLMRouter of a checkout in a process of its own. launcher: precedes the program."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, *launcher, str(ROUTER_CALLS), str(callers)),
        cwd=tree,
        env=environment(configure(directory, upstream_url) | {"PYTHONPATH": str(tree)}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,  # a line holds the times of every call
    )
    try:
        yield Router(started)
        assert started.stdin is not None
        started.stdin.close()
        async with asyncio.timeout(STOP_SECONDS):
            await started.wait()
    finally:
        if started.returncode is None:
            started.kill()
