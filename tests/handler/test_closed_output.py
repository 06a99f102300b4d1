"""The worker's commands end quietly when the reader of their output has ended, as `head` does."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from handler.errors import ConfigurationError
from handler.local.api import serve
from handler.settings import WorkerSettings
from tests.support import FakeEngine

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [("--help",), ("download", "--help"), ("prune", "--help")])
def test_a_command_whose_reader_is_gone_ends_quietly(arguments: tuple[str, ...]) -> None:
    # -E: with PYTHONUNBUFFERED argparse itself would pass over the failed write of `--help`, with exit code 0.
    command = [sys.executable, "-E", "handler.py", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 141


@pytest.mark.parametrize("port", [None, 99999])
def test_the_local_api_refuses_a_port_before_the_engine_loads(port: int | None) -> None:
    engine = FakeEngine()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = port or taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"--rp_api_port {number}: cannot listen there: ") as refused:
            serve(engine, WorkerSettings(environment={}), "127.0.0.1", number)
    assert "Stop what listens there, or name another port." in refused.value.message
    assert engine.requests == []
