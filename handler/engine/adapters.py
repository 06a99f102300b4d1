"""LoRA adapters that come while the engine serves: from a folder that all workers share, or by a caller's request.

A request to load an adapter reaches one worker of many. A folder on a network volume reaches all: each worker loads an
adapter from it when a request first names it as its model.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from handler.engine.protocol import Answer, EngineRequest, is_success
from handler.errors import InvalidInput
from handler.start.daemon_threads import DaemonThreads
from handler.volume.path import VolumePath

logger = logging.getLogger(__name__)

LOAD_ADAPTER_PATH = "/v1/load_lora_adapter"
UNLOAD_ADAPTER_PATH = "/v1/unload_lora_adapter"
ADAPTER_PATHS = frozenset({LOAD_ADAPTER_PATH, UNLOAD_ADAPTER_PATH})
ADAPTER_FILE = "adapter_config.json"
# One folder's name: no slash, and no dot or dash at its beginning.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
ONLY_UNLOADED_HERE = "Only this worker has unloaded it: others that have it keep it."
# How long an adapter that could not be loaded is not tried again: loading stops the engine's steps for a moment.
RETRY_SECONDS = 30.0


class ServedAdapters(Protocol):
    """The adapters that the engine has by now."""

    def has(self, name: str) -> bool:
        """Returns whether requests may name the adapter."""

    async def load(self, name: str, path: Path) -> None:
        """Loads the adapter from its directory under the name; raises InvalidInput."""


class AdapterNotLoadable(InvalidInput):
    """The shared folder has the adapter, but the engine cannot use it."""

    code = "adapter_not_loadable"


class AdaptersAreFixed(InvalidInput):
    """The engine's API has no route that loads or unloads adapters."""

    status = 404
    code = "path_not_found"


class SharedAdapters:
    """The folder, one directory for each adapter. What is kept here is bounded by the number of its directories."""

    def __init__(self, directory: Path, served: ServedAdapters, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._served = served
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._threads = DaemonThreads("adapter-lookup", 1)
        #: Adapters that could not be loaded, by name: until when one is not tried again, and why.
        self.refused: dict[str, tuple[float, str]] = {}

    async def load_for(self, request: EngineRequest) -> bool:
        """Returns whether the adapter that a refused request names is served now, so that it may be sent once more.

        Raises AdapterNotLoadable.
        """
        name = model_of(request)
        if name is None or not NAME.fullmatch(name):
            return False
        path = await self._threads.run(lambda _: find(self._directory, name))
        if path is None:
            return False
        async with self._one_at_a_time:
            if not self._served.has(name):
                await self._load(name, path)
        return True

    async def _load(self, name: str, path: Path) -> None:
        until, reason = self.refused.get(name, (0.0, ""))
        if reason and self._clock() < until:
            raise AdapterNotLoadable(reason, param="model")
        try:
            await self._served.load(name, path)
        except InvalidInput as error:
            reason = f"model: the adapter {name!r} of the shared folder cannot be loaded: {error.message}"
            self.refused[name] = self._clock() + RETRY_SECONDS, reason
            raise AdapterNotLoadable(reason, param="model") from error
        self.refused.pop(name, None)


def model_of(request: EngineRequest) -> str | None:
    """Returns the model that a request with a JSON body names."""
    try:
        body = json.loads(request.body or b"")
    except (ValueError, RecursionError):
        return None
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None


def find(directory: Path, name: str) -> Path | None:
    """Returns the adapter's directory inside `directory`, followed through links; None where there is none.

    vLLM opens the files by itself: a link that leads out of `directory`, or a FIFO, makes none of them an adapter.
    """
    adapter = VolumePath(directory, links=True) / name
    if not adapter.is_dir() or (adapter / ADAPTER_FILE).size() is None:
        return None
    if not adapter.has_only_files():
        logger.warning("%s is no adapter: it holds links that lead out of %s, or special files", adapter, directory)
        return None
    path = adapter.path.resolve()
    return path if path != directory.resolve() else None


def with_advice(path: str, answer: Answer, directory: Path) -> Answer:
    """Returns the answer to a request for one of ADAPTER_PATHS, with its reach where it succeeded."""
    if not is_success(answer.status):
        return answer
    advice = f" {only_here(directory) if path == LOAD_ADAPTER_PATH else ONLY_UNLOADED_HERE}".encode()
    return replace(answer, pieces=_followed_by(answer.pieces, advice))


async def _followed_by(pieces: AsyncIterator[bytes], end: bytes) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece
    yield end


def check_route(path: str, paths: Collection[str], directory: Path) -> None:
    """Raises AdaptersAreFixed where the engine's API, which has `paths`, changes no adapters by request."""
    if path not in paths:
        raise AdaptersAreFixed(
            "route: this worker neither loads nor unloads adapters by request. VLLM_ALLOW_RUNTIME_LORA_UPDATING=true "
            f"allows that to everybody who has a key, on one worker at a time. {for_all(directory)}",
            param="route",
        )


def only_here(directory: Path) -> str:
    """Returns the reach of an adapter that was loaded by request, and another way."""
    return f"Only this worker has it, and only until it stops. {for_all(directory)}"


def for_all(directory: Path) -> str:
    """Returns how every worker can have an adapter."""
    return (
        f"For an adapter that every worker has, put its folder into {directory} on a network volume (ADAPTERS_DIR): "
        "each worker loads it when a request first names the folder as its model."
    )
