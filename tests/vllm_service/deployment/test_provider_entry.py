"""The entry for providers.yaml is one that the gateway reads."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_service.deployment.deployed import target
from vllm_service.catalog.providers_yaml import read_providers
from vllm_service.catalog.yaml_edit import Entry, with_provider
from vllm_service.catalog.yaml_file import read_yaml
from vllm_service.deployment.prices import shipped_prices
from vllm_service.deployment.provider_entry import provider_entry
from vllm_service.deployment.spec import EndpointType, Scaler, ScalerKind
from vllm_service.errors import ConfigurationFaults

BALANCED = {
    "endpoint_type": EndpointType.LOAD_BALANCER,
    "scaler": Scaler(ScalerKind.REQUEST_COUNT, Decimal(4)),
}
PRICE: dict[str, Any] = {"usd_per_second": Decimal("0.00031"), "as_of": "2026-11-29"}
RUNPOD: dict[str, Any] = {"endpoint_id": "ep", "api_key_env": "RUNPOD_API_KEY"}
ENTRIES: list[tuple[str, dict[str, Any], str, Entry]] = [
    (
        "queue",
        {},
        "https://api.runpod.ai/v2/ep",
        {
            **RUNPOD,
            **PRICE,
            "expected": {"max_workers": 3, "cold_start_seconds": Decimal("41.3"), "idle_timeout_seconds": 10},
        },
    ),
    (
        "load balancer",
        BALANCED,
        "https://ep.api.runpod.ai",
        {
            **RUNPOD,
            **PRICE,
            "type": "load_balancer",
            "expected": {"max_workers": 3, "cold_start_seconds": Decimal("41.3"), "idle_timeout_seconds": 10},
        },
    ),
    (
        "two GPUs, elsewhere",
        {"gpus_per_worker": 2, "workers_min": 1, "workers_max": 1},
        "http://127.0.0.1:80/v2/ep",
        {
            "endpoint_id": "ep",
            "api_url": "http://127.0.0.1:80",
            "api_key_env": "RUNPOD_API_KEY",
            "usd_per_second": Decimal("0.00062"),
            "as_of": "2026-11-29",
            "expected": {
                "max_workers": 1,
                "always_on_workers": 1,
                "cold_start_seconds": Decimal("41.3"),
                "idle_timeout_seconds": 10,
            },
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "url", "expected"), [e[1:] for e in ENTRIES], ids=[e[0] for e in ENTRIES])
def test_the_entry_is_what_was_deployed_and_the_gateway_reads_it(
    tmp_path: Path, fields: dict[str, Any], url: str, expected: Entry
) -> None:
    entry = provider_entry(
        target(**fields),
        "ep",
        url,
        shipped_prices(),
        today=date(2026, 11, 29),
        cold_start_seconds=Decimal("41.26"),
    )
    assert entry == expected
    (tmp_path / "providers.yaml").write_text(with_provider("", "own", entry))
    faults = ConfigurationFaults()
    providers = read_providers(read_yaml(tmp_path / "providers.yaml", faults), {"RUNPOD_API_KEY": "k"})
    faults.raise_all()
    assert providers["own"] is not None
