"""Everything that is used of vLLM, in the only module that imports it; tests/contract checks what is used.

These are its parser, `AsyncEngineArgs`, `AsyncLLM`, `build_app` and `init_app_state`. Imports are inside functions:
importing vLLM takes seconds, and a wrong setting should be reported before that.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from handler.engine.arguments import CommandLine, blame, command_line
from handler.errors import ConfigurationError, EngineUnavailable
from handler.settings import WorkerSettings, export

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

# With it answers report how much of their prompt was cached, which the router uses for its estimates.
WORKER_FLAGS: Mapping[str, str] = {"enable_prompt_tokens_details": "true"}
# On a CPU vLLM would compile for half a minute and reserve most of the memory, which suits no laptop.
CPU_FLAGS: Mapping[str, str] = {"enforce_eager": "true", "kv_cache_memory_bytes": "1G"}
# Flags that name Python files with parsers for tool calls and for reasoning.
PLUGIN_FLAGS = ("tool_parser_plugin", "reasoning_parser_plugin")
# Flags of the server that `vllm serve` puts around engine and app. This worker has its own, or none.
SERVER_FLAGS = frozenset(
    {"api_server_count", "grpc", "grpc_port", "headless", "uds", "uvicorn_log_level", "disable_uvicorn_access_log"}
    | {"disable_access_log_for_endpoints", "h11_max_incomplete_event_size", "h11_max_header_count"}
    | {"ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh"}
    | {"data_parallel_multi_port_external_lb", "data_parallel_supervisor_port"}
)
# What vLLM makes of WORKER_CLS=auto on a CPU, and what takes its place there with LoRA.
CPU_WORKER = "vllm.v1.worker.cpu_worker.CPUWorker"
LORA_CPU_WORKER = "handler.engine.cpu_lora.LoraCpuWorker"

# Requests also wait for a step or two while others are prefilled; only with a full cache is that a lack of room.
FULL_SHARE = 0.8
STOP_SECONDS = 5.0

Header = tuple[bytes, bytes]


def serve_parser() -> argparse.ArgumentParser:
    """Returns vLLM's own parser of `vllm serve`, made to raise instead of printing its usage and exiting."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class RaisingParser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise ConfigurationError(f"vLLM refuses its flags: {message}")

    parser: argparse.ArgumentParser = make_arg_parser(RaisingParser(exit_on_error=False))
    return parser


def read_command_line(settings: WorkerSettings, parser: argparse.ArgumentParser) -> CommandLine:
    """Returns the vLLM flags that the worker's environment sets."""
    from vllm import envs
    from vllm.platforms import current_platform

    defaults = {**WORKER_FLAGS, **(CPU_FLAGS if current_platform.is_cpu() else {}), **settings.vllm_defaults}
    command = command_line(parser, settings.environment, defaults, known_names=frozenset(envs.environment_variables))
    return with_server_warnings(command)


def with_server_warnings(command: CommandLine) -> CommandLine:
    """Returns the command line with a warning for each flag that only the server of `vllm serve` reads."""
    options = {word.partition("=")[0].removeprefix("--").replace("-", "_"): word for word in command.extra}
    sources = {setting.flag: setting.source for setting in command.settings}
    given = options | sources
    warnings = (
        f"{given[flag]} has no effect: it is for the server of `vllm serve`, and this worker brings its own"
        for flag in sorted(SERVER_FLAGS & given.keys())
    )
    return replace(command, warnings=(*command.warnings, *warnings))


