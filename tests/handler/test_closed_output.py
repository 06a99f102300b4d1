"""The worker's commands end quietly when the reader of their output has ended, as `head` does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
