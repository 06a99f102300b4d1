"""Reads a RunPod endpoint of providers.yaml: its addresses, price, first estimates, and how its workers are started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from vllm_service.catalog.gpu_prices_yaml import read_gpu_prices
from vllm_service.catalog.model import Management, ManagementApi, PromptCache, Provider, ProviderKind, WorkersMin
from vllm_service.catalog.presets import RUNPOD_API_URL, RUNPOD_MANAGEMENT_URL
from vllm_service.catalog.provider_entry import COMMON, ProviderEntry, read_date, read_provider, read_url
from vllm_service.catalog.yaml_file import Section, Value
from vllm_service.domain.pricing import SecondPrice

SCALING_KEYS = ("scaling", "workers_min")
MANAGEMENT_KEYS = ("management_api", "management_url")
PRICE_KEYS = ("usd_per_second", "gpu_prices", "as_of")
BALANCER_KEYS = ("base_url", "keep_conversations")
RUNPOD_KEYS = (
    *("type", "endpoint_id", "api_url", "expected", *PRICE_KEYS, *SCALING_KEYS, *MANAGEMENT_KEYS),
    *BALANCER_KEYS,
    *COMMON,
)
#: The kinds of RunPod endpoints; the first is the default.
QUEUE = "queue"
LOAD_BALANCER = "load_balancer"
#: How the gateway gets an endpoint to the router's worker target.
WARM_UP_JOBS = "warm_up_jobs"
WORKERS_MIN = "workers_min"
#: The first is the default.
SCALING = (WARM_UP_JOBS, WORKERS_MIN)
#: The router's first estimates of an endpoint, until it has measured: see docs/providers.md.
EXPECTED_COUNTS = ("slots", "max_workers", "always_on_workers")
EXPECTED_SECONDS = (
    *("prefill_tokens_per_second", "decode_seconds", "decode_seconds_per_batch"),
    *("cold_start_seconds", "idle_timeout_seconds", "overhead_seconds"),
)
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]+")
Expected = tuple[tuple[str, float], ...]
GpuPrices = tuple[tuple[str, SecondPrice], ...]
#: The host of version 1 of RunPod's REST API (RunPod's documentation, 2026-11).
RETIRED_HOST = "rest.runpod.io"


def read_runpod(name: str, section: Section, environment: Mapping[str, str]) -> ProviderEntry:
    """Returns a RunPod endpoint's entry. Adds faults."""
    api_url = section.read("api_url", read_url, RUNPOD_API_URL)
    endpoint_id = section.read_needed("endpoint_id", _endpoint_id, "")
    control_url = f"{api_url}/v2/{endpoint_id}"
    is_balanced = section.choice("type", (QUEUE, LOAD_BALANCER), QUEUE) == LOAD_BALANCER
    price = section.read("usd_per_second", _second_price, None)
    if price is not None:
        section.read_needed("as_of", read_date, None)
    if section.get("api_key_env") is None and section.get("api_url") is None:
        section.value.faults.add(
            section.value.wrong("api_key_env is missing; RunPod requires a key: api_key_env: RUNPOD_API_KEY")
        )
    provider = read_provider(
        name,
        section,
        environment,
        kind=ProviderKind.RUNPOD,
        base_url=_base_url(section, endpoint_id, control_url, is_balanced=is_balanced),
        control_url=control_url,
        second_price=price,
        prompt_cache=PromptCache.VLLM,
    )
    none: GpuPrices = ()
    gpu_prices = section.read("gpu_prices", read_gpu_prices, none)
    if price is None and (given := section.get("gpu_prices")) is not None:
        section.value.faults.add(
            given.wrong("usd_per_second is missing at this provider; it is the price of workers on any other type")
        )
    nothing: Expected = ()
    expected = section.read("expected", _expected, nothing)
    management = _management(section, endpoint_id)
    provider = replace(
        provider,
        gpu_prices=gpu_prices,
        expected=expected,
        management=management,
        workers_min=_workers_min(section, dict(expected)),
        is_balanced=is_balanced,
        keeps_conversations=is_balanced and section.read("keep_conversations", Value.switch, True),
        idle_worker_seconds=dict(expected).get("idle_timeout_seconds", provider.idle_worker_seconds),
    )
    return ProviderEntry(provider, warnings=_warnings(provider, management))


