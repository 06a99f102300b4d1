"""A worker whose stderr is not read takes jobs, and ends when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.unread import full_pipe

ROOT = Path(__file__).resolve().parents[3]
END_SECONDS = 60


def test_a_worker_whose_stderr_is_full_takes_jobs_and_ends_with_sigterm() -> None:
    command = [sys.executable, "-m", "tests.handler.queue.deaf_worker", "unread"]
    with (
        full_pipe() as (_, stderr),
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as worker,
    ):
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "took\n"
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(END_SECONDS) == 0
        finally:
            worker.kill()
