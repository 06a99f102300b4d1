"""What a model needs of each GPU's memory: weights, KV cache, and the rest, which is an estimate by a formula."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_service.deployment.kv_cache import STEP_TOKENS, KvCache, kv_cache_of
from vllm_service.deployment.model_config import ModelConfig
from vllm_service.deployment.model_files import ModelFiles, Weights
from vllm_service.deployment.spec import DeploymentSpec
from vllm_service.deployment.unknown import Unknown

#: CUDA's context, communication buffers and captured graphs on each GPU: an estimate.
FIXED_BYTES = 2**30
#: Requests whose next token vLLM samples at once when it measures its own need (max_num_seqs, 0.32's default).
SAMPLED_REQUESTS = 256
#: The logits as 32-bit numbers, and the sampler's copy.
LOGITS_BYTES = 8
#: What the rest is, for people: the formula of `_rest`.
REST_FORMULA = (
    "1 GiB + 8,192 tokens x (2 x intermediate size / GPUs + 4 x hidden size) x 2 bytes + 256 requests x vocabulary x "
    "8 bytes: an estimate"
)


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """Bytes on each of a worker's GPUs."""

    weights_bytes: int
    kv_cache_bytes: int
    rest_bytes: int

    @property
    def total_bytes(self) -> int:
        """All together: what has to fit into vLLM's share of the GPU."""
        return self.weights_bytes + self.kv_cache_bytes + self.rest_bytes


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The sizes of a model as a specification would run it."""

    #: Where the figures come from, for people.
    source: str
    weights: Weights | Unknown
    #: Bytes of all weights in memory.
    weights_bytes: int | Unknown
    #: On each GPU.
    kv_cache: KvCache | Unknown
    #: Tokens of one conversation: the specification's, else the model's own.
    context_tokens: int | Unknown
    #: On each GPU.
    need: GpuNeed | Unknown
    #: What people have to know about the figures.
    notes: tuple[str, ...] = ()


def sizes_of(spec: DeploymentSpec, files: ModelFiles | Unknown) -> ModelSizes:
    """Returns the sizes of the model in these files. What is not known is Unknown, with the reason."""
    if isinstance(files, Unknown):
        return ModelSizes(spec.model, files, files, files, spec.context_length or files, files)
    if isinstance(files.config, Unknown):
        reason = files.config
        weights = files.weights if isinstance(files.weights, Unknown) else files.weights.file_bytes
        return ModelSizes(files.source, files.weights, weights, reason, spec.context_length or reason, reason)
    config = ModelConfig(files.config)
    weights_bytes = (
        files.weights
        if isinstance(files.weights, Unknown)
        else files.weights.loaded_bytes(is_quantized=config.is_quantized)
    )
    kv_cache = kv_cache_of(config, kv_cache_dtype=spec.kv_cache_dtype, gpus=spec.gpus_per_worker)
    context = spec.context_length or config.longest_context()
    need = _need(spec, config, weights_bytes, kv_cache, context)
    return ModelSizes(
        files.source, files.weights, weights_bytes, kv_cache, context, need, tuple(_notes(spec, config, context))
    )


def _need(
    spec: DeploymentSpec,
    config: ModelConfig,
    weights_bytes: int | Unknown,
    kv_cache: KvCache | Unknown,
    context: int | Unknown,
) -> GpuNeed | Unknown:
    rest = _rest(config, spec.gpus_per_worker)
    if isinstance(weights_bytes, Unknown):
        return weights_bytes
    if isinstance(kv_cache, Unknown):
        return kv_cache
    if isinstance(context, Unknown):
        return context
    if isinstance(rest, Unknown):
        return rest
    return GpuNeed(-(-weights_bytes // spec.gpus_per_worker), kv_cache.bytes_for(context, spec.concurrency), rest)


def _rest(config: ModelConfig, gpus: int) -> int | Unknown:
    """Returns the bytes of activations, logits and everything else on each GPU, by REST_FORMULA."""
    hidden, vocabulary, intermediate = config.count("hidden_size"), config.count("vocab_size"), _intermediate(config)
    if isinstance(hidden, Unknown):
        return hidden
    if isinstance(vocabulary, Unknown):
        return vocabulary
    if isinstance(intermediate, Unknown):
        return intermediate
    activations = STEP_TOKENS * (2 * -(-intermediate // gpus) + 4 * hidden) * 2
    return FIXED_BYTES + activations + SAMPLED_REQUESTS * vocabulary * LOGITS_BYTES


def _intermediate(config: ModelConfig) -> int | Unknown:
    """Returns the widest layer: of experts, as many as one token uses."""
    dense, expert = config.count("intermediate_size"), config.count("moe_intermediate_size")
    used = config.count("num_experts_per_tok")
    experts = expert * used if isinstance(expert, int) and isinstance(used, int) else None
    if experts is None:
        return dense
    return max(experts, dense) if isinstance(dense, int) else experts


def _notes(spec: DeploymentSpec, config: ModelConfig, context: int | Unknown) -> list[str]:
    notes = []
    longest = config.longest_context()
    if isinstance(context, int) and isinstance(longest, int) and context > longest:
        notes.append(f"context_length {context:,} is more than the model's own {longest:,}; vLLM refuses it")
    heads = config.count("num_attention_heads")
    if isinstance(heads, int) and heads % spec.gpus_per_worker:
        notes.append(f"{heads} attention heads cannot be shared by {spec.gpus_per_worker} GPUs; vLLM refuses it")
    if spec.quantization is not None and not config.is_quantized:
        notes.append(
            f"the files are not quantised; how small vLLM makes them by {spec.quantization} is not known, so the "
            "weights count as they are"
        )
    if spec.lora_modules:
        notes.append("the memory of the LoRA adapters is not counted")
    return notes
