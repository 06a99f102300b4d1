"""An endpoint whose workers start when the test says so, a dear hosted provider, gateways, and callers that go on."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.endpoint.registry import Worker
from runpod_emulator.hosted import HostedModel, HostedSettings
from runpod_emulator.jobs.job import Job
from tests.contract.rest_contract import checked_emulator
from tests.e2e.gateway import Gateway, configure
from tests.waiting import until

KEY = "endpoint-key"
SETTINGS = EndpointSettings(
    endpoint_id="ep",
    api_key=KEY,
    max_workers=1,
    idle_timeout_seconds=30,
    restart_delay_seconds=0.1,
    usd_per_second=Decimal("0.00031"),
)
TOKENS = 4
# So dear that the router wants a worker within seconds.
HOSTED = HostedSettings(
    name="hosted",
    models=(HostedModel(id="m", input_usd=Decimal(1000), output_usd=Decimal(1000), answer_tokens=TOKENS),),
)
# Looked at often; a place that fails once is left alone for long enough that its failure is seen.
VARIABLES = {"OWN_KEY": KEY, "ENDPOINT_HEALTH_SECONDS": "0.2", "REQUESTS_PER_SECOND_PER_IP": "100000"}
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS}


@dataclass(frozen=True)
class Gated:
    """The emulator, and the file that lets its workers become ready."""

    emulator: Emulator
    gate: Path
    jobs: list[Job] = field(default_factory=list)

    @property
    def workers(self) -> list[Worker]:
        """All that ever were, in the order of their starts."""
        return list(self.emulator.workers.values())

    @property
    def queued(self) -> int:
        """Jobs that no worker has taken."""
        return self.emulator.endpoint.store.load().queued

    @property
    def looks(self) -> int:
        """How often somebody has asked for /health."""
        return self.emulator.endpoint.health.requests

    @property
    def warm_ups(self) -> int:
        """Of the jobs that have ended, as they did: those that no caller asked for."""
        return sum("openai_input" in job.input and job.input["openai_input"]["max_tokens"] == 1 for job in self.jobs)

    @property
    def wakes(self) -> int:
        """While no worker has been ready: all jobs that were to wake one."""
        return self.queued + self.warm_ups

    def open(self) -> None:
        """Workers that start, or have started, become ready."""
        self.gate.touch()

    async def kill(self, worker: Worker) -> None:
        """SIGKILL, until it has ended: a worker is known before its process is there to be killed."""
        assert self.emulator.fleet is not None
        fleet = self.emulator.fleet

        def has_ended() -> bool:
            fleet.kill(worker.id)
            return worker.exit_code is not None

        await until(has_ended, 120)

    def configure(self, directory: Path) -> None:
        """Own first, then hosted; what is expected of the endpoint makes a start cheap."""
        own = {"own": self.provider({"cold_start_seconds": 0.1, "idle_timeout_seconds": 2, "max_workers": 1})}
        self.configure_with(directory, own, hosted_usd=1000)

    def provider(self, expected: Mapping[str, float], **more: object) -> dict[str, object]:
        """This endpoint as providers.yaml has it."""
        own = {"endpoint_id": "ep", "api_url": self.emulator.origin, "api_key_env": "OWN_KEY", "expected": expected}
        return own | {"usd_per_second": 0.00031, "as_of": "2026-11-21"} | more

    def configure_with(self, directory: Path, own: Mapping[str, object], hosted_usd: int) -> None:
        """These endpoints, then hosted, which takes so much for a million tokens."""
        hosted_price = {"m": {"input": hosted_usd, "output": hosted_usd, "as_of": "2026-11-21"}}
        hosted = {"base_url": self.emulator.hosted_url("hosted"), "prices": hosted_price}
        offers = [{"provider": name, "model": "m"} for name in (*own, "hosted")]
        configure(directory, {**own, "hosted": hosted}, {"m": {"offers": offers}})


@asynccontextmanager
async def gated(directory: Path, settings: EndpointSettings = SETTINGS) -> AsyncIterator[Gated]:
    """No worker has started. What the gateways send and read over REST v2 is held against the published schema."""
    gate = directory / "gate"
    worker = (sys.executable, str(Path(__file__).with_name("gated_worker.py")))
    command = WorkerCommand(worker, variables={"GATE": str(gate), "RUNPOD_DEBUG_LEVEL": "ERROR"})
    options: dict[str, Any] = {"hosted": [HOSTED], "management_v1": True}
    async with checked_emulator(settings, command, ours=True, **options) as (emulator, _):
        endpoint = Gated(emulator, gate)
        emulator.endpoint.when_finished.append(endpoint.jobs.append)
        yield endpoint


@dataclass
class Callers:
    """Ask one gateway after the other, and go on until they are told to stop. by: answers by provider.

    pause_seconds: between an answer and the next request.
    """

    gateways: Sequence[Gateway]
    headers: dict[str, str] = field(default_factory=dict)
    by: Counter[str] = field(default_factory=Counter)
    by_gateway: Counter[tuple[int, str]] = field(default_factory=Counter)
    wrong: list[Any] = field(default_factory=list)
    pause_seconds: float = 0.05

    async def _call(self, client: httpx.AsyncClient, number: int) -> None:
        url = self.gateways[number % len(self.gateways)].url
        response = await client.post(f"{url}/chat/completions", json=BODY, headers=self.headers)
        if response.status_code != 200 or len(response.json()["choices"]) != 1:
            self.wrong.append((response.status_code, response.text))
        provider = response.headers.get("x-provider", "")
        self.by[provider] += 1
        self.by_gateway[number % len(self.gateways), provider] += 1

    async def _go_on(self, number: int) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            while True:
                await self._call(client, number)
                number += 1
                await asyncio.sleep(self.pause_seconds)

    @asynccontextmanager
    async def calling(self, count: int = 4) -> AsyncIterator[None]:
        """So many at a time. Whoever still waits at the end is answered first."""
        tasks = [asyncio.create_task(self._go_on(number)) for number in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
