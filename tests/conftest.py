"""One real vLLM, one real Redis and one real Postgres, each started when first asked for, serve the whole session."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from handler.dispatch import Dispatcher
from handler.engine.embedded import EmbeddedEngine
from handler.settings import WorkerSettings, export
from tests.groups import rank_of, scheduling
from tests.servers import PostgresServer, RedisServer
from tests.support import Worker

OUR_LOGGERS = ("handler", "vllm_service", "runpod_emulator")
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, whole groups of files go to the processes; see tests/groups.py."""
    return scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n`, in the order of the groups; alone, in the order of the files."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank_of(item.nodeid))


@pytest.fixture(autouse=True)
def logs_reach_caplog() -> None:
    """Undoes what libraries and earlier tests in this process have done to our loggers: levels, switches, detours."""
    logging.disable(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith(OUR_LOGGERS) and isinstance(logger, logging.Logger):
            logger.disabled = False
            logger.propagate = True
            logger.setLevel(logging.NOTSET)


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


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Empty it before use."""
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """`emptied` gives an empty database."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as directory:
        server = PostgresServer(Path(directory))
        yield server
        server.stop()
