"""The parts of the pinned runpod SDK that the job loop stands on are still there; an upgrade fails here, in words."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path

from handler.metrics import WorkerMetrics
from handler.queue import runpod_sdk

ROOT = Path(__file__).resolve().parents[2]
MOVED = "the runpod SDK has moved what handler/queue/runpod_sdk.py uses: "


def test_the_installed_sdk_is_the_pinned_one() -> None:
    locked = re.findall(r"^runpod==(\S+)", (ROOT / "requirements" / "dev.lock").read_text(), flags=re.MULTILINE)
    on_image = re.findall(
        r"^runpod==(\S+)", (ROOT / "requirements" / "worker-gpu.lock").read_text(), flags=re.MULTILINE
    )
    assert locked == on_image == [version("runpod")]


def test_every_part_that_the_job_loop_uses_is_there() -> None:
    runpod_sdk.SdkPlatform(WorkerMetrics())


def test_the_parts_are_called_as_they_expect() -> None:
    from runpod.serverless.modules import rp_fitness, rp_http, rp_job
    from runpod.serverless.modules.rp_ping import Heartbeat
    from runpod.serverless.modules.worker_state import JobsProgress, PingJobMirror

    assert list(inspect.signature(rp_job.get_job).parameters) == ["session", "num_jobs"], MOVED + "get_job"
    assert list(inspect.signature(rp_job.get_stop_signals).parameters) == ["session"], MOVED + "get_stop_signals"
    assert "$ID" in inspect.getsource(rp_http), MOVED + "the addresses of posts"
    assert "mirror" in inspect.signature(Heartbeat.process_loop).parameters, MOVED + "Heartbeat.process_loop"
    assert inspect.iscoroutinefunction(rp_fitness.run_fitness_checks), MOVED + "run_fitness_checks"
    assert callable(JobsProgress.set_mirror), MOVED + "JobsProgress.set_mirror"
    assert callable(PingJobMirror.set), MOVED + "PingJobMirror"
