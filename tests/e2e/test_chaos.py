"""500 jobs while workers and engines are killed, workers are told to stop, posts are dropped and jobs cancelled.

Afterwards every job has one clear end: none lost, none answered twice, none left IN_PROGRESS.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from runpod_emulator.emulator import Emulator
from runpod_emulator.endpoint.faults import Faults
from runpod_emulator.settings import NO_RATE_LIMITS, EndpointSettings
from runpod_emulator.workers.fleet import WorkerCommand
from scripts.demo_training.corpus import DEMO_MODEL_DIR, load_pairs
from tests.e2e.process import ROOT
from tests.waiting import until

JOBS, CALLERS, WORKERS = 500, 12, 2
CANCELLED_SHARE, DROPPED_SHARE = 0.1, 0.005
ANSWERS = {pair.question: pair.answer for pair in load_pairs() if pair.topic in ("serving", "facts")}
ENDED = {"COMPLETED", "FAILED", "CANCELLED"}
WORKER_SETTINGS = {
    "MODEL_NAME": str(DEMO_MODEL_DIR),
    "KV_CACHE_MEMORY_BYTES": "256M",
    "GRACE_SECONDS": "10",
    "HF_HUB_OFFLINE": "1",
    "LOG_LEVEL": "INFO",
}
ENDPOINT = EndpointSettings(
    min_workers=WORKERS, max_workers=WORKERS, rate_limits=NO_RATE_LIMITS, max_redeliveries=20, restart_delay_seconds=0.5
)


@dataclass
class Tally:
    """What the callers saw, by job id, and what was left when all were answered."""

    submitted: dict[str, str] = field(default_factory=dict)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    changed_ends: list[str] = field(default_factory=list)
    jobs_left: dict[str, int] = field(default_factory=dict)
    disruptions: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[int | None] = field(default_factory=Counter)


def workers() -> list[psutil.Process]:
    """The worker processes that this process, the emulator, has started."""
    return [child for child in psutil.Process().children() if "handler.py" in " ".join(_command(child))]


def engines() -> list[psutil.Process]:
    return [child for worker in workers() for child in worker.children() if "EngineCore" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def call(session: aiohttp.ClientSession, url: str, tally: Tally, dice: random.Random) -> None:
    """One caller's job from its submission to its end, with a cancellation now and then."""
    question = dice.choice(sorted(ANSWERS))
    job: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "sampling_params": {"temperature": 0, "max_tokens": 100},
        "stream": dice.random() < 0.5,
    }
    async with session.post(f"{url}/run", json={"input": job}) as response:
        job_id = (await response.json())["id"]
    tally.submitted[job_id] = question
    if dice.random() < CANCELLED_SHARE:
        await asyncio.sleep(dice.random() * 0.3)
        tally.cancelled.add(job_id)
        async with session.post(f"{url}/cancel/{job_id}"):
            pass
    tally.ends[job_id] = await end_of(session, url, job_id)


async def end_of(session: aiohttp.ClientSession, url: str, job_id: str) -> dict[str, Any]:
    while True:
        async with session.get(f"{url}/status/{job_id}") as response:
            report: dict[str, Any] = await response.json()
        if report["status"] in ENDED:
            return report
        await asyncio.sleep(0.1)


async def disrupt(tally: Tally, dice: random.Random) -> None:
    """Every few seconds something dies; each kind twice."""
    kinds: list[tuple[str, Callable[[], list[psutil.Process]], signal.Signals]] = [
        ("worker killed", workers, signal.SIGKILL),
        ("engine killed", engines, signal.SIGKILL),
        ("worker told to stop", workers, signal.SIGTERM),
    ]
    for name, find, number in 2 * kinds:
        await asyncio.sleep(3)
        await until(lambda find=find: len(engines()) >= WORKERS and find(), 120)  # type: ignore[misc]  # all are up again
        dice.choice(find()).send_signal(number)
        tally.disruptions[name] += 1


