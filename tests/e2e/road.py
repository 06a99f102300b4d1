"""The whole road on this machine: a gateway, an emulated endpoint with real vLLM, and an emulated hosted provider."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from runpod_emulator.hosted import HostedModel, HostedSettings
from tests.e2e.emulated import API_KEY, Endpoint, emulated_endpoint
from tests.e2e.gateway import Gateway, command, configure, gateway, variables_of
from tests.waiting import until_seen

OWN, HOSTED = "demo-model", "hosted-model"
HOSTED_KEY = "hosted-test-key"
PRICE = {"input": 0.15, "cached_input": 0.075, "output": 0.6, "as_of": "2026-11-21"}
SETTINGS = HostedSettings(
    name="hosted",
    api_key=HOSTED_KEY,
    models=(
        HostedModel(id=HOSTED, input_usd=Decimal("0.15"), cached_input_usd=Decimal("0.075"), output_usd=Decimal("0.6")),
        HostedModel(id="short", context_length=64),
        HostedModel(id="limited"),
    ),
    tokens_per_second=400,
)


@dataclass(frozen=True)
class Road:
    """The gateway and what is behind it. `key` is the caller's."""

    gateway: Gateway
    endpoint: Endpoint
    key: str

    async def inject(self, **faults: Any) -> None:
        """From now on the hosted provider does this wrong, and nothing else."""
        async with httpx.AsyncClient(trust_env=False) as client:
            address = self.endpoint.emulator.hosted_url("hosted").removesuffix("/v1")
            (await client.post(f"{address}/faults", json=faults)).raise_for_status()

    async def ledger(self) -> list[dict[str, str]]:
        """Every row that is durable now."""
        text = await command("ledger", "export", "--format", "csv", **variables_of(self.gateway.directory))
        return list(csv.DictReader(io.StringIO(text)))

    async def row(self, request_id: str) -> dict[str, str]:
        """The one row of the request, as soon as it is durable."""

        async def rows() -> list[dict[str, str]]:
            return [row for row in await self.ledger() if row["request_id"] == request_id]

        (row,) = await until_seen(rows)
        return row


def configuration(endpoint: Endpoint) -> tuple[dict[str, Any], dict[str, Any]]:
    """Providers and models of the road."""
    providers = {
        "own": {
            "endpoint_id": "ep",
            "api_url": endpoint.emulator.origin,
            "api_key_env": "OWN_KEY",
            "usd_per_second": 0.00031,
            "as_of": "2026-11-21",
        },
        "hosted": {
            "base_url": endpoint.emulator.hosted_url("hosted"),
            "api_key_env": "HOSTED_KEY",
            "prices": {HOSTED: PRICE},
        },
    }
    models = {
        OWN: {"offers": [{"provider": "own", "model": OWN}], "aliases": ["gpt-3.5-turbo"]},
        "pirate": {"offers": [{"provider": "own", "model": "pirate"}]},
        HOSTED: {"offers": [{"provider": "hosted", "model": HOSTED}]},
        "short": {"offers": [{"provider": "hosted", "model": "short"}]},
        # What asks for a pause gets it: the breaker leaves this place alone, and no other.
        "limited": {"offers": [{"provider": "hosted", "model": "limited"}]},
    }
    return providers, models


# Each failure that a test injects reaches the caller, and leaves the next test alone.
PATIENT = {"REQUESTS_PER_SECOND_PER_IP": "10000", "ATTEMPTS_PER_PLACE": "1", "BREAKER_FAILURES": "1000"}


@asynccontextmanager
async def opened_road(directory: Path) -> AsyncIterator[Road]:
    """The road with its worker ready, and a key of the organisation acme."""
    (directory / "workers").mkdir()
    async with emulated_endpoint(directory / "workers", [SETTINGS]) as endpoint:
        configure(directory, *configuration(endpoint))
        key = await command("keys", "create", "acme", "--tier", "enterprise", **variables_of(directory))
        keys = {"OWN_KEY": API_KEY, "HOSTED_KEY": HOSTED_KEY, "REQUIRE_KEYS": "true"}
        async with gateway(directory, **keys, **PATIENT) as running:
            yield Road(running, endpoint, key)
