"""The emulator offers the GPU types that the service knows, at the same list prices: the packages share no table."""

from __future__ import annotations

from dataclasses import asdict

from runpod_emulator.account.gpus import GPU_TYPES as EMULATED
from vllm_service.catalog.gpu_types import GPU_TYPES as KNOWN


def test_both_tables_of_gpu_types_are_the_same() -> None:
    assert [asdict(gpu_type) for gpu_type in EMULATED] == [asdict(gpu_type) for gpu_type in KNOWN]
    assert len({gpu_type.id for gpu_type in KNOWN}) == len(KNOWN) > 15
