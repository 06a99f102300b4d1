"""vLLM in this process: its own OpenAI app, built once and called as ASGI."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from handler.engine import asgi, vllm_parts
from handler.engine.loading import in_thread
from handler.engine.models import EngineModels
from handler.engine.overlap import collection_paused
from handler.engine.protocol import EngineRequest, EngineResponse
from handler.engine.steps import EngineSteps
from handler.errors import EngineUnavailable
from handler.settings import WorkerSettings
from handler.start import read_ahead
from handler.start.compile_cache import Compilations
from handler.start.timeline import Timeline

logger = logging.getLogger(__name__)


class EmbeddedEngine:
    """An `Engine`: vLLM's API without a port, a second server process, or a copy of its code."""

    def __init__(
        self, settings: WorkerSettings, *, load_in_thread: bool = False, timeline: Timeline | None = None
    ) -> None:
        """`load_in_thread` keeps the event loop free while the model loads, for a worker that must answer pings."""
        self._timeline = timeline or Timeline(settings.start.usd_per_second)
        self._load_in_thread = load_in_thread
        self._settings = settings
        self._resources = AsyncExitStack()
        self._app: Any = None  # vLLM's FastAPI app
        self._llm: Any = None  # vLLM's AsyncLLM
        self._headers: list[asgi.Header] = []
        self._steps = EngineSteps()
        self._models = EngineModels(settings.models)
        self._compilations = Compilations(settings.start.compile_cache_dir)

    async def start(self) -> None:
        """Imports vLLM, loads the model, builds the app; logs what each phase took."""
        if self._load_in_thread:
            arguments, self._llm = await in_thread(self._load, undo=lambda loaded: vllm_parts.stop_llm(loaded[1]))
        else:
            arguments, self._llm = self._load()
        self._resources.callback(vllm_parts.stop_llm, self._llm)
        with self._timeline.phase("api", "building the API"):
            self._app = await vllm_parts.build_api(arguments, self._llm)
            await self._resources.enter_async_context(self._app.router.lifespan_context(self._app))
        self._headers = vllm_parts.credentials(arguments)
        self._timeline.report()
        keeping = asyncio.create_task(asyncio.to_thread(self._compilations.keep))
        self._resources.push_async_callback(asyncio.wait, {keeping})

    def _load(self) -> tuple[argparse.Namespace, Any]:
        with read_ahead.reading(self._models.path_on_disk(), self._settings.start, self._timeline):
            return self._import_and_load()

    def _import_and_load(self) -> tuple[argparse.Namespace, Any]:
        with self._timeline.phase("import", "importing vLLM"), collection_paused():
            parser = vllm_parts.serve_parser()
            vllm_parts.import_engine()
        command = vllm_parts.read_command_line(self._settings, parser)
        for warning in command.warnings:
            logger.warning(warning)
        arguments = vllm_parts.parse_arguments(command, parser)
        with self._timeline.phase("model", f"finding {arguments.model}"):
            self._models.localise(arguments)
        with self._timeline.phase("configure", "preparing the configuration"):
            config = vllm_parts.engine_config(arguments)
        if not config.model_config.enforce_eager:
            with self._timeline.phase("compile_cache"):
                self._compilations.restore(config.compute_hash())
        with self._timeline.phase("load", f"loading {arguments.model} and starting the engine"):
            return arguments, vllm_parts.start_llm(config, self._steps, fork=self._settings.may_fork)

    def send(self, request: EngineRequest) -> AbstractAsyncContextManager[EngineResponse]:
        """Calls vLLM's app in this process."""
        return self._send(request)

    @asynccontextmanager
    async def _send(self, request: EngineRequest) -> AsyncIterator[EngineResponse]:
        if self._app is None:
            raise EngineUnavailable("the engine has not started")
        await self.check_health()
        request = await self._models.with_local_adapter(request)
        async with asgi.call(self._app, request, self._headers) as response:
            yield response

    def request_fields(self, path: str) -> Collection[str]:
        """Read off the request model of vLLM's own route."""
        for route in self._app.routes if self._app else ():
            body = getattr(route, "body_field", None)
            if getattr(route, "path", None) == path and body is not None:
                return _model_fields(body)
        return ()

    @property
    def capacity(self) -> int:
        """`max_num_seqs`, the number of sequences that vLLM batches at most, or fewer while its KV cache is full."""
        if self._llm is None:
            raise EngineUnavailable("the engine has not started")
        return self._steps.capacity(self._llm.vllm_config.scheduler_config.max_num_seqs)

    @property
    def progress(self) -> int | None:
        """Counts the steps whose outputs have come back from the engine core."""
        return self._steps.count

    async def check_health(self) -> None:
        """Raises EngineUnavailable once the engine's process has died."""
        if self._llm is None or self._llm.errored:
            raise EngineUnavailable("the engine has died" if self._llm else "the engine has not started")

    async def stop(self) -> None:
        """Ends the app and the engine's processes."""
        await self._resources.aclose()
        self._app = self._llm = None


def _model_fields(body: Any) -> Collection[str]:
    model = getattr(body, "type_", None) or getattr(body.field_info, "annotation", None)
    return frozenset(getattr(model, "model_fields", ()))
