"""The GPU types of RunPod's serverless pools, with their list prices (RunPod's documentation, 2026-11)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class GpuType:
    """One GPU type. Its id and its pool's id are RunPod's."""

    id: str
    name: str
    pool: str
    memory_gb: int
    #: The price of one GPU's second in a flex worker.
    usd_per_second: Decimal


def _pool(pool: str, usd_per_second: str, *types: tuple[str, str, int]) -> tuple[GpuType, ...]:
    price = Decimal(usd_per_second)
    return tuple(GpuType(type_id, name, pool, memory_gb, price) for type_id, name, memory_gb in types)


GPU_TYPES: tuple[GpuType, ...] = (
    *_pool(
        *("AMPERE_16", "0.00016"),
        ("NVIDIA RTX A4000", "RTX A4000", 16),
        ("NVIDIA RTX A4500", "RTX A4500", 20),
        ("NVIDIA RTX 4000 Ada Generation", "RTX 4000 Ada", 20),
    ),
    *_pool(
        *("AMPERE_24", "0.00019"),
        ("NVIDIA L4", "L4", 24),
        ("NVIDIA RTX A5000", "RTX A5000", 24),
        ("NVIDIA GeForce RTX 3090", "RTX 3090", 24),
    ),
    *_pool("ADA_24", "0.00031", ("NVIDIA GeForce RTX 4090", "RTX 4090", 24)),
    *_pool("AMPERE_48", "0.00034", ("NVIDIA RTX A6000", "RTX A6000", 48), ("NVIDIA A40", "A40", 48)),
    *_pool(
        *("ADA_48_PRO", "0.00053"),
        ("NVIDIA L40", "L40", 48),
        ("NVIDIA L40S", "L40S", 48),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", 48),
    ),
    *_pool(
        *("AMPERE_80", "0.00076"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe", 80),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM", 80),
    ),
    *_pool("BLACKWELL_96", "0.00111", ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000", 96)),
    *_pool("ADA_80_PRO", "0.00116", ("NVIDIA H100 80GB HBM3", "H100 SXM", 80), ("NVIDIA H100 PCIe", "H100 PCIe", 80)),
    *_pool("HOPPER_141", "0.00155", ("NVIDIA H200", "H200 SXM", 141)),
    *_pool("BLACKWELL_180", "0.00240", ("NVIDIA B200", "B200", 180)),
)


def pool_at(gpu_types: Sequence[GpuType], usd_per_second: Decimal) -> str:
    """Returns the pool whose GPUs cost this; the first one where there is none."""
    return next(
        (gpu_type.pool for gpu_type in gpu_types if gpu_type.usd_per_second == usd_per_second), gpu_types[0].pool
    )


def in_pools(gpu_types: Iterable[GpuType], pools: Iterable[str]) -> tuple[GpuType, ...]:
    """Returns the types of these pools, pool by pool in their order."""
    gpu_types = tuple(gpu_types)
    return tuple(gpu_type for pool in pools for gpu_type in gpu_types if gpu_type.pool == pool)