def parse_arguments(command: CommandLine, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns the parsed and validated flags; raises ConfigurationError naming the variable to blame."""
    try:
        arguments = parser.parse_args(command.argv(parser))
        _prepare_as_vllm_serve(arguments)
    except argparse.ArgumentError as error:
        raise ConfigurationError(blame(command, parser, error)) from error
    except (TypeError, ValueError, LookupError) as error:
        raise ConfigurationError(f"vLLM refuses its flags: {error}") from error
    return arguments


def _prepare_as_vllm_serve(arguments: argparse.Namespace) -> None:
    """Does with the flags what `vllm serve` does before it builds the engine; raises whatever vLLM does.

    tests/contract/test_vllm_serve.py lists every step of `vllm serve`, and where it is done here.
    """
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.logger import configure_logging_from_args

    arguments.model = arguments.model_tag or arguments.model
    configure_logging_from_args(arguments)
    validate_parsed_serve_args(arguments)
    for flag in PLUGIN_FLAGS:
        if plugin := getattr(arguments, flag):
            _import_plugin(flag, plugin)
    validate_api_server_args(arguments)
    _check_parsers(arguments)


def _check_parsers(arguments: argparse.Namespace) -> None:
    """Raises KeyError for an unknown parser that vLLM would find only once the model is loaded."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for kind, named, manager in (
        ("tool call parser", arguments.tool_call_parser, ToolParserManager),
        ("reasoning parser", arguments.reasoning_parser, ReasoningParserManager),
    ):
        if named and named not in manager.list_registered():
            raise KeyError(f"invalid {kind}: {named} (there are {', '.join(sorted(manager.list_registered()))})")


def _import_plugin(flag: str, plugin: str) -> None:
    """Imports the parsers that users bring; raises ConfigurationError where vLLM would only log that it cannot."""
    from vllm.utils.import_utils import import_plugin

    if import_plugin(plugin) is None:
        variable = flag.upper()
        raise ConfigurationError(
            f"{variable}={plugin}: cannot be imported; the log has the error. Name a Python file inside the worker, or "
            "a module that is installed there",
            param=variable,
        )


class SchedulerStats(Protocol):
    """The part of vLLM's statistics of one step that is read here."""

    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float


class EngineSteps:
    """Counts the steps of every engine core, and remembers how the last step of each left its KV cache."""

    def __init__(self) -> None:
        self.count = 0
        #: By engine core: how many requests fit, None where more would.
        self._full: dict[int, int | None] = {0: None}

    def record(self, stats: SchedulerStats | None, engine_index: int) -> None:
        """Counts a step. Without `stats` the state of the cache stays as it was."""
        self.count += 1
        if stats is not None:
            is_full = stats.num_waiting_reqs > 0 and stats.kv_cache_usage >= FULL_SHARE
            self._full[engine_index] = stats.num_running_reqs if is_full else None

    def capacity(self, max_num_seqs: int) -> int:
        """Returns how many requests would run now rather than wait: `max_num_seqs` per core, or what fits a full cache.

        Never 0: an idle engine makes no step that could report room again.
        """
        return max(1, sum(max_num_seqs if fits is None else fits for fits in self._full.values()))


def _step_logger(steps: EngineSteps) -> Callable[[VllmConfig, int], Any]:
    """Returns one of vLLM's statistics loggers that records its engine's steps in `steps`.

    vLLM makes one per engine core.
    """
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


