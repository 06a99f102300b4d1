"""The entry of a deployed endpoint for providers.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from urllib.parse import urlsplit

from vllm_service.catalog.presets import RUNPOD_API_URL
from vllm_service.catalog.yaml_edit import Entry, Scalar
from vllm_service.deployment.pools import SECONDS_PER_HOUR
from vllm_service.deployment.prices import GpuPrices
from vllm_service.deployment.settings import KEY_VARIABLE
from vllm_service.deployment.spec import EndpointType
from vllm_service.deployment.steps import Target

#: The finest price that providers.yaml takes.
_MICRO_USD = Decimal("0.000001")


def provider_entry(
    target: Target,
    endpoint_id: str,
    job_url: str,
    prices: GpuPrices,
    *,
    today: date,
    cold_start_seconds: Decimal | None = None,
) -> Entry:
    """Returns the entry. The price is that of the dearest pool, since a worker may get any of them.

    job_url: where the endpoint takes requests. cold_start_seconds: as measured; None leaves it to the router.
    """
    spec = target.spec
    entry: dict[str, Scalar | Mapping[str, Scalar]] = {"endpoint_id": endpoint_id}
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(job_url))
    if spec.endpoint_type is EndpointType.LOAD_BALANCER:
        entry["type"] = "load_balancer"
    if origin != RUNPOD_API_URL and not origin.endswith(f"{endpoint_id}.api.runpod.ai"):
        entry["api_url"] = origin
    entry["api_key_env"] = KEY_VARIABLE
    usd_per_hour = prices.most_usd_per_hour(target.pools, spec.gpus_per_worker)
    if usd_per_hour is not None:
        # The catalogue's prices by the hour come from prices by the second that are no finer than this.
        usd = (usd_per_hour / SECONDS_PER_HOUR).quantize(_MICRO_USD, rounding="ROUND_HALF_UP")
        entry["usd_per_second"] = usd.normalize()
        entry["as_of"] = today.isoformat()
    expected: dict[str, Scalar] = {"max_workers": spec.workers_max}
    if spec.workers_min:
        expected["always_on_workers"] = spec.workers_min
    if cold_start_seconds is not None and cold_start_seconds > 0:
        expected["cold_start_seconds"] = cold_start_seconds.quantize(Decimal("0.1"))
    if spec.idle_timeout_seconds is not None:
        expected["idle_timeout_seconds"] = spec.idle_timeout_seconds
    entry["expected"] = expected
    return entry
