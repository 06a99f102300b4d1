"""A worker that is stopped ends by itself before the platform kills it."""

from __future__ import annotations

from handler.engine.embedded import KEEP_SECONDS
from handler.engine.vllm_parts import STOP_SECONDS
from handler.queue.job_loop import Pauses
from handler.settings import WorkerSettings
from runpod_emulator import EndpointSettings


def test_the_grace_of_jobs_and_what_comes_after_it_fit_into_the_platforms() -> None:
    settings, pauses = WorkerSettings(environment={}), Pauses()
    assert pauses.grace == settings.grace_seconds
    longest = settings.grace_seconds + pauses.last_deliver + KEEP_SECONDS + STOP_SECONDS
    assert longest < EndpointSettings().stop_grace_seconds
