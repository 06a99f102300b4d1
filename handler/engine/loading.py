"""Loads vLLM: imports it, brings the model to the disk, starts the engine core. Also holds what makes that shorter."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from handler.engine import vllm_parts
from handler.engine.models import EngineModels
from handler.engine.vllm_parts import EngineSteps
from handler.settings import WorkerSettings
from handler.start import read_ahead
from handler.start.compile_cache import Compilations
from handler.start.timeline import Timeline

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Loading:
    """One load of vLLM. `compilations` is restored here; keeping what was compiled is left to the caller."""

    settings: WorkerSettings
    models: EngineModels
    compilations: Compilations
    steps: EngineSteps
    timeline: Timeline

    async def run(self, *, in_a_thread: bool) -> tuple[argparse.Namespace, Any]:
        """Returns vLLM's flags and its started engine; raises WorkerError.

        in_a_thread: keep the event loop free meanwhile, for a worker that must answer pings and signals.
        """
        if in_a_thread:
            return await in_thread(self._load, undo=lambda loaded: vllm_parts.stop_llm(loaded[1]))
        return self._load()

    def _load(self) -> tuple[argparse.Namespace, Any]:
        with read_ahead.reading(self.models.path_on_disk(), self.settings.start, self.timeline):
            return self._import_and_load()

    def _import_and_load(self) -> tuple[argparse.Namespace, Any]:
        with self.timeline.phase("import", "importing vLLM"), collection_paused():
            parser = vllm_parts.serve_parser()
            vllm_parts.import_engine()
        command = vllm_parts.read_command_line(self.settings, parser)
        for warning in command.warnings:
            logger.warning(warning)
        arguments = vllm_parts.parse_arguments(command, parser)
        with self.timeline.phase("model", f"finding {arguments.model}"):
            self.models.localise(arguments)
        with self.timeline.phase("configure", "preparing the configuration"):
            config = vllm_parts.engine_config(arguments)
        if not config.model_config.enforce_eager:
            with self.timeline.phase("compile_cache"):
                self.compilations.restore(config.compute_hash())
        with self.timeline.phase("load", f"loading {arguments.model} and starting the engine"):
            return arguments, vllm_parts.start_llm(arguments, config, self.steps, fork=self.settings.may_fork)


async def in_thread(load: Callable[[], Loaded], undo: Callable[[Loaded], None]) -> Loaded:
    """Returns what `load` returns.

    If the caller is cancelled, waits for the thread, which cannot be, and undoes its work.
    """
    loading = asyncio.ensure_future(asyncio.to_thread(load))
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # a load that failed by itself leaves nothing to undo
            undo(await loading)
        raise


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
