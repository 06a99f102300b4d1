"""The image's health check, against a real HTTP server and real processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scripts.image.healthcheck import HEALTHY, UNHEALTHY, check


@contextmanager
def pinged(status: int) -> Iterator[str]:
    """A worker's port, where /ping answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ping" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield str(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("status", "health"), [(200, HEALTHY), (204, HEALTHY), (503, UNHEALTHY)])
def test_where_http_is_served_ping_decides(status: int, health: int) -> None:
    with pinged(status) as port:
        assert check({"PORT": port}) == health
        assert check({"PORT": "1", "PORT_HEALTH": port}) == health


def test_a_port_that_nobody_listens_on_is_unhealthy() -> None:
    with pinged(200) as port:
        pass
    assert check({"PORT": port}) == UNHEALTHY


def test_a_queue_worker_is_healthy_as_long_as_the_first_process_is_one(tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_bytes(b"python\0-u\0handler.py\0")
    queue = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/job-take/x", "PORT": "1"}
    assert check(queue, tmp_path) == HEALTHY
    (tmp_path / "cmdline").write_bytes(b"")  # a zombie's
    assert check(queue, tmp_path) == UNHEALTHY


def test_a_process_that_is_gone_is_unhealthy(tmp_path: Path) -> None:
    assert check({}, tmp_path / str(os.getpid())) == UNHEALTHY
