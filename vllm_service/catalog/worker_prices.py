"""The price of one worker's second, by the GPUs that the worker got: an endpoint's pools may mix types.

In this order: `gpu_prices` of providers.yaml; RunPod's list price, where the endpoint's own `usd_per_second` is a list
price too; `usd_per_second`. So a price by agreement is never replaced by a list price.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_service.catalog.gpu_types import GPU_TYPES
from vllm_service.catalog.model import Provider
from vllm_service.domain.pricing import SecondPrice

#: List prices of one GPU, by its type's id.
LIST_PRICES: Mapping[str, SecondPrice] = {
    gpu_type.id: SecondPrice.per_second(gpu_type.usd_per_second) for gpu_type in GPU_TYPES
}
_LISTED = frozenset(price.picousd_per_microsecond for price in LIST_PRICES.values())


def worker_price(provider: Provider, gpu_type: str | None, gpu_count: int | None) -> SecondPrice | None:
    """Returns the price of a worker with so many GPUs of this type; None where the endpoint's price is unknown.

    A worker whose GPUs are not known, or have no price, costs the endpoint's `usd_per_second`.
    """
    one_gpu = _gpu_price(provider, gpu_type, gpu_count)
    if one_gpu is None or not gpu_count:
        return provider.second_price
    return SecondPrice(gpu_count * one_gpu.picousd_per_microsecond)


def is_priced(provider: Provider, gpu_type: str, gpu_count: int | None, *, is_only_type: bool) -> bool:
    """Returns whether a worker's price is that of its GPUs; if not, it costs `usd_per_second` for want of another one.

    is_only_type: `usd_per_second` is taken for the price of the endpoint's only type, if RunPod has such a type.
    """
    if provider.second_price is None or _gpu_price(provider, gpu_type, gpu_count) is not None:
        return True
    return is_only_type and gpu_type in LIST_PRICES


def _gpu_price(provider: Provider, gpu_type: str | None, gpu_count: int | None) -> SecondPrice | None:
    if gpu_type is None or not gpu_count or provider.second_price is None:
        return None
    own = dict(provider.gpu_prices).get(gpu_type)
    configured = provider.second_price.picousd_per_microsecond
    is_list_price = configured % gpu_count == 0 and configured // gpu_count in _LISTED
    return own or (LIST_PRICES.get(gpu_type) if is_list_price else None)
