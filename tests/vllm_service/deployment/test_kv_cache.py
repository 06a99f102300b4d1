"""The KV cache of known architectures by their config.json; of everything else it is unknown, never a guess."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_service.deployment.kv_cache import BLOCK_TOKENS, STEP_TOKENS, KvCache, LayerGroup, kv_cache_of
from vllm_service.deployment.model_config import ModelConfig
from vllm_service.deployment.unknown import Unknown

#: Meta's Llama 3.1 8B, as its config.json has it.
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 131072,
}
#: DeepSeek V3.
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "torch_dtype": "bfloat16",
}
#: gpt-oss-20b.
GPT_OSS = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "torch_dtype": "bfloat16",
}
QWEN3 = {**LLAMA, "model_type": "qwen3", "num_hidden_layers": 36, "head_dim": 128}
GEMMA3 = {
    "model_type": "gemma3_text",
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 1024,
    "dtype": "bfloat16",
}


def of(document: dict[str, Any], dtype: str = "auto", gpus: int = 1) -> KvCache | Unknown:
    return kv_cache_of(ModelConfig(document), kv_cache_dtype=dtype, gpus=gpus)


@pytest.mark.parametrize(
    ("document", "dtype", "gpus", "bytes_per_token"),
    [
        (LLAMA, "auto", 1, 32 * 2 * 8 * 128 * 2),
        (LLAMA, "fp8", 1, 32 * 2 * 8 * 128),
        (LLAMA, "auto", 4, 32 * 2 * 2 * 128 * 2),
        (LLAMA, "auto", 16, 32 * 2 * 1 * 128 * 2),  # a GPU has one head at least
        ({**LLAMA, "num_key_value_heads": None}, "auto", 1, 32 * 2 * 32 * 128 * 2),
        ({**LLAMA, "torch_dtype": "float32"}, "auto", 1, 32 * 2 * 8 * 128 * 2),
        ({**LLAMA, "head_dim": 64}, "auto", 1, 32 * 2 * 8 * 64 * 2),
        (QWEN3, "auto", 1, 36 * 2 * 8 * 128 * 2),
        (
            {"model_type": "mistral3", "text_config": {**LLAMA, "model_type": "mistral", "sliding_window": None}},
            "auto",
            1,
            131072,
        ),
        ({"torch_dtype": "bfloat16", "text_config": {**QWEN3, "torch_dtype": None}}, "auto", 1, 147456),
        (DEEPSEEK, "auto", 1, 61 * 576 * 2),
        (DEEPSEEK, "auto", 8, 61 * 576 * 2),  # the latent is on every GPU
        (GPT_OSS, "auto", 1, 24 * 2 * 8 * 64 * 2),
        (GEMMA3, "auto", 1, 34 * 2 * 4 * 256 * 2),
    ],
)
def test_a_token_of_a_known_architecture(document: dict[str, Any], dtype: str, gpus: int, bytes_per_token: int) -> None:
    found = of(document, dtype, gpus)
    assert isinstance(found, KvCache)
    assert found.bytes_per_token == bytes_per_token


@pytest.mark.parametrize(
    ("document", "full", "sliding"),
    [
        (GPT_OSS, 12, 12),
        (GEMMA3, 5, 29),  # layers 6, 12, 18, 24 and 30 look at everything
        ({**GEMMA3, "model_type": "gemma2", "num_hidden_layers": 26}, 13, 13),
        ({**LLAMA, "sliding_window": 512, "layer_types": ["sliding_attention"] * 31 + ["full_attention"]}, 1, 31),
        ({**LLAMA, "sliding_window": 512}, 0, 32),
        ({**QWEN3, "sliding_window": 512, "use_sliding_window": False}, 36, 0),
        ({**LLAMA, "model_type": "mistral", "sliding_window": None}, 32, 0),
    ],
)
def test_layers_with_a_window_are_counted_apart(document: dict[str, Any], full: int, sliding: int) -> None:
    found = of(document)
    assert isinstance(found, KvCache)
    assert sum(group.layers for group in found.groups if group.window_tokens is None) == full
    assert sum(group.layers for group in found.groups if group.window_tokens is not None) == sliding


def test_a_window_bounds_what_a_long_conversation_takes() -> None:
    cache = KvCache((LayerGroup(1, 10), LayerGroup(2, 10, window_tokens=129)))
    assert cache.bytes_for(1000, 1) == 3 * 1008 * 10  # whole blocks; no window is full
    long = 100_000
    windowed = (128 + STEP_TOKENS) + BLOCK_TOKENS
    assert cache.bytes_for(long, 3) == 3 * (long * 10 + 2 * windowed * 10)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "no dtype"),
        ({"dtype": "bfloat16"}, "no number num_hidden_layers"),
        ({**LLAMA, "model_type": "mamba2"}, "the architecture 'mamba2' is not known here"),
        ({**LLAMA, "model_type": None}, "the architecture 'without a name'"),
        ({**LLAMA, "model_type": "qwen3_next"}, "not known here"),
        ({**LLAMA, "model_type": "m" * 10_000}, "not known here"),
        ({**LLAMA, "num_hidden_layers": 10**9}, "cannot be"),
        ({**LLAMA, "num_hidden_layers": 10**4000}, "cannot be"),
        ({**LLAMA, "num_hidden_layers": True}, "no number"),
        ({**LLAMA, "num_hidden_layers": "32"}, "no number"),
        ({**LLAMA, "num_hidden_layers": float("nan")}, "no number"),
        ({**LLAMA, "num_key_value_heads": -1}, "cannot be"),
        ({**LLAMA, "hidden_size": 8}, "more attention heads"),
        ({**LLAMA, "torch_dtype": "int3"}, "the type 'int3'"),
        ({**LLAMA, "layer_types": ["full_attention"]}, "layer_types"),
        ({**LLAMA, "layer_types": ["linear_attention"] * 32}, "layer_types that are not known here: linear"),
        ({**LLAMA, "layer_types": ["sliding_attention"] * 32}, "no number sliding_window"),
        ({**QWEN3, "sliding_window": 9, "layer_types": ["sliding_attention"] * 36}, "gives layers of 'qwen3' a window"),
        ({**QWEN3, "sliding_window": 9, "use_sliding_window": True}, "which layers use_sliding_window gives a window"),
        ({**LLAMA, "model_type": "mistral"}, "has no sliding_window"),
        ({**LLAMA, "sliding_window": "9"}, "no number sliding_window"),
        ({**QWEN3, "head_dim": None}, "no number head_dim"),
        ({**QWEN3, "num_key_value_heads": None}, "no number num_key_value_heads"),
        ({**DEEPSEEK, "kv_lora_rank": None}, "no number kv_lora_rank"),
        ({**DEEPSEEK, "index_topk": 2048}, "sparse attention"),
        ({**LLAMA, "text_config": []}, None),
    ],
)
def test_what_is_not_known_says_why(document: dict[str, Any], reason: str | None) -> None:
    found = of(document)
    if reason is None:
        assert isinstance(found, KvCache)
    else:
        assert isinstance(found, Unknown)
        assert reason in found.reason
        assert len(found.reason) < 200


def test_the_type_of_the_cache_may_be_one_that_is_not_known() -> None:
    assert isinstance(of(LLAMA, "turboquant_4bit_nc"), Unknown)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (LLAMA, 131072),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0}}, "scales positions by 'yarn'"),
        ({"n_positions": 1024}, 1024),
        ({}, "names no longest context"),
    ],
)
def test_the_longest_context(document: dict[str, Any], expected: int | str) -> None:
    found = ModelConfig(document).longest_context()
    assert found == expected or (isinstance(found, Unknown) and isinstance(expected, str) and expected in found.reason)