def _base_url(section: Section, endpoint_id: str, control_url: str, *, is_balanced: bool) -> str:
    """Returns where requests go. A load balancer has a host of its own at RunPod, and a path at the emulator."""
    if not is_balanced:
        for name in BALANCER_KEYS:
            if (given := section.get(name)) is not None:
                section.value.faults.add(
                    given.wrong(f"valid only with type: {LOAD_BALANCER}; set that at this provider, or remove this")
                )
        return f"{control_url}/openai/v1"
    if section.get("api_url") is None:
        return section.read("base_url", read_url, f"https://{endpoint_id}.api.runpod.ai/v1")
    origin = control_url.removesuffix(f"/v2/{endpoint_id}")
    return section.read("base_url", read_url, f"{origin}/lb/{endpoint_id}/v1")


def _management(section: Section, endpoint_id: str) -> Management:
    """Returns where the endpoint is managed: beside its job API, if that is not RunPod's, or as the file says."""
    api_url, own_url = section.get("api_url"), section.get("management_url")
    origin = section.read("api_url", read_url, RUNPOD_MANAGEMENT_URL)
    origin = section.read("management_url", read_url, origin).removesuffix("/v1").removesuffix("/v2")
    api = ManagementApi(section.choice("management_api", [*ManagementApi], ManagementApi.V2))
    if api is ManagementApi.V1 and api_url is None and own_url is None:
        raise section.need("management_api").wrong(
            "RunPod retired version 1 of its REST API; remove this line, or set management_url to a server of your own "
            "that speaks it"
        )
    if own_url is not None and api is ManagementApi.V2 and urlsplit(origin).hostname == RETIRED_HOST:
        raise own_url.wrong("this is the address of version 1 of RunPod's REST API, which is retired; remove the line")
    return Management(endpoint_id, origin, api)


def _warnings(provider: Provider, management: Management) -> tuple[str, ...]:
    if management.api is ManagementApi.V2:
        return ()
    return (
        f"provider {provider.name}: management_api: v1 is only for servers of your own, since RunPod retired version 1 "
        "of its REST API in 2026; remove the line and management_url to use version 2",
    )


def _expected(value: Value) -> Expected:
    given = value.section((*EXPECTED_COUNTS, *EXPECTED_SECONDS))
    counts = [
        (name, float(given.read(name, Value.count, 1))) for name in EXPECTED_COUNTS if given.get(name) is not None
    ]
    numbers = [(name, given.positive(name, 1.0)) for name in EXPECTED_SECONDS if given.get(name) is not None]
    return (*counts, *numbers)


def _second_price(value: Value) -> SecondPrice:
    try:
        return SecondPrice.per_second(value.number())
    except ValueError as error:
        raise value.wrong(str(error)) from None


def _workers_min(section: Section, expected: Mapping[str, float]) -> WorkersMin | None:
    """Returns what the gateway needs to set workersMin; None with warm-up jobs."""
    scaling, base = (section.get(key) for key in SCALING_KEYS)
    if scaling is None or scaling.choice(SCALING) == WARM_UP_JOBS:
        if base is not None:
            section.value.faults.add(
                base.wrong(f"valid only with scaling: {WORKERS_MIN}; set that at this provider, or remove this")
            )
        return None
    if section.get("usd_per_second") is None:
        raise scaling.wrong(
            "usd_per_second is missing at this provider; without a price the router has no worker target"
        )
    if expected.get("always_on_workers"):
        raise scaling.wrong("the gateway sets workersMin itself; remove expected.always_on_workers, or this")
    workers = 0 if base is None else _count_from_zero(base)
    if base is not None and workers > expected.get("max_workers", workers):
        raise base.wrong(f"{workers} is more than expected.max_workers, which is {expected['max_workers']:g}; lower it")
    return WorkersMin(workers)


def _count_from_zero(value: Value) -> int:
    number = value.number()
    if number != int(number):
        raise value.wrong(f"expected a whole number, got {number}")
    return int(number)


def _endpoint_id(value: Value) -> str:
    """Returns the endpoint's id, which is a part of its URLs."""
    if not _ENDPOINT_ID.fullmatch(value.text()):
        raise value.wrong("expected an endpoint's id, of letters, digits, - and _ alone, as RunPod's console shows it")
    return value.text()
