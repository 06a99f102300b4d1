"""A whole RunPod endpoint on this machine: the emulator, and one real worker with the demo model on real vLLM."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from handler.settings import DEMO_FLAGS
from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.endpoint.registry import READY
from runpod_emulator.hosted import HostedSettings
from runpod_emulator.jobs.job import Job
from tests.e2e.process import ROOT, START_SECONDS
from tests.waiting import until, until_seen

API_KEY = "test-key"
SETTINGS = EndpointSettings(endpoint_id="ep", api_key=API_KEY, min_workers=1, max_workers=1)
# For a worker to be free after a cancel, and for its next answer: both take 0.05 s, unless other tests share the cores.
FREE_SECONDS = 15.0


@dataclass(frozen=True)
class Endpoint:
    """The emulator with its worker ready, every job that has ended, and what the worker says of itself."""

    emulator: Emulator
    metrics_port: int
    ended: list[Job] = field(default_factory=list)

    def job(self, job_id: str) -> Job:
        """Raises NotFound."""
        return self.emulator.endpoint.store.get(job_id)

    @property
    def jobs_in_progress(self) -> int:
        """As the emulator counts them."""
        return self.emulator.endpoint.store.load().in_progress

    async def measure(self, name: str, **labels: str) -> float:
        """The worker's own metric, summed over the labels that are not given."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).raise_for_status().text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until_measured(self, name: str, more_than: float) -> None:
        """Returns when the worker's metric is above a value; raises TimeoutError when it is not in time."""

        async def is_above() -> bool:
            return await self.measure(name) > more_than

        await until_seen(is_above)

    async def until_free(self) -> None:
        """Returns when emulator and worker agree that no job runs; raises TimeoutError when they do not in time."""

        async def is_free() -> bool:
            return not (self.jobs_in_progress or await self.measure("worker_jobs_in_progress"))

        await until_seen(is_free, FREE_SECONDS)


@asynccontextmanager
async def emulated_endpoint(logs: Path, hosted: Sequence[HostedSettings] = ()) -> AsyncIterator[Endpoint]:
    """An endpoint whose one worker is ready. Raises RuntimeError when it cannot start, or does not stop with 0.

    hosted: providers that are emulated beside it.
    """
    port = _free_port()
    command = WorkerCommand(
        (sys.executable, "handler.py"), variables=_variables(port), directory=ROOT, log_directory=logs
    )
    async with Emulator(SETTINGS, command, hosted=hosted) as emulator:
        endpoint = Endpoint(emulator, port)
        emulator.endpoint.when_finished.append(endpoint.ended.append)
        await until(lambda: _is_ready(emulator, logs), START_SECONDS)
        yield endpoint
    ended = [(worker.takes_batches, worker.exit_code) for worker in emulator.workers.values()]
    if any(code != 0 for _, code in ended) or [kind for kind, _ in ended].count(False) != 1:
        raise RuntimeError(f"expected one worker beside those of batches, all ended with exit code 0:\n{_tail(logs)}")


def _variables(metrics_port: int) -> dict[str, str]:
    """The demo model with adapter and tools, as a user of RunPod writes it: `model` is MODEL_NAME there."""
    flags = {name.upper(): value for name, value in DEMO_FLAGS.items() if name != "model"}
    return flags | {
        "MODEL_NAME": DEMO_FLAGS["model"],
        "METRICS_PORT": str(metrics_port),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def _is_ready(emulator: Emulator, logs: Path) -> bool:
    if any(worker.exit_code is not None for worker in emulator.workers.values()):
        raise RuntimeError(f"the worker ended early:\n{_tail(logs)}")
    return any(worker.state in READY for worker in emulator.workers.values())


def _tail(logs: Path) -> str:
    return "\n".join(log.read_text(errors="replace")[-4000:] for log in sorted(logs.glob("*.log")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
