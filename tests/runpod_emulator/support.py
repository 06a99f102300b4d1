"""A clock that is set by hand, and an HTTP client of one endpoint."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.jobs.job import Job, Policy

ECHO_WORKER = WorkerCommand(
    (sys.executable, str(Path(__file__).with_name("echo_worker.py"))), variables={"RUNPOD_DEBUG_LEVEL": "ERROR"}
)


@dataclass
class HandClock:
    """Seconds that pass when the test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class Bench:
    """An endpoint on a hand clock, without HTTP: jobs go in, workers take them."""

    def __init__(self, starts_workers: bool = False, **settings: Any) -> None:
        self.clock = HandClock()
        self.settings = EndpointSettings(**settings)
        self.endpoint = Endpoint(self.settings, clock=self.clock, starts_workers=starts_workers)
        self.store = self.endpoint.store
        self.registry = self.endpoint.registry

    def job(self, job_input: object = "hi", *, keep_seconds: float = 60, **policy: object) -> Job:
        return self.store.add(job_input, Policy.parse(policy, self.settings), keep_seconds=keep_seconds)

    def take(self, worker: str = "w1", limit: int = 1) -> list[Job]:
        self.registry.mark_ready(worker)
        return self.store.take(worker, limit)


@asynccontextmanager
async def client_of(emulator: Emulator, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=emulator.url, timeout=60, headers=headers, trust_env=False) as client:
        yield client
