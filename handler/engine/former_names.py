"""Variables of older vLLM releases and of the official worker that set nothing any more, and what to set instead.

The names are those of the flags that vLLM removed, in UPPER_SNAKE, and of settings that the official worker has or had.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

SPECULATIVE = """set SPECULATIVE_CONFIG, such as '{"method": "ngram", "num_speculative_tokens": 4}'"""
STREAMS = "leave it out: the worker joins the pieces of a stream by itself"
NOTHING = "leave it out: this vLLM has nothing like it"
ITSELF = "leave it out: vLLM decides this by itself"
ROPE = """set HF_OVERRIDES, such as '{"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}'"""

FORMER_NAMES: Mapping[str, str] = {
    "TASK": "set RUNNER=pooling for embedding, reranking or reward models, and CONVERT=embed, classify or reward to "
    "adapt a generative model",
    "ENABLE_REASONING": "set REASONING_PARSER alone, which turns it on",
    "GUIDED_DECODING_BACKEND": """set STRUCTURED_OUTPUTS_CONFIG, such as '{"backend": "xgrammar"}'""",
    "GUIDED_DECODING_DISABLE_FALLBACK": """set STRUCTURED_OUTPUTS_CONFIG, such as '{"disable_fallback": true}'""",
    "GUIDED_DECODING_DISABLE_ANY_WHITESPACE": "set STRUCTURED_OUTPUTS_CONFIG, such as "
    """'{"disable_any_whitespace": true}'""",
    "SPECULATIVE_MODEL": SPECULATIVE,
    "NUM_SPECULATIVE_TOKENS": SPECULATIVE,
    "SPECULATIVE_DRAFT_TENSOR_PARALLEL_SIZE": SPECULATIVE,
    "SPECULATIVE_MAX_MODEL_LEN": SPECULATIVE,
    "SPECULATIVE_DISABLE_BY_BATCH_SIZE": SPECULATIVE,
    "NGRAM_PROMPT_LOOKUP_MAX": SPECULATIVE,
    "NGRAM_PROMPT_LOOKUP_MIN": SPECULATIVE,
    "SPEC_DECODING_ACCEPTANCE_METHOD": SPECULATIVE,
    "ROPE_SCALING": ROPE,
    "ROPE_THETA": ROPE,
    "DEVICE": "leave it out: the build of vLLM decides it",
    "DISABLE_LOG_REQUESTS": "leave it out: requests are logged only with ENABLE_LOG_REQUESTS=true",
    "DISABLE_LOGGING_REQUEST": "leave it out: requests are logged only with ENABLE_LOG_REQUESTS=true",
    "DISABLE_MM_PREPROCESSOR_CACHE": "set MM_PROCESSOR_CACHE_GB=0",
    "CUDA_GRAPH_SIZES": "set CUDAGRAPH_CAPTURE_SIZES",
    "MAX_SEQ_LEN_TO_CAPTURE": "set MAX_CUDAGRAPH_CAPTURE_SIZE",
    "FULL_CUDA_GRAPH": """set COMPILATION_CONFIG, such as '{"cudagraph_mode": "FULL"}'""",
    "OVERRIDE_POOLER_CONFIG": "set POOLER_CONFIG",
    "WORKER_USE_RAY": "set DISTRIBUTED_EXECUTOR_BACKEND=ray",
    "ENABLE_MULTIMODAL_ENCODER_DATA_PARALLEL": "set MM_ENCODER_TP_MODE=data",
    "SWAP_SPACE": NOTHING,
    "USE_V2_BLOCK_MANAGER": NOTHING,
    "NUM_LOOKAHEAD_SLOTS": NOTHING,
    "NUM_SCHEDULER_STEPS": NOTHING,
    "MULTI_STEP_STREAM_OUTPUTS": NOTHING,
    "SCHEDULER_DELAY_FACTOR": NOTHING,
    "QUANTIZATION_PARAM_PATH": NOTHING,
    "LONG_LORA_SCALING_FACTORS": NOTHING,
    "LORA_EXTRA_VOCAB_SIZE": NOTHING,
    "ENABLE_PROMPT_ADAPTER": NOTHING,
    "OVERRIDE_ATTENTION_DTYPE": NOTHING,
    "LOGITS_PROCESSOR_PATTERN": NOTHING,
    "MAX_NUM_PARTIAL_PREFILLS": NOTHING,
    "PREEMPTION_MODE": ITSELF,
    "PREEMPTION_CHECK_PERIOD": ITSELF,
    "PREEMPTION_CPU_CAPACITY": ITSELF,
    "DISABLE_ASYNC_OUTPUT_PROC": ITSELF,
    "TOKENIZER_POOL_SIZE": ITSELF,
    "TOKENIZER_POOL_TYPE": ITSELF,
    "TOKENIZER_POOL_EXTRA_CONFIG": ITSELF,
    "DEFAULT_BATCH_SIZE": STREAMS,
    "DEFAULT_MIN_BATCH_SIZE": STREAMS,
    "DEFAULT_BATCH_SIZE_GROWTH_FACTOR": STREAMS,
    "RAW_OPENAI_OUTPUT": "leave it out: answers on the OpenAI route are vLLM's own",
    "USE_V1": "leave it out: this vLLM has no other engine",
}


def replacement(name: str, flags: Container[str], prefix: str) -> str | None:
    """Returns what to do instead of setting `name`, or None where it is no former name, or still a flag."""
    former = name.removeprefix(prefix)
    return None if former.lower() in flags else FORMER_NAMES.get(former)
