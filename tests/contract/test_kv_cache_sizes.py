"""The KV cache that `deploy plan` computes is the one that the pinned vLLM allocates, architecture by architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
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
    "dtype": "bfloat16",
    "tie_word_embeddings": True,
}
WINDOW = {"sliding_window": 64}
HEAD = {"head_dim": 32}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    **{"num_key_value_heads": 4, "kv_lora_rank": 128, "qk_rope_head_dim": 64, "qk_nope_head_dim": 32},
    **{"v_head_dim": 32, "q_lora_rank": 64, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    **{"moe_intermediate_size": 64, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
}
# By name: vLLM's class, the architecture in config.json, and what it has beside SMALL. One with experts is the first,
# because vLLM makes its group of experts with the first model.
MODELS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "mixtral": ("Mixtral", "mixtral", {**LOCAL_EXPERTS, "sliding_window": None}),
    "mixtral, window": ("Mixtral", "mixtral", {**LOCAL_EXPERTS, **WINDOW}),
    "llama": ("Llama", "llama", HEAD),
    "llama, some windows": (
        "Llama",
        "llama",
        {**WINDOW, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    ),
    "llama, window": ("Llama", "llama", WINDOW),
    "mistral": ("Mistral", "mistral", {**HEAD, "sliding_window": None}),
    "mistral, window": ("Mistral", "mistral", WINDOW),
    "phi3": ("Phi3", "phi3", {**WINDOW, "pad_token_id": 0}),
    "gemma": ("Gemma", "gemma", HEAD),
    "gemma2": ("Gemma2", "gemma2", {**HEAD, **WINDOW, "query_pre_attn_scalar": 32}),
    "gemma3": ("Gemma3", "gemma3_text", {**HEAD, **WINDOW, "query_pre_attn_scalar": 32, "num_hidden_layers": 13}),
    "cohere": ("Cohere", "cohere", {}),
    "cohere2": ("Cohere2", "cohere2", {**WINDOW, "num_hidden_layers": 9}),
    "granite": ("Granite", "granite", {}),
    "granite, window": ("Granite", "granite", WINDOW),
    "granitemoe": ("GraniteMoe", "granitemoe", LOCAL_EXPERTS),
    "stablelm": ("StableLm", "stablelm", {}),
    "olmoe": ("Olmoe", "olmoe", EXPERTS),
    "qwen2": ("Qwen2", "qwen2", {**WINDOW, "use_sliding_window": False}),
    "qwen2_moe": ("Qwen2Moe", "qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 64}),
    "qwen3": ("Qwen3", "qwen3", HEAD),
    "qwen3_moe": ("Qwen3Moe", "qwen3_moe", {**HEAD, **EXPERTS}),
    "glm4": ("Glm4", "glm4", {**HEAD, "partial_rotary_factor": 0.5}),
    "glm4_moe": (
        "Glm4Moe",
        "glm4_moe",
        {**HEAD, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 64},
    ),
    "ernie4_5": ("Ernie4_5", "ernie4_5", HEAD),
    "ernie4_5_moe": ("Ernie4_5_Moe", "ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 64}),
    "gpt_oss": ("GptOss", "gpt_oss", {**HEAD, **WINDOW, **LOCAL_EXPERTS}),
    "exaone4": (
        "Exaone4",
        "exaone4",
        {**HEAD, **WINDOW, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    ),
    "deepseek_v2": ("DeepseekV2", "deepseek_v2", {**LATENT, "q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek_v3": ("DeepseekV3", "deepseek_v3", LATENT),
    "glm4_moe_lite": ("Glm4MoeLite", "glm4_moe_lite", LATENT),
}
# A whole engine, in a process of its own: bytes per token of each layer, and how many tokens 64 MiB hold.
ENGINE = """
import json, os, sys
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM
engine = LLM(model=sys.argv[1], max_model_len=512, skip_tokenizer_init=True, enforce_eager=True,
             kv_cache_memory_bytes=64 << 20)
layers = engine.collective_rpc("get_kv_cache_spec")[0].values()
cache = engine.llm_engine.vllm_config.cache_config
print("REPORT " + json.dumps({
    "layers": [layer.page_size_bytes // layer.block_size for layer in layers],
    "tokens": cache.num_gpu_blocks * cache.block_size,
}))
"""
# Models without weights, on the device `meta`: bytes per token and window of each layer, by the folder's name.
LAYERS = """
import json, pathlib, sys, tempfile
import torch
from vllm.config import get_layers_from_vllm_config, set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype
found = {}
for number, folder in enumerate(sorted(pathlib.Path(sys.argv[1]).iterdir())):
    config = EngineArgs(model=str(folder), load_format="dummy", max_model_len=512, skip_tokenizer_init=True,
                        enforce_eager=True).create_engine_config()
    with set_current_vllm_config(config):
        if not number:
            init_distributed_environment(1, 0, f"file://{tempfile.mktemp()}", 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
        with set_default_torch_dtype(config.model_config.dtype), torch.device("meta"):
            initialize_model(config)
        layers = get_layers_from_vllm_config(config, AttentionLayerBase).values()
        specs = [layer.get_kv_cache_spec(config) for layer in layers]
    found[folder.name] = [
        [spec.page_size_bytes // spec.block_size, getattr(spec, "sliding_window", None) or 0] for spec in specs
    ]
print("REPORT " + json.dumps(found))
"""


def report(program: str, folder: Path) -> Any:
    """What a program with vLLM prints of the model, or models, in this folder."""
    command = [sys.executable, "-c", program, str(folder)]
    ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=400)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("REPORT ")]
    assert lines, ended.stderr[-3000:]
    return json.loads(lines[0].removeprefix("REPORT "))


def config_of(name: str) -> dict[str, Any]:
    class_name, model_type, more = MODELS[name]
    return {**SMALL, "model_type": model_type, "architectures": [f"{class_name}ForCausalLM"], **more}


def ours(config: dict[str, Any]) -> KvCache:
    found = kv_cache_of(ModelConfig(config), kv_cache_dtype="auto", gpus=1)
    assert isinstance(found, KvCache)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    """Bytes per token and window of each layer, 0 without one, by the model's number in MODELS."""
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(MODELS):
        (folder / f"{number:02}").mkdir()
        (folder / f"{number:02}" / "config.json").write_text(json.dumps(config_of(name)), encoding="utf-8")
    found: dict[str, list[list[int]]] = report(LAYERS, folder)
    return found


def test_the_demo_models_tokens_take_what_vllm_allocates() -> None:
    model = ROOT / "demo_model"
    cache = ours(json.loads((model / "config.json").read_text(encoding="utf-8")))
    found = report(ENGINE, model)
    assert sum(found["layers"]) == cache.bytes_per_token
    # 64 MiB in whole blocks of 128 tokens, vLLM's on a CPU.
    assert 0 <= (64 << 20) // cache.bytes_per_token - found["tokens"] < 128


@pytest.mark.parametrize("name", MODELS)
def test_the_layers_of_an_architecture_are_those_of_vllm(said: dict[str, list[list[int]]], name: str) -> None:
    groups = ours(config_of(name)).groups
    layers = [[group.bytes_per_token, group.window_tokens or 0] for group in groups for _ in range(group.layers)]
    assert sorted(layers) == sorted(said[f"{[*MODELS].index(name):02}"])
