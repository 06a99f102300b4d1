"""`gpu_prices` of providers.yaml, apart from worker_prices.py: the client imports that, and needs no YAML."""

from __future__ import annotations

from vllm_service.catalog.gpu_types import types_of_pool
from vllm_service.catalog.yaml_file import Value
from vllm_service.domain.pricing import SecondPrice


def read_gpu_prices(value: Value) -> tuple[tuple[str, SecondPrice], ...]:
    """Returns the prices of `gpu_prices`, dollars a second of one GPU, by the type's id.

    A key is a type's id or a pool's, which stands for all its types; a type's own price goes before its pool's.
    """
    types: dict[str, SecondPrice] = {}
    pools: dict[str, SecondPrice] = {}
    for name, given in value.section():
        with value.faults:
            try:
                price = SecondPrice.per_second(given.number())
            except ValueError as error:
                raise given.wrong(str(error)) from None
            of_pool = types_of_pool(name)
            pools.update((gpu_type.id, price) for gpu_type in of_pool)
            if not of_pool:
                types[name] = price
    return tuple((pools | types).items())
