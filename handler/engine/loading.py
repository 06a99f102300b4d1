"""Loads vLLM: imports it, brings the model to the disk, starts the engine core. Also holds what makes that shorter."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from handler.engine import vllm_parts
from handler.engine.arguments import CommandLine
from handler.engine.engine_log import EngineLog
from handler.engine.models import EngineModels
from handler.engine.start_errors import start_error
from handler.engine.vllm_parts import EngineSteps
from handler.errors import WorkerError
from handler.settings import WorkerSettings
from handler.start import children, code_caches, read_ahead
from handler.start.compile_cache import LOCAL_ROOT, Compilations
from handler.start.daemon_threads import DaemonThreads
from handler.start.timeline import Timeline

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Started:
    """vLLM's started engine, and the flags that it was started with."""

    command: CommandLine
    parser: argparse.ArgumentParser
    arguments: argparse.Namespace
    #: vLLM's AsyncLLM.
    llm: Any


@dataclass(frozen=True)
class Loading:
    """One load of vLLM. `compilations` is restored here; keeping what was compiled is left to the caller."""

    settings: WorkerSettings
    models: EngineModels
    compilations: Compilations
    steps: EngineSteps
    timeline: Timeline

    async def run(self, *, in_a_thread: bool) -> Started:
        """Returns vLLM's flags and its started engine; raises WorkerError.

        in_a_thread: keep the event loop free meanwhile, for a worker that must answer pings and signals.
        """
        if in_a_thread:
            return await in_thread(
                self._load, undo=lambda started: vllm_parts.stop_llm(started.llm), interrupt=self.models.interrupt
            )
        return self._load()

    def _load(self) -> Started:
        children.end_with_this_process()
        code_caches.keep_code_here(LOCAL_ROOT, self.settings.environment)
        with read_ahead.reading(self.models.path_on_disk(), self.settings.start, self.timeline):
            with self.timeline.phase("import", "importing vLLM"), collection_paused():
                parser = vllm_parts.serve_parser()
                vllm_parts.import_engine()
            command = vllm_parts.read_command_line(self.settings, parser)
            for warning in command.warnings:
                logger.warning(warning)
            if command.serves_demo_model:
                logger.info("MODEL_NAME is not set: serving the bundled demo model, trained on a few hundred answers")
            with explained(command, parser):
                return self._start(command, parser)

    def _start(self, command: CommandLine, parser: argparse.ArgumentParser) -> Started:
        arguments = vllm_parts.parse_arguments(command, parser)
        with self.timeline.phase("model", f"finding {arguments.model}"):
            self.models.localise(arguments, command.source_of)
        with self.timeline.phase("configure", "preparing the configuration"):
            config = vllm_parts.engine_config(arguments)
        with self.timeline.phase("compile_cache"):
            if config.model_config.enforce_eager:
                self.compilations.stay_local()
            else:
                self.compilations.restore(config.compute_hash())
        with self.timeline.phase("load", f"loading {arguments.model} and starting the engine"):
            llm = vllm_parts.start_llm(arguments, config, self.steps, fork=self.settings.may_fork)
        return Started(command, parser, arguments, llm)


@contextmanager
def explained(command: CommandLine, parser: argparse.ArgumentParser) -> Iterator[None]:
    """Raises one WorkerError that names variable, cause and remedy instead of whatever vLLM raises meanwhile."""
    with EngineLog() as log:
        try:
            yield
        except WorkerError:
            raise
        except Exception as error:
            logger.debug("vLLM did not start", exc_info=True)
            raise start_error(error, command, parser, log.cause()) from error


async def in_thread(
    load: Callable[[], Loaded],
    undo: Callable[[Loaded], None],
    interrupt: Callable[[], None] = lambda: None,
    *,
    patience_seconds: float = 2.0,
) -> Loaded:
    """Returns what `load` returns, from a thread.

    If the caller is cancelled, interrupts the load, waits for it, and undoes what it has done all the same. A load that
    does not end within `patience_seconds` loses the processes that it has started, which ends it. One that goes on
    after the same time again is left to the end of this process, which does not wait for it.
    """
    loading = asyncio.ensure_future(DaemonThreads("engine-load", 1).run(lambda left: load()))
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        interrupt()
        if not await _ends(loading, patience_seconds):
            for child in multiprocessing.active_children():
                child.kill()
            await _ends(loading, patience_seconds)
        if not loading.cancel() and not loading.exception():  # one that failed by itself leaves nothing to undo
            undo(loading.result())
        raise


async def _ends(task: asyncio.Future[Any], seconds: float) -> bool:
    done, _ = await asyncio.wait({task}, timeout=seconds)
    return bool(done)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pauses garbage collection while vLLM is imported, and freezes what was imported.

    Importing makes millions of objects that stay; looking for garbage among them took a quarter of the time. Frozen,
    they are not walked again, neither in this process nor in a forked one.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