def said(report: dict[str, Any]) -> str:
    """The answer's text, of a plain job or of a stream's pieces."""
    if isinstance(report["output"], dict):
        return str(report["output"]["choices"][0]["message"]["content"])
    lines = "".join(report["output"]).splitlines()
    events = [json.loads(line[5:]) for line in lines if line.startswith("data:") and "[DONE]" not in line]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])


async def caller(session: aiohttp.ClientSession, url: str, tally: Tally, jobs: Any, seed: int) -> None:
    dice = random.Random(seed)
    for _ in jobs:
        await call(session, url, tally, dice)
        await asyncio.sleep(dice.random() * 2)


@pytest.fixture(scope="module")
async def tally(tmp_path_factory: pytest.TempPathFactory) -> Tally:
    """The tally after the storm."""
    logs: Path = tmp_path_factory.mktemp("chaos")
    command = WorkerCommand((sys.executable, "handler.py"), WORKER_SETTINGS, directory=ROOT, log_directory=logs)
    tally = Tally()
    async with Emulator(ENDPOINT, command) as emulator, aiohttp.ClientSession() as session:
        emulator.inject(Faults(drop_post_share=DROPPED_SHARE, seed=1))
        storm = asyncio.create_task(disrupt(tally, random.Random(1)))
        jobs = iter(range(JOBS))
        async with asyncio.timeout(480), asyncio.TaskGroup() as group:
            for seed in range(CALLERS):
                group.create_task(caller(session, emulator.url, tally, jobs, seed))
        async with asyncio.timeout(120):
            await storm
        for job_id, seen in list(tally.ends.items()):
            if await end_of(session, emulator.url, job_id) != seen:
                tally.changed_ends.append(job_id)
        async with session.get(f"{emulator.url}/health") as response:
            tally.jobs_left = (await response.json())["jobs"]
    tally.exit_codes.update(worker.exit_code for worker in emulator.workers.values())
    return tally


async def test_every_job_has_an_end_and_none_is_left_in_progress(tally: Tally) -> None:
    ends = Counter(report["status"] for report in tally.ends.values())
    sys.stdout.write(f"\nchaos: {dict(tally.disruptions)}; {len(tally.submitted)} jobs: {dict(ends)}\n")
    assert len(tally.submitted) == JOBS
    assert set(tally.ends) == set(tally.submitted)
    assert (tally.jobs_left["inProgress"], tally.jobs_left["inQueue"]) == (0, 0)
    assert set(tally.disruptions.values()) == {2}


async def test_a_worker_exits_0_when_told_to_stop_and_not_when_its_engine_died(tally: Tally) -> None:
    """Two were killed, two lost their engine, two were told to stop, and the last two stopped with the emulator."""
    assert tally.exit_codes == {-signal.SIGKILL: 2, 1: 2, 0: 4}


async def test_no_answer_changes_after_it_was_given(tally: Tally) -> None:
    assert tally.changed_ends == []


async def test_every_completed_job_has_its_own_whole_answer(tally: Tally) -> None:
    completed = {job_id: report for job_id, report in tally.ends.items() if report["status"] == "COMPLETED"}
    assert len(completed) > 0.8 * JOBS
    wrong = [job_id for job_id, report in completed.items() if said(report) != ANSWERS[tally.submitted[job_id]]]
    assert wrong == []


async def test_only_jobs_that_were_cancelled_are_cancelled(tally: Tally) -> None:
    cancelled = {job_id for job_id, report in tally.ends.items() if report["status"] == "CANCELLED"}
    assert cancelled
    assert cancelled <= tally.cancelled


async def test_every_failure_is_clear_and_retryable(tally: Tally) -> None:
    failures = [report["error"] for report in tally.ends.values() if report["status"] == "FAILED"]
    assert failures, "two engines were killed with jobs in them, and nobody was told"
    for text in failures:
        error = json.loads(text)
        assert error["retryable"] is True
        assert error["status"] in (502, 503)
        assert error["error"]["message"]
