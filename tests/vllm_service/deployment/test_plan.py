"""Sizes, pools, prices and the choice of a pool, as tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_service.deployment.test_kv_cache import DEEPSEEK, LLAMA
from vllm_service.deployment.kv_cache import STEP_TOKENS
from vllm_service.deployment.model_files import ModelFiles, Weights
from vllm_service.deployment.plan import (
    BUSY_HOURS,
    choose_pools,
    lines_of,
    spare_bytes,
    usd_per_month,
    volume_usd,
)
from vllm_service.deployment.pools import (
    Catalogue,
    Pool,
    per_second,
    read_catalogue,
    shipped,
    volume_usd_per_month,
)
from vllm_service.deployment.sizes import FIXED_BYTES, GpuNeed, ModelSizes, sizes_of
from vllm_service.deployment.spec import DeploymentSpec, LoraModule, VolumeSpec
from vllm_service.deployment.unknown import Unknown
from vllm_service.errors import ConfigurationError
from vllm_service.storage.ledger.cold_starts import ColdStart

SPEC = DeploymentSpec("chat", "org/name", "you/worker:1", idle_timeout_seconds=10, context_length=8192)
LLAMA_8B = {**LLAMA, "vocab_size": 128256, "intermediate_size": 14336}
GB = 10**9


def files(config: Mapping[str, Any] | Unknown, weights: Weights | Unknown = Weights(16 * GB)) -> ModelFiles:  # noqa: B008
    return ModelFiles("here", None, config, weights)


def sizes(need_bytes: int | None) -> ModelSizes:
    unknown = Unknown("nobody knows")
    need = unknown if need_bytes is None else GpuNeed(need_bytes, 0, 0)
    return ModelSizes("here", unknown, unknown, unknown, unknown, need)


def test_what_an_8b_model_needs_of_one_gpu() -> None:
    found = sizes_of(replace(SPEC, concurrency=4), files(LLAMA_8B))
    assert isinstance(found.need, GpuNeed)
    assert found.need.weights_bytes == 16 * GB
    assert found.need.kv_cache_bytes == 4 * 8192 * 131072
    activations = STEP_TOKENS * (2 * 14336 + 4 * 4096) * 2
    assert found.need.rest_bytes == FIXED_BYTES + activations + 256 * 128256 * 8
    assert found.need.total_bytes == sum((found.need.weights_bytes, found.need.kv_cache_bytes, found.need.rest_bytes))


def test_two_gpus_share_weights_and_kv_heads() -> None:
    found = sizes_of(replace(SPEC, gpus_per_worker=2), files(LLAMA_8B, Weights(3)))
    assert isinstance(found.need, GpuNeed)
    assert (found.need.weights_bytes, found.need.kv_cache_bytes) == (2, 8192 * 65536)


def test_of_experts_as_many_count_as_a_token_uses() -> None:
    config = {**DEEPSEEK, "hidden_size": 8, "vocab_size": 1, "intermediate_size": 100, "moe_intermediate_size": 30}
    for used, widest in ((8, 240), (2, 100)):
        found = sizes_of(SPEC, files({**config, "num_experts_per_tok": used}))
        assert isinstance(found.need, GpuNeed)
        assert found.need.rest_bytes == FIXED_BYTES + STEP_TOKENS * (2 * widest + 32) * 2 + 256 * 8


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Unknown("the hub does not answer"), "the hub does not answer"),
        (files(Unknown("no config")), "no config"),
        (files(LLAMA_8B, Unknown("no weights")), "no weights"),
        (files({**LLAMA_8B, "model_type": "new"}), "'new' is not known here"),
        (files({**LLAMA_8B, "vocab_size": None}), "no number vocab_size"),
        (files({**LLAMA_8B, "intermediate_size": 0}), "intermediate_size that cannot be"),
    ],
)
def test_a_need_that_is_not_known_says_why(found: ModelFiles | Unknown, reason: str) -> None:
    need = sizes_of(SPEC, found).need
    assert isinstance(need, Unknown)
    assert reason in need.reason


def test_the_models_own_context_counts_where_none_is_given() -> None:
    assert sizes_of(replace(SPEC, context_length=None), files(LLAMA_8B)).context_tokens == 131072


def test_notes_say_what_the_figures_leave_out() -> None:
    spec = replace(SPEC, context_length=200_000, quantization="fp8", lora_modules=(LoraModule("a", "/a"),))
    notes = sizes_of(spec, files(LLAMA_8B)).notes
    assert [note.partition(";")[0][:30] for note in notes] == [
        "context_length 200,000 is more",
        "the files are not quantised",
        "the memory of the LoRA adapter",
    ]
    (note,) = sizes_of(replace(SPEC, gpus_per_worker=3), files(LLAMA_8B)).notes
    assert note == "32 attention heads cannot be shared by 3 GPUs; vLLM refuses it"
    quantized = {**LLAMA_8B, "quantization_config": {"quant_method": "awq"}}
    assert sizes_of(replace(SPEC, quantization="awq"), files(quantized)).notes == ()


def test_the_cheapest_pool_that_holds_the_model_is_chosen() -> None:
    assert choose_pools(SPEC, sizes(14 * GB), shipped()) == ("AMPERE_16",)
    assert choose_pools(SPEC, sizes(15 * GB), shipped()) == ("AMPERE_24",)
    assert choose_pools(SPEC, sizes(75 * GB), shipped()) == ("BLACKWELL_96",)


def test_no_pool_is_chosen_by_a_guess() -> None:
    with pytest.raises(ConfigurationError, match=r"gpu_pools: the cheapest cannot be chosen.*nobody knows; name pools"):
        choose_pools(SPEC, sizes(None), shipped())
    with pytest.raises(ConfigurationError, match=r"BLACKWELL_180 of 180 GB, is too small by 38\.0 GB on each GPU"):
        choose_pools(SPEC, sizes(200 * GB), shipped())
    unpriced = Catalogue((Pool("NEW", ("X",), 24, None),), "here", is_complete=True)
    with pytest.raises(ConfigurationError, match="no pool has a price"):
        choose_pools(SPEC, sizes(1), unpriced)


def test_named_pools_stay_as_they_are_and_must_exist_where_all_are_known() -> None:
    spec = replace(SPEC, gpu_pools=("ADA_42", "ADA_24"))
    assert choose_pools(spec, sizes(None), shipped()) == ("ADA_42", "ADA_24")
    with pytest.raises(ConfigurationError, match=r"gpu_pools: RunPod has no pool 'ADA_42' \(did you mean ADA_24\?\)"):
        choose_pools(spec, sizes(None), replace(shipped(), is_complete=True))


def test_a_pool_that_lacks_memory_says_how_much() -> None:
    pool = Pool("P", ("X",), 24, Decimal(1))
    assert spare_bytes(SPEC, pool, sizes(20 * GB)) == 16 * 10**8
    assert spare_bytes(SPEC, pool, sizes(22 * GB)) == -4 * 10**8
    half = replace(SPEC, environment=(("VLLM_GPU_MEMORY_UTILIZATION", "0.5"),))
    assert spare_bytes(half, pool, sizes(11 * GB)) == GB
    (line,) = lines_of(SPEC, sizes(22 * GB), Catalogue((pool,), "here", is_complete=True), ("P",))
    assert (line.holds, line.is_chosen) == (False, True)
    (line,) = lines_of(SPEC, sizes(None), Catalogue((pool,), "here", is_complete=True), ())
    assert (line.holds, line.is_chosen) == (None, False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["0", "33.48", "803.52"]),
        ({"gpus_per_worker": 2}, ["0", "66.96", "1607.04"]),
        ({"workers_min": 1}, ["803.52", "803.52", "803.52"]),
        ({"workers_min": 2}, ["1607.04", "1607.04", "1607.04"]),
        ({"volume": VolumeSpec("v", 50), "data_center": "EU-RO-1"}, ["3.50", "36.98", "807.02"]),
    ],
)
def test_dollars_a_month_are_exact(changes: dict[str, Any], expected: list[str]) -> None:
    pool = Pool("ADA_24", ("RTX 4090",), 24, Decimal("1.116"))
    (line,) = lines_of(replace(SPEC, **changes), sizes(1), Catalogue((pool,), "here", is_complete=True), ())
    assert [*line.usd_per_month] == [Decimal(usd) for usd in expected]
    assert len(BUSY_HOURS) == len(expected)


def test_a_price_that_is_not_known_stays_unknown() -> None:
    pool = Pool("NEW", ("X",), 24, None)
    (line,) = lines_of(SPEC, sizes(1), Catalogue((pool,), "here", is_complete=True), ())
    assert (line.usd_per_hour, line.usd_per_month) == (None, (None, None, None))


def test_a_cold_start_is_the_median_of_those_measured_on_the_pools_gpus() -> None:
    starts = [ColdStart("NVIDIA L4", seconds) for seconds in (30.0, 90.0, 40.0)] + [ColdStart("NVIDIA B200", 9.0)]
    lines = lines_of(SPEC, sizes(1), shipped(), (), starts)
    found = {line.pool.id: line.cold_start_seconds for line in lines if line.cold_start_seconds is not None}
    assert found == {"AMPERE_24": 40.0, "BLACKWELL_180": 9.0}


@pytest.mark.parametrize(
    ("size_gb", "expected"), [(10, "0.70"), (100, "7.00"), (1000, "70.00"), (1001, "70.05"), (4096, "224.80")]
)
def test_a_volume_costs_less_above_a_terabyte(size_gb: int, expected: str) -> None:
    assert volume_usd_per_month(size_gb) == Decimal(expected)
    spec = replace(SPEC, volume=VolumeSpec("v", size_gb), data_center="EU-RO-1")
    assert volume_usd(spec) == Decimal(expected)
    assert usd_per_month(spec, Decimal(1), 0) == Decimal(expected)


def test_the_shipped_table_is_sorted_by_price_and_counts_the_least_memory() -> None:
    pools = shipped().pools
    assert [pool.usd_per_hour for pool in pools] == sorted(pool.usd_per_hour or 0 for pool in pools)
    assert pools[0] == Pool(
        *("AMPERE_16", ("RTX A4000", "RTX A4500", "RTX 4000 Ada"), 16, Decimal("0.576"), None),
        ("NVIDIA RTX A4000", "NVIDIA RTX A4500", "NVIDIA RTX 4000 Ada Generation"),
    )
    assert per_second(Decimal("0.576")) == Decimal("0.00016")
    assert per_second(Decimal(1)) == Decimal("0.00027778")


class Pages:
    """Lists that are there already."""

    def __init__(self, *items: Mapping[str, Any]) -> None:
        self.items = items
        self.asked: list[tuple[str, str, Mapping[str, str | int] | None]] = []

    async def pages(
        self, path: str, name: str, query: Mapping[str, str | int] | None = None
    ) -> AsyncIterator[Mapping[str, Any]]:
        self.asked.append((path, name, query))
        for item in self.items:
            yield item


def gpu(**changes: Any) -> dict[str, Any]:
    whole = {
        "id": "NVIDIA GeForce RTX 4090",
        "name": "RTX 4090",
        "pool": "ADA_24",
        "manufacturer": "NVIDIA",
        "memory": 24,
        "price": {"secure": Decimal("0.44"), "community": Decimal("0.31"), "serverless": Decimal("1.1")},
        "availability": "HIGH",
    }
    return whole | changes


async def test_the_catalogue_is_asked_for_workers_of_this_kind() -> None:
    lists = Pages(
        gpu(), gpu(id="NVIDIA L4", name="L4", availability="LOW", price={"serverless": Decimal("0.69")}, memory=23)
    )
    found = await read_catalogue(lists, gpus=2, min_cuda_version="13.0")
    assert found.pools == (
        Pool("ADA_24", ("RTX 4090", "L4"), 23, Decimal("1.1"), "HIGH", ("NVIDIA GeForce RTX 4090", "NVIDIA L4")),
    )
    assert found.usd_per_hour_by_type == {"NVIDIA GeForce RTX 4090": Decimal("1.1"), "NVIDIA L4": Decimal("0.69")}
    assert lists.asked == [
        (
            *("/v2/catalog/gpus", "gpus"),
            {"include": "AVAILABILITY", "product": "SERVERLESS", "count": 2, "minCudaVersion": "13.0"},
        )
    ]


@pytest.mark.parametrize(
    ("places", "stock"),
    [
        ([{"id": "EU-RO-1", "availability": "LOW"}, {"id": "US-KS-2", "availability": "HIGH"}], "LOW"),
        ([{"id": "US-KS-2", "availability": "HIGH"}, None, "x"], "NONE"),
        (None, "NONE"),
        ([{"id": "EU-RO-1", "availability": ["HIGH"]}], None),
    ],
)
async def test_stock_is_that_of_the_data_center(places: object, stock: str | None) -> None:
    (pool,) = (await read_catalogue(Pages(gpu(dataCenters=places)), data_center="EU-RO-1")).pools
    assert pool.stock == stock


@pytest.mark.parametrize(
    "item",
    [
        {},
        gpu(pool=None),
        gpu(pool=7),
        gpu(manufacturer="AMD"),
        gpu(memory="24"),
        gpu(memory=True),
        gpu(memory=-1),
        gpu(memory=10**30),
    ],
    ids=range(8),
)
async def test_a_type_that_cannot_be_used_is_left_out(item: dict[str, Any]) -> None:
    assert (await read_catalogue(Pages(item))).pools == ()


@pytest.mark.parametrize(
    "price",
    [
        *(None, "cheap", {}, {"serverless": None}, {"serverless": "1"}, {"serverless": True}, {"serverless": -1}),
        *({"serverless": 0}, {"serverless": Decimal("1e99")}, {"serverless": Decimal("NaN")}),
    ],
)
async def test_a_price_that_is_none_is_unknown_for_the_whole_pool(price: object) -> None:
    (pool,) = (await read_catalogue(Pages(gpu(), gpu(price=price, availability="PLENTY")))).pools
    assert pool.usd_per_hour is None
    assert pool.stock == "HIGH"


def test_the_demo_model_fits_everywhere() -> None:
    from vllm_service.deployment.model_files import of_directory

    demo = of_directory(Path(__file__).resolve().parents[3] / "demo_model")
    assert choose_pools(replace(SPEC, context_length=2048), sizes_of(SPEC, demo), shipped()) == ("AMPERE_16",)
