"""The memory of a KV cache, by vLLM's own rules (0.32: v1/kv_cache_interface.py, ModelConfig.get_num_kv_heads).

One token of one layer takes `2 x KV heads x head size x bytes of a number`: a key and a value. With multi-head latent
attention (MLA) it takes `(kv_lora_rank + qk_rope_head_dim) x bytes`, once for all heads. Tensor parallelism divides KV
heads among GPUs, and repeats them where there are fewer than GPUs; the latent of MLA is on every GPU. A layer with a
sliding window keeps the window and the tokens of one step.

Only architectures whose layers are known to follow these rules have a size here. Any other is unknown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vllm_service.deployment.model_config import ModelConfig
from vllm_service.deployment.unknown import Unknown

#: vLLM's default: tokens are kept in blocks of so many.
BLOCK_TOKENS = 16
#: vLLM's default of max_num_batched_tokens on GPUs of 70 GB and more; smaller ones have fewer.
STEP_TOKENS = 8192
#: More layers than any model has: a defect of the file.
MOST_LAYERS = 10_000
FULL, SLIDING = "full_attention", "sliding_attention"
#: All layers are of one kind: they attend to everything, or have a window where the file names one.
_PLAIN = frozenset(
    {
        *("llama", "mistral", "mixtral", "gemma", "cohere", "phi3", "stablelm", "internlm2", "internlm3", "olmoe"),
        *("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
        *("qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text"),
        *("granite", "granitemoe", "glm4", "glm4_moe", "ernie4_5", "ernie4_5_moe", "minimax_m2"),
    }
)
#: These have layers with a window where `layer_types` says so.
_MIXED = frozenset({"llama", "mistral", "granite", "gemma2", "gemma3_text", "cohere2", "exaone4", "gpt_oss"})
#: The last layer of each so many attends to everything, where a file has no `layer_types` (transformers' defaults).
_PATTERN = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}
_LATENT = frozenset({"deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"})
#: Their head size is no quotient of others where the file leaves it out.
_OWN_HEAD_SIZE = frozenset({"gemma", "gemma2", "gemma3_text", "qwen3", "qwen3_moe", "glm4", "gpt_oss"})
_NUMBER_BYTES = {
    **{"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2},
    **{"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1},
}


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers of one kind, as they are on each GPU."""

    layers: int
    #: Of one layer.
    bytes_per_token: int
    #: Tokens that a layer looks back; None is all.
    window_tokens: int | None = None

    def bytes_for(self, context_tokens: int) -> int:
        """Returns the bytes of one conversation, in whole blocks."""
        tokens, spare_blocks = context_tokens, 0
        if self.window_tokens is not None and self.window_tokens - 1 + STEP_TOKENS < context_tokens:
            # The window may begin within a block.
            tokens, spare_blocks = self.window_tokens - 1 + STEP_TOKENS, 1
        blocks = -(-tokens // BLOCK_TOKENS) + spare_blocks
        return self.layers * blocks * BLOCK_TOKENS * self.bytes_per_token


@dataclass(frozen=True, slots=True)
class KvCache:
    """The KV cache on each GPU of a worker."""

    groups: tuple[LayerGroup, ...]

    @property
    def bytes_per_token(self) -> int:
        """The bytes of one more token in all layers, as long as no window is full."""
        return sum(group.layers * group.bytes_per_token for group in self.groups)

    def bytes_for(self, context_tokens: int, conversations: int) -> int:
        """Returns the bytes of so many conversations of this length."""
        return conversations * sum(group.bytes_for(context_tokens) for group in self.groups)


def kv_cache_of(config: ModelConfig, *, kv_cache_dtype: str, gpus: int) -> KvCache | Unknown:
    """Returns the KV cache on each of a worker's GPUs. kv_cache_dtype: vLLM's name; auto is the model's own type."""
    number_bytes = _number_bytes(config, kv_cache_dtype)
    layers = config.count("num_hidden_layers", MOST_LAYERS)
    if isinstance(number_bytes, Unknown):
        return number_bytes
    if isinstance(layers, Unknown):
        return layers
    if config.model_type in _LATENT:
        return _latent(config, layers, number_bytes)
    if config.model_type not in _PLAIN | _MIXED:
        named = config.model_type[:80] or "without a name"
        return Unknown(f"the KV cache of the architecture {named!r} is not known here")
    numbers = _numbers_per_token(config, gpus)
    return numbers if isinstance(numbers, Unknown) else _by_layers(config, layers, numbers * number_bytes)


def _number_bytes(config: ModelConfig, kv_cache_dtype: str) -> int | Unknown:
    name = kv_cache_dtype
    if name == "auto":
        # vLLM loads float32 weights as 16 bits.
        name = "bfloat16" if config.dtype in ("float32", "float64") else config.dtype or ""
    found = _NUMBER_BYTES.get(name)
    if found is not None:
        return found
    return Unknown(
        f"the size of the type {name[:40]!r} in the KV cache is not known" if name else "no dtype in config.json"
    )


def _latent(config: ModelConfig, layers: int, number_bytes: int) -> KvCache | Unknown:
    if config.has("index_topk"):
        return Unknown("the KV cache of sparse attention (index_topk) is not known here")
    latent, rope = config.count("kv_lora_rank"), config.count("qk_rope_head_dim")
    if isinstance(latent, Unknown):
        return latent
    if isinstance(rope, Unknown):
        return rope
    return KvCache((LayerGroup(layers, (latent + rope) * number_bytes),))


def _numbers_per_token(config: ModelConfig, gpus: int) -> int | Unknown:
    """Returns the numbers that one layer keeps of one token on each GPU."""
    heads = config.count("num_attention_heads")
    # Of other architectures a missing number of KV heads has a default of its own.
    is_llama = config.model_type == "llama" and not config.has("num_key_value_heads")
    kv_heads = heads if is_llama else config.count("num_key_value_heads")
    if isinstance(kv_heads, Unknown):
        return kv_heads
    size = _head_size(config, heads)
    return size if isinstance(size, Unknown) else 2 * max(1, kv_heads // gpus) * size


def _head_size(config: ModelConfig, heads: int | Unknown) -> int | Unknown:
    if config.has("head_dim") or config.model_type in _OWN_HEAD_SIZE:
        return config.count("head_dim")
    hidden = config.count("hidden_size")
    if isinstance(hidden, Unknown):
        return hidden
    if isinstance(heads, Unknown):
        return heads
    return hidden // heads or Unknown("config.json has more attention heads than hidden_size")


def _by_layers(config: ModelConfig, layers: int, bytes_per_token: int) -> KvCache | Unknown:
    kinds = _kinds(config, layers)
    if isinstance(kinds, Unknown):
        return kinds
    groups = [LayerGroup(kinds[FULL], bytes_per_token)] if kinds[FULL] else []
    if kinds[SLIDING]:
        window = config.count("sliding_window")
        if isinstance(window, Unknown):
            return window
        # Cohere's layers see the window and the token itself.
        groups.append(LayerGroup(kinds[SLIDING], bytes_per_token, window + (config.model_type == "cohere2")))
    return KvCache(tuple(groups))


def _kinds(config: ModelConfig, layers: int) -> Counter[str] | Unknown:
    """Returns how many layers attend to everything, and how many have a window."""
    named = config.texts("layer_types")
    if named is not None:
        return _named_kinds(config, layers, Counter(named))
    if (pattern := _PATTERN.get(config.model_type)) is not None:
        return Counter(FULL if layer % pattern == 0 else SLIDING for layer in range(1, layers + 1))
    return _same_kind(config, layers)


def _named_kinds(config: ModelConfig, layers: int, kinds: Counter[str]) -> Counter[str] | Unknown:
    if kinds.total() != layers or not set(kinds) <= {FULL, SLIDING}:
        return Unknown(f"config.json has layer_types that are not known here: {', '.join(sorted(kinds))[:80]}")
    if kinds[SLIDING] and config.model_type not in _MIXED:
        return Unknown(f"whether vLLM gives layers of {config.model_type!r} a window is not known here")
    return kinds


def _same_kind(config: ModelConfig, layers: int) -> Counter[str] | Unknown:
    if config.model_type == "mistral" and not config.is_named("sliding_window"):
        return Unknown("config.json has no sliding_window, whose default differs between releases of transformers")
    if not config.has("sliding_window") or config.is_off("use_sliding_window"):
        return Counter({FULL: layers})
    if config.has("use_sliding_window"):
        return Unknown("which layers use_sliding_window gives a window is not known here")
    return Counter({SLIDING: layers})
