"""A gateway process as its users run it: `python -m vllm_service serve`, with two files and the environment."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.process import START_SECONDS, run, start


@dataclass(frozen=True)
class Gateway:
    """A gateway that answers at `url` (with `/v1`), and where its files are."""

    url: str
    directory: Path
    process: asyncio.subprocess.Process

    async def stop(self) -> None:
        """SIGTERM; asserts that it ends with 0."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            assert await self.process.wait() == 0, (self.directory / "log").read_text()


def configure(directory: Path, providers: Mapping[str, Any], models: Mapping[str, Any]) -> None:
    """Writes both files; JSON is YAML."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "providers.yaml").write_text(json.dumps({"providers": providers}))
    (directory / "models.yaml").write_text(json.dumps({"baseline": "openai/gpt-4o-mini", "models": models}))


def variables_of(directory: Path, **more: str) -> dict[str, str]:
    """What the gateway and its commands are told; a free port."""
    return {"SERVICE_PORT": "0", "CONFIG_DIR": str(directory), "DATA_DIR": str(directory / "data")} | more


async def command(*arguments: str, **variables: str) -> str:
    """What `python -m vllm_service ARGUMENTS` wrote to stdout; asserts that it ended with 0."""
    finished = await run("-m", "vllm_service", *arguments, **variables)
    assert finished.code == 0, finished.stderr
    return finished.stdout.strip()


@asynccontextmanager
async def gateway(directory: Path, **variables: str) -> AsyncIterator[Gateway]:
    """A gateway that listens; stopped by SIGTERM unless it has ended already."""
    process = await start("-m", "vllm_service", "serve", variables=variables_of(directory, **variables))
    assert process.stdout is not None
    assert process.stderr is not None
    log = asyncio.create_task(_kept(process.stderr, directory / "log"))
    try:
        async with asyncio.timeout(START_SECONDS):
            url = (await process.stdout.readline()).decode().strip()
        assert url, await process.stderr.read()
        running = Gateway(url, directory, process)
        yield running
        if process.returncode is None:
            await running.stop()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await log


async def _kept(stream: asyncio.StreamReader, path: Path) -> None:
    with path.open("ab") as file:
        while piece := await stream.read(65536):
            file.write(piece)
            file.flush()
