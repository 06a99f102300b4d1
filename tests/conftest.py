"""One real vLLM, booted once, serves the whole test session."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator

import pytest

from handler.dispatch import Dispatcher
from handler.engine.embedded import EmbeddedEngine
from handler.settings import WorkerSettings, export
from tests.support import Worker


@pytest.fixture(scope="session")
def settings() -> WorkerSettings:
    """A laptop's: nothing set, so the demo model is served."""
    return WorkerSettings(environment={})


@pytest.fixture(scope="session")
async def engine(settings: WorkerSettings) -> AsyncIterator[EmbeddedEngine]:
    """The real engine with the demo model; do not stop it."""
    export({"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"})
    engine = EmbeddedEngine(settings)
    with warnings.catch_warnings():
        # vLLM's own deprecations are not ours; its core is forked from here and keeps the filters of this moment.
        warnings.simplefilter("ignore")
        await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture(scope="session")
async def worker(engine: EmbeddedEngine, settings: WorkerSettings) -> Worker:
    """Runs job inputs on the real engine."""
    return Worker(Dispatcher(engine, settings))
