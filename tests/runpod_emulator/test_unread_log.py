"""An emulator whose stderr is not read answers, and ends when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.unread import full_pipe

ROOT = Path(__file__).resolve().parents[2]
END_SECONDS = 60


def test_an_emulator_whose_stderr_is_full_ends_with_sigterm() -> None:
    # A worker that fails is logged at once.
    command = [sys.executable, "-m", "runpod_emulator", "--worker", "false", "--min-workers", "1", "--port", "0"]
    with (
        full_pipe() as (_, stderr),
        subprocess.Popen(
            [*command, "--no-rate-limits"], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as emulator,
    ):
        try:
            assert emulator.stdout is not None
            api = emulator.stdout.readline().split()[-1]
            for _ in range(20):
                with pytest.raises(urllib.error.HTTPError):
                    urllib.request.urlopen(f"{api}/no/such/endpoint", timeout=END_SECONDS)
            emulator.send_signal(signal.SIGTERM)
            assert emulator.wait(END_SECONDS) == 0
        finally:
            emulator.kill()
