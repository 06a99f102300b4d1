"""The port of the metrics is no condition of the worker's life."""

from __future__ import annotations

import logging
import socket

import pytest

from handler import metrics


def test_a_metrics_port_that_is_taken_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("", 0)) as other, caplog.at_level(logging.WARNING, "handler"):
        port = other.getsockname()[1]
        metrics.serve(port)
    assert f"METRICS_PORT={port} cannot be used" in caplog.text
    assert "Address already in use" in caplog.text