def engine_config(arguments: argparse.Namespace) -> VllmConfig:
    """Returns vLLM's configuration of the engine; raises ConfigurationError."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import propagate_flash_late_interaction
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    mend = current_platform.is_cpu() and arguments.enable_lora
    if mend:
        export({"VLLM_USE_V2_MODEL_RUNNER": "0"})  # vLLM's other model runner asks for a prompt's logits differently
    try:
        engine_args = AsyncEngineArgs.from_cli_args(arguments)
        propagate_flash_late_interaction(arguments, engine_args)
        config = engine_args.create_engine_config(UsageContext.OPENAI_API_SERVER)
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"vLLM cannot serve {arguments.model}: {error}") from error
    if mend:
        _mend_lora_on_cpu(config)
    return config


def _mend_lora_on_cpu(config: VllmConfig) -> None:
    """Makes vLLM load the worker that keeps adapters away from requests without one; raises ConfigurationError.

    `cpu_lora` says what is wrong with vLLM's own.
    """
    for name, value, plain in (
        ("WORKER_CLS", config.parallel_config.worker_cls, CPU_WORKER),
        ("VLLM_USE_V2_MODEL_RUNNER", config.use_v2_model_runner, False),
    ):
        if value != plain:
            raise ConfigurationError(
                f"{name}={value}: cannot be used with ENABLE_LORA on a CPU, where adapters would also change the "
                f"answers of requests without one; unset {name} or ENABLE_LORA",
                param=name,
            )
    config.parallel_config.worker_cls = LORA_CPU_WORKER


def start_llm(arguments: argparse.Namespace, config: VllmConfig, steps: EngineSteps, *, fork: bool) -> AsyncLLM:
    """Loads the model and starts the engine core, which records its work in `steps`; raises EngineUnavailable."""
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    if fork and current_platform.is_cpu() and config.parallel_config.world_size == 1:
        _fork_engine_core(config)
    after_the_next_fork(_import_api)
    try:
        return AsyncLLM.from_vllm_config(
            config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            enable_log_requests=arguments.enable_log_requests,
            aggregate_engine_logging=arguments.aggregate_engine_logging,
            # With it only vLLM's own loggers are left out: the one for the steps stays.
            disable_log_stats=arguments.disable_log_stats,
            stat_loggers=[_step_logger(steps)],
        )
    except Exception as error:
        raise EngineUnavailable(f"the engine did not start: {error}") from error


def after_the_next_fork(work: Callable[[], None]) -> None:
    """Runs `work` in a thread of this process once it has forked.

    A thread before that could leave the child a held lock.

    A process that spawns instead never runs it: `work` must be something that would be done later anyway.
    """
    pending = [work]

    def start() -> None:
        if pending:
            threading.Thread(target=pending.pop(), name="beside-the-engine-core", daemon=True).start()

    os.register_at_fork(after_in_parent=start)


def _fork_engine_core(config: VllmConfig) -> None:
    """Makes vLLM fork the engine core from this process instead of spawning two processes that import everything anew.

    The start takes 9 s instead of 23 s on two cores (2026-11). On a CPU that is safe, because nothing has
    run in this process that a fork would tear apart. On CUDA vLLM forks by itself while CUDA is not initialised here.
    """
    export({"VLLM_WORKER_MULTIPROC_METHOD": "fork"}, overwrite=True)
    config.parallel_config.distributed_executor_backend = "uni"


def import_engine() -> None:
    """Imports what the engine core and its worker need, so that a forked core has it."""
    from vllm.platforms import current_platform
    from vllm.v1.engine import async_llm, core  # noqa: F401

    if current_platform.is_cpu():
        from vllm.v1.worker import cpu_worker  # noqa: F401


def _import_api() -> None:
    """Imports what `build_api` needs, while the engine core loads the model in a process of its own."""
    from vllm.entrypoints.launchers import app  # noqa: F401
    from vllm.entrypoints.launchers.api_server import app_state, routers  # noqa: F401


def has_requests(llm: AsyncLLM) -> bool:
    """Returns whether requests are inside the engine: taken by it, and neither answered nor aborted."""
    return bool(llm.get_num_unfinished_requests())


def stop_llm(llm: AsyncLLM) -> None:
    """Ends the engine's processes. vLLM's own default gives them no time and kills them, with warnings."""
    llm.shutdown(timeout=max(STOP_SECONDS, llm.vllm_config.shutdown_timeout))


async def build_api(arguments: argparse.Namespace, llm: AsyncLLM) -> FastAPI:
    """Returns vLLM's own OpenAI app for the engine."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.utils.system_utils import set_ulimit

    set_ulimit()
    await llm.reset_mm_cache()  # what the engine warmed itself up with
    tasks = await llm.get_supported_tasks()
    app: FastAPI = build_app(arguments, tasks, llm.model_config)
    await init_app_state(llm, app.state, arguments, tasks)
    # vLLM's error handlers tell its server to exit when the engine has died. The worker notices that by itself.
    app.state.server = SimpleNamespace(should_exit=False)
    return app


def credentials(arguments: argparse.Namespace) -> list[Header]:
    """Returns the header with the API key of vLLM's server, if it has one, for calls from inside this process."""
    from vllm import envs

    key = next(iter(arguments.api_key or [envs.VLLM_API_KEY]), None)
    return [(b"authorization", f"Bearer {key}".encode())] if key else []
