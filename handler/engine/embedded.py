"""vLLM in this process: its own OpenAI app, built once and called as ASGI. The only module that imports vLLM.

Used of vLLM: its parser, `AsyncEngineArgs`, `AsyncLLM`, `build_app` and `init_app_state`; tests/contract holds them.
Imports are inside functions: importing vLLM takes seconds, and a wrong setting should not wait for it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from handler.engine import asgi
from handler.engine.arguments import CommandLine, blame, command_line
from handler.engine.loading import in_thread
from handler.engine.models import EngineModels
from handler.engine.phases import ObservePhase, phase
from handler.engine.protocol import EngineRequest, EngineResponse
from handler.engine.steps import EngineSteps
from handler.errors import ConfigurationError, EngineUnavailable
from handler.settings import WorkerSettings, export

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)

# On a CPU vLLM would compile for half a minute and reserve most of the memory; a laptop wants neither.
CPU_FLAGS: Mapping[str, str] = {"enforce_eager": "true", "kv_cache_memory_bytes": "1G"}

STOP_SECONDS = 5.0


def serve_parser() -> argparse.ArgumentParser:
    """vLLM's own parser of `vllm serve`, made to raise instead of to print its usage and exit."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class RaisingParser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise ConfigurationError(f"vLLM refuses its flags: {message}")

    parser: argparse.ArgumentParser = make_arg_parser(RaisingParser(exit_on_error=False))
    return parser


def read_command_line(settings: WorkerSettings, parser: argparse.ArgumentParser) -> CommandLine:
    """The vLLM flags that the worker's environment asks for."""
    from vllm import envs
    from vllm.platforms import current_platform

    defaults = {**(CPU_FLAGS if current_platform.is_cpu() else {}), **settings.vllm_defaults}
    return command_line(parser, settings.environment, defaults, known_names=frozenset(envs.environment_variables))


def parse_arguments(command: CommandLine, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed and validated flags; raises ConfigurationError naming the variable that is to blame."""
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    try:
        arguments = parser.parse_args(command.argv(parser))
        validate_parsed_serve_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigurationError(blame(command, parser, error)) from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"vLLM refuses its flags: {error}") from error
    return arguments


class EmbeddedEngine:
    """An `Engine`: vLLM's API without a port, a second server process, or a copy of its code."""

    def __init__(
        self, settings: WorkerSettings, *, load_in_thread: bool = False, observe_phase: ObservePhase | None = None
    ) -> None:
        """`load_in_thread` keeps the event loop free while the model loads, for a worker that must answer pings."""
        self._observe_phase = observe_phase
        self._load_in_thread = load_in_thread
        self._settings = settings
        self._resources = AsyncExitStack()
        self._app: FastAPI | None = None
        self._llm: AsyncLLM | None = None
        self._headers: list[asgi.Header] = []
        self._steps = EngineSteps()
        self._models = EngineModels(settings.models)

    async def start(self) -> None:
        """Imports vLLM, loads the model, builds the app; logs what each phase took."""
        if self._load_in_thread:
            arguments, self._llm = await in_thread(self._load, undo=lambda loaded: _stop_llm(loaded[1]))
        else:
            arguments, self._llm = self._load()
        self._resources.callback(_stop_llm, self._llm)
        with phase("api", "building the API", self._observe_phase):
            self._app = await _build_app(arguments, self._llm)
            await self._resources.enter_async_context(self._app.router.lifespan_context(self._app))
        self._headers = _credentials(arguments)

    def _load(self) -> tuple[argparse.Namespace, AsyncLLM]:
        with phase("import", "importing vLLM", self._observe_phase):
            parser = serve_parser()
        command = read_command_line(self._settings, parser)
        for warning in command.warnings:
            logger.warning(warning)
        arguments = parse_arguments(command, parser)
        with phase("model", f"finding {arguments.model}", self._observe_phase):
            self._models.localise(arguments)
        with phase("configure", "preparing the configuration", self._observe_phase):
            config = _engine_config(arguments)
        with phase("load", f"loading {arguments.model} and starting the engine", self._observe_phase):
            return arguments, _start_llm(config, self._steps, fork=self._settings.may_fork)

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


def _step_logger(steps: EngineSteps) -> Callable[[VllmConfig, int], Any]:
    """Tells `steps` of vLLM's engine steps, as one of its statistics loggers, of which it makes one per engine core."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class StepLogger(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
            del vllm_config
            self._engine_index = engine_index

        def record(self, scheduler_stats: Any, *args: Any, **kwargs: Any) -> None:
            steps.record(scheduler_stats, self._engine_index)

        def log_engine_initialized(self) -> None:
            pass

    return StepLogger


def _engine_config(arguments: argparse.Namespace) -> VllmConfig:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    try:
        return AsyncEngineArgs.from_cli_args(arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"vLLM cannot serve {arguments.model}: {error}") from error


def _start_llm(config: VllmConfig, steps: EngineSteps, *, fork: bool) -> AsyncLLM:
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    if fork and current_platform.is_cpu() and config.parallel_config.world_size == 1:
        _fork_engine_core(config)
    try:
        return AsyncLLM.from_vllm_config(
            config, usage_context=UsageContext.OPENAI_API_SERVER, stat_loggers=[_step_logger(steps)]
        )
    except Exception as error:
        raise EngineUnavailable(f"the engine did not start: {error}") from error


def _fork_engine_core(config: VllmConfig) -> None:
    """Forks the engine core from this process, which has imported everything, instead of spawning two that import anew.

    Start-up 9 s instead of 23 s on two cores (FACTS.md). Safe on a CPU, where nothing has run in this process that a
    fork would tear apart; on CUDA vLLM forks by itself while CUDA is not initialised here.
    """
    export({"VLLM_WORKER_MULTIPROC_METHOD": "fork"}, overwrite=True)
    config.parallel_config.distributed_executor_backend = "uni"


def _stop_llm(llm: AsyncLLM) -> None:
    """vLLM's own default gives its processes no time at all and kills them, with warnings."""
    llm.shutdown(timeout=max(STOP_SECONDS, llm.vllm_config.shutdown_timeout))


async def _build_app(arguments: argparse.Namespace, llm: AsyncLLM) -> FastAPI:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await llm.get_supported_tasks()
    app: FastAPI = build_app(arguments, tasks, llm.model_config)
    await init_app_state(llm, app.state, arguments, tasks)
    return app


def _credentials(arguments: argparse.Namespace) -> list[asgi.Header]:
    """Whoever set a key for vLLM's server meant its port; calls from inside this process carry it along."""
    from vllm import envs

    key = next(iter(arguments.api_key or [envs.VLLM_API_KEY]), None)
    return [(b"authorization", f"Bearer {key}".encode())] if key else []


def _model_fields(body: Any) -> Collection[str]:
    model = getattr(body, "type_", None) or getattr(body.field_info, "annotation", None)
    return frozenset(getattr(model, "model_fields", ()))
