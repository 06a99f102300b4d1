"""The stage of a run: an emulated endpoint with real workers, two emulated hosted providers, a gateway process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from handler.settings import DEMO_FLAGS, DEMO_MODEL_NAME
from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.hosted import HostedFaults, HostedModel, HostedSettings
from vllm_service.routing.profiles import EndpointProfile

ROOT = Path(__file__).resolve().parents[2]
OWN = "own"
ENDPOINT_ID = "ep"
SLOTS = 8
IDLE_SECONDS = 5
#: The price of a 4090.
USD_PER_SECOND = Decimal("0.00031")
#: The share of requests that get a 429, and its delay.
REFUSED_SHARE = 0.01
REFUSED_SECONDS = 0.3
PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Hosted:
    """One hosted provider."""

    name: str
    #: Dollars per million tokens.
    input_usd: Decimal
    output_usd: Decimal
    #: The time to the first token.
    ttft_seconds: float
    tokens_per_second: float

    @property
    def settings(self) -> HostedSettings:
        """Returns the emulator's settings; one request in a hundred gets a 429."""
        model = HostedModel(
            id=DEMO_MODEL_NAME, input_usd=self.input_usd, output_usd=self.output_usd, answer_tokens=4096
        )
        return HostedSettings(
            name=self.name,
            models=(model,),
            ttft_seconds=self.ttft_seconds,
            tokens_per_second=self.tokens_per_second,
            faults=HostedFaults(
                rate_limit_share=REFUSED_SHARE, retry_after_seconds=0, refuse_after_seconds=REFUSED_SECONDS
            ),
        )


#: The prices of large models. The demo model on a core makes so few tokens a second that it could beat no cheaper ones.
HOSTED = (
    Hosted("cheap", Decimal("1.80"), Decimal("7.20"), 0.3, 200),
    Hosted("dear", Decimal("3.00"), Decimal("12.00"), 0.5, 100),
)


@dataclass(frozen=True)
class Endpoint:
    """The emulator, which starts one worker at most."""

    emulator: Emulator

    async def until_no_worker(self) -> None:
        """Waits until no worker runs. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(worker.meter.stopped_at is None for worker in self.emulator.workers.values()):
                await self.emulator.endpoint.changed.wait(0.1)


@asynccontextmanager
async def emulated(hosted: Sequence[Hosted] = (), logs: Path | None = None) -> AsyncIterator[Endpoint]:
    """Starts an endpoint that has no worker yet, and hosted providers beside it."""
    settings = EndpointSettings(
        endpoint_id=ENDPOINT_ID, max_workers=1, idle_timeout_seconds=IDLE_SECONDS, usd_per_second=USD_PER_SECOND
    )
    flags = {name.upper(): value for name, value in DEMO_FLAGS.items() if name != "model"}
    variables = {"MODEL_NAME": DEMO_FLAGS["model"], "MAX_CONCURRENCY": str(SLOTS), "HF_HUB_OFFLINE": "1"}
    # One thread for the model: a second one would spin on the core that gateway and callers need.
    variables["OMP_NUM_THREADS"] = "1"
    command = WorkerCommand((sys.executable, "handler.py"), flags | variables, ROOT, logs)
    async with Emulator(settings, command, hosted=[provider.settings for provider in hosted]) as emulator:
        yield Endpoint(emulator)


def configure(directory: Path, emulator: Emulator, profile: EndpointProfile, hosted: Sequence[Hosted]) -> None:
    """Writes providers.yaml and models.yaml. Every provider offers the model; the gateway chooses by cost."""
    expected = {
        "prefill_tokens_per_second": profile.prefill_tokens_per_second,
        "decode_seconds": profile.decode_seconds,
        "decode_seconds_per_batch": max(1e-6, profile.decode_seconds_per_batch),
        "slots": profile.slots,
        "cold_start_seconds": profile.cold_start_seconds,
        "idle_timeout_seconds": profile.idle_timeout_seconds,
        "max_workers": profile.max_workers,
        "overhead_seconds": max(1e-6, profile.overhead_seconds),
    }
    own = {"endpoint_id": ENDPOINT_ID, "api_url": emulator.origin, "usd_per_second": float(USD_PER_SECOND)}
    providers: dict[str, Any] = {OWN: own | {"as_of": "2026-11-21", "expected": expected}}
    for one in hosted:
        price = {"input": float(one.input_usd), "output": float(one.output_usd), "as_of": "2026-11-21"}
        providers[one.name] = {"base_url": emulator.hosted_url(one.name), "prices": {DEMO_MODEL_NAME: price}}
    offers = [{"provider": name, "model": DEMO_MODEL_NAME} for name in providers]
    directory.mkdir(parents=True, exist_ok=True)
    # JSON is YAML.
    (directory / "providers.yaml").write_text(json.dumps({"providers": providers}))
    (directory / "models.yaml").write_text(json.dumps({"models": {DEMO_MODEL_NAME: {"offers": offers}}}))


def variables_of(directory: Path) -> dict[str, str]:
    """Returns the environment of the gateway and its commands."""
    return {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")},
        "SERVICE_PORT": "0",
        "CONFIG_DIR": str(directory),
        "DATA_DIR": str(directory / "data"),
        "REQUESTS_PER_SECOND_PER_IP": "100000",
    }


@asynccontextmanager
async def gateway(directory: Path, **variables: str) -> AsyncIterator[str]:
    """Starts a gateway process, and stops it with SIGTERM at the end. Yields its URL with `/v1`.

    variables: of its environment, beside `variables_of`. Raises RuntimeError unless it ends with 0.
    """
    environment = variables_of(directory) | variables
    with (directory / "gateway.log").open("ab") as log:
        process = await _python("-m", "vllm_service", "serve", variables=environment, stderr=log.fileno())
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            url = (await process.stdout.readline()).decode().strip()
        if not url:
            raise RuntimeError(f"the gateway did not start: {(directory / 'gateway.log').read_text()[-2000:]}")
        yield url
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            if await process.wait():
                raise RuntimeError(
                    f"the gateway ended with {process.returncode}: {(directory / 'gateway.log').read_text()[-2000:]}"
                )
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def command(*arguments: str, variables: Mapping[str, str]) -> str:
    """Returns the stdout of `python -m vllm_service ARGUMENTS`. Raises RuntimeError unless it ends with 0."""
    process = await _python("-m", "vllm_service", *arguments, variables=variables, stderr=asyncio.subprocess.PIPE)
    stdout, stderr = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"vllm_service {arguments[0]}: {stderr.decode()}")
    return stdout.decode()


async def _python(*arguments: str, variables: Mapping[str, str], stderr: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env=variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
