"""The KV cache that `deploy plan` computes is the one that the pinned vLLM allocates, architecture by architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_service.deployment.kv_cache import KvCache, kv_cache_of
from vllm_service.deployment.model_config import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "head_dim": 32,
    "dtype": "bfloat16",
    "tie_word_embeddings": True,
}
GEMMA3 = {
    **SMALL,
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 12,
    "sliding_window": 64,
    "query_pre_attn_scalar": 32,
}
# An engine in a process of its own: it starts vLLM without workers and prints what each layer keeps.
REPORT = """
import json, os, sys
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM
engine = LLM(model=sys.argv[1], load_format=sys.argv[2], max_model_len=512, skip_tokenizer_init=True,
             enforce_eager=True, kv_cache_memory_bytes=64 << 20)
layers = engine.collective_rpc("get_kv_cache_spec")[0].values()
cache = engine.llm_engine.vllm_config.cache_config
print("REPORT " + json.dumps({
    "layers": [[layer.page_size_bytes // layer.block_size, getattr(layer, "sliding_window", None)] for layer in layers],
    "tokens": cache.num_gpu_blocks * cache.block_size,
}))
"""


def report(model: Path, load_format: str) -> dict[str, Any]:
    """What vLLM says: bytes per token and window of each layer, and how many tokens 64 MiB hold."""
    command = [sys.executable, "-c", REPORT, str(model), load_format]
    ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("REPORT ")]
    assert lines, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(lines[0].removeprefix("REPORT "))
    return found


def ours(config: dict[str, Any]) -> KvCache:
    found = kv_cache_of(ModelConfig(config), kv_cache_dtype="auto", gpus=1)
    assert isinstance(found, KvCache)
    return found


def test_the_demo_models_tokens_take_what_vllm_says() -> None:
    model = ROOT / "demo_model"
    cache = ours(json.loads((model / "config.json").read_text(encoding="utf-8")))
    said = report(model, "auto")
    assert sum(size for size, _ in said["layers"]) == cache.bytes_per_token
    # 64 MiB in whole blocks of 128 tokens, vLLM's on a CPU.
    assert 0 <= (64 << 20) // cache.bytes_per_token - said["tokens"] < 128


@pytest.mark.parametrize(
    "config",
    [GEMMA3, {**SMALL, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}],
    ids=lambda config: str(config["model_type"]),
)
def test_layers_with_and_without_a_window_are_those_of_vllm(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    said = sorted((size, window or 0) for size, window in report(tmp_path, "dummy")["layers"])
    groups = [
        (group.bytes_per_token, group.window_tokens or 0) for group in ours(config).groups for _ in range(group.layers)
    ]
    assert sorted(groups) == said
