"""The parts of vLLM that the worker uses, in the only module that imports it beside `vllm_serve` and `cpu_lora`.

tests/contract checks what is used: vLLM's parser, `AsyncEngineArgs`, `AsyncLLM`, `build_app` and `init_app_state`.
Imports are inside functions: importing vLLM takes seconds, and a wrong setting should be reported before that.
"""

from __future__ import annotations

import argparse
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from handler.engine import chat_template, server_flags, vllm_serve
from handler.engine.arguments import EXTRA_ARGS_NAME, CommandLine, command_line
from handler.engine.protocol import Header
from handler.engine.start_errors import start_error
from handler.errors import ConfigurationError, InvalidInput, NotBegun
from handler.settings import DEMO_FLAGS, WorkerSettings, export

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

# With it answers report how much of their prompt was cached, which the router uses for its estimates.
WORKER_FLAGS: Mapping[str, str] = {"enable_prompt_tokens_details": "true"}
# On a CPU vLLM would compile for half a minute and reserve most of the memory, which suits no laptop.
CPU_FLAGS: Mapping[str, str] = {"enforce_eager": "true", "kv_cache_memory_bytes": "1G"}
# What vLLM makes of WORKER_CLS=auto on a CPU, and what takes its place there with LoRA.
CPU_WORKER = "vllm.v1.worker.cpu_worker.CPUWorker"
LORA_CPU_WORKER = "handler.engine.cpu_lora.LoraCpuWorker"

# Requests also wait for a step or two while others are prefilled; only with a full cache is that a lack of room.
FULL_SHARE = 0.8
STOP_SECONDS = 5.0


def serve_parser() -> argparse.ArgumentParser:
    """Returns vLLM's own parser of `vllm serve`, made to raise instead of printing its usage and exiting."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class RaisingParser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

        def print_help(self, file: object = None) -> NoReturn:
            raise ConfigurationError(
                f"{EXTRA_ARGS_NAME}: --help would end the worker; leave it out. `python handler.py config` shows the "
                "flags that are set",
                param=EXTRA_ARGS_NAME,
            )

    parser: argparse.ArgumentParser = make_arg_parser(RaisingParser(exit_on_error=False))
    return parser


def read_command_line(settings: WorkerSettings, parser: argparse.ArgumentParser) -> CommandLine:
    """Returns the vLLM flags that the worker's environment sets, or those of the demo model where it names none.

    Raises ConfigurationError where a model must be named.
    """
    from vllm import envs
    from vllm.platforms import current_platform

    defaults = {**WORKER_FLAGS, **(CPU_FLAGS if current_platform.is_cpu() else {})}
    known_names = frozenset(envs.environment_variables)
    command = command_line(parser, settings.environment, defaults, known_names)
    if settings.names_a_model or (settings.flags_may_name_a_model and _names_a_model(command, parser)):
        return _with_warnings(command, settings)
    settings.check_that_the_demo_model_may_be_served()
    return _with_warnings(command_line(parser, settings.environment, {**defaults, **DEMO_FLAGS}, known_names), settings)


def _with_warnings(command: CommandLine, settings: WorkerSettings) -> CommandLine:
    unused = server_flags.without_effect(command, takes_jobs=settings.takes_jobs)
    return replace(command, warnings=(*command.warnings, *unused))


def _names_a_model(command: CommandLine, parser: argparse.ArgumentParser) -> bool:
    """Returns whether the flags name a model in any of the ways that vLLM takes. Wrong flags count as naming one."""
    try:
        # What the namespace has already gets no default.
        arguments = parser.parse_args(command.argv(parser), argparse.Namespace(model=None))
    except Exception:  # `parse_arguments` says what is wrong
        return True
    return bool(arguments.model or arguments.model_tag)


def parse_arguments(command: CommandLine, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns the parsed and validated flags; raises ConfigurationError naming the variable to blame."""
    try:
        arguments = parser.parse_args(command.argv(parser))
        vllm_serve.prepare(arguments)
        _check_chat_template(arguments.chat_template)
    except Exception as error:
        raise start_error(error, command, parser) from error
    return arguments


def _check_chat_template(template: str | None) -> None:
    """Raises ValueError for a template that is a file which cannot be read, or no template."""
    from vllm.renderers.chat_utils import load_chat_template

    text = load_chat_template(template)
    if text and (fault := chat_template.fault_of(text)):
        raise ValueError(f"the chat template is not valid: {fault}")


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
    """Returns vLLM's configuration of the engine; raises whatever vLLM does where it is impossible."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import propagate_flash_late_interaction
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    mend = current_platform.is_cpu() and arguments.enable_lora
    if mend:
        export({"VLLM_USE_V2_MODEL_RUNNER": "0"})  # vLLM's other model runner computes a prompt's logits in another way
    engine_args = AsyncEngineArgs.from_cli_args(arguments)
    propagate_flash_late_interaction(arguments, engine_args)
    config = engine_args.create_engine_config(UsageContext.OPENAI_API_SERVER)
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
    """Loads the model and starts the engine core, which records its work in `steps`; raises whatever vLLM does."""
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    if fork and current_platform.is_cpu() and config.parallel_config.world_size == 1:
        _fork_engine_core(config)
    after_the_next_fork(_import_api)
    return AsyncLLM.from_vllm_config(
        config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=arguments.enable_log_requests,
        aggregate_engine_logging=arguments.aggregate_engine_logging,
        # With it only vLLM's own loggers are left out: the one for the steps stays.
        disable_log_stats=arguments.disable_log_stats,
        stat_loggers=[_step_logger(steps)],
    )


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
    level = logging.root.level
    app: FastAPI = build_app(arguments, tasks, llm.model_config)
    # One of its routes imports model_hosting_container_standards, which silences every library's warnings.
    logging.root.setLevel(level)
    await init_app_state(llm, app.state, arguments, tasks)
    # vLLM's error handlers end its server when the engine has died. The worker notices that by itself.
    app.state.server = SimpleNamespace(should_exit=False)
    return app


class LoadedAdapters:
    """`ServedAdapters` of vLLM's app."""

    def __init__(self, app: FastAPI, llm: AsyncLLM) -> None:
        self._models = app.state.openai_serving_models
        self._llm = llm

    def has(self, name: str) -> bool:
        """Returns whether requests may name the adapter."""
        return name in self._models.lora_requests

    async def load(self, name: str, path: Path) -> None:
        """Loads the adapter from its directory under the name; raises InvalidInput or NotBegun."""
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        result = await self._models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=name, lora_path=str(path)))
        if self._llm.errored:
            raise NotBegun("the engine has died")
        if not isinstance(result, str):
            raise InvalidInput(result.error.message)


def credentials(arguments: argparse.Namespace) -> list[Header]:
    """Returns the header with the API key of vLLM's server, if it has one, for calls from inside this process."""
    from vllm import envs

    key = next(iter(arguments.api_key or [envs.VLLM_API_KEY]), None)
    return [(b"authorization", f"Bearer {key}".encode())] if key else []
