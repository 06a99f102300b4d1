"""JSON schemas of the four POST endpoints' requests and answers, which FastAPI does not route.

Only fields that the gateway or every provider insists on are required; unknown ones pass through to the provider.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
_STRING_OR_NULL: Schema = {"type": ["string", "null"]}
_FLAG_OR_NULL: Schema = {"type": ["boolean", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MOST_TOKENS: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": 1_000_000_000}
_MODEL: Schema = {"type": "string", "minLength": 1, "description": "A name or alias from GET /v1/models"}
_USAGE = {"$ref": "#/components/schemas/Usage"}
_ADDED = {
    "cost_info": {"$ref": "#/components/schemas/CostInfo"},
    "performance_info": {"$ref": "#/components/schemas/PerformanceInfo"},
}
_SAMPLING: dict[str, Schema] = {
    "max_tokens": _MOST_TOKENS,
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "stream": {"type": ["boolean", "null"]},
}
_TEXT_OR_TEXTS: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}


def _object(required: list[str], properties: dict[str, Schema], description: str) -> Schema:
    return {"type": "object", "required": required, "properties": properties, "description": description}


_MESSAGE = _object(
    ["role", "content"],
    {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]},
    },
    "One turn of the conversation, as OpenAI has it",
)

SCHEMAS: dict[str, Schema] = {
    "ChatCompletionRequest": _object(
        ["model", "messages"],
        {"model": _MODEL, "messages": {"type": "array", "items": _MESSAGE, "minItems": 1}, **_SAMPLING},
        "OpenAI's request for a chat completion",
    ),
    "CompletionRequest": _object(
        ["model", "prompt"],
        {"model": _MODEL, "prompt": _TEXT_OR_TEXTS, **_SAMPLING},
        "OpenAI's request for a completion",
    ),
    "ResponseRequest": _object(
        ["model", "input"],
        {
            "model": _MODEL,
            "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]},
            "max_output_tokens": _MOST_TOKENS,
            "temperature": _SAMPLING["temperature"],
            "stream": _SAMPLING["stream"],
        },
        "OpenAI's request for a response",
    ),
    "EmbeddingRequest": _object(
        ["model", "input"], {"model": _MODEL, "input": _TEXT_OR_TEXTS}, "OpenAI's request for embeddings"
    ),
    "Usage": _object(
        [],
        {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
        "Tokens as the provider counted them",
    ),
    "CostInfo": _object(
        ["vllm_cost_usd", "openai_cost_usd", "savings_usd", "savings_percentage", "is_estimate", "cost_basis"],
        dict.fromkeys(("vllm_cost_usd", "openai_cost_usd", "savings_usd", "savings_percentage"), _NUMBER_OR_NULL)
        | {"is_estimate": {"type": "boolean"}, "cost_basis": {"enum": ["expected", "booked", None]}},
        "The request's cost, and what it would have cost with the baseline model; null is unknown. cost_basis: an "
        "expected cost is replaced in the ledger by what is booked from the seconds of workers, and by the bill",
    ),
    "PerformanceInfo": _object(
        ["inference_time_ms", "ttft_ms", "tokens_per_second", "cache_hit", "quality_score", "provider"],
        {
            **dict.fromkeys(("inference_time_ms", "ttft_ms", "tokens_per_second", "quality_score"), _NUMBER_OR_NULL),
            "cache_hit": _FLAG_OR_NULL,
            "apple_silicon_optimized": _FLAG_OR_NULL,
            **dict.fromkeys(("provider", "route_reason"), _STRING_OR_NULL),
        },
        "Measurements of the request; null is not measured",
    ),
    "ChatCompletion": _object(
        ["id", "object", "choices"],
        {
            "id": {"type": "string"},
            "object": {"const": "chat.completion"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object", "required": ["index", "message"]}},
            "usage": {"anyOf": [_USAGE, {"type": "null"}]},
            **_ADDED,
        },
        "The provider's answer, with what the gateway adds",
    ),
    "Completion": _object(
        ["id", "object", "choices"],
        {
            "id": {"type": "string"},
            "object": {"const": "text_completion"},
            "choices": {"type": "array", "items": {"type": "object", "required": ["index", "text"]}},
            "usage": {"anyOf": [_USAGE, {"type": "null"}]},
            **_ADDED,
        },
        "The provider's answer, with what the gateway adds",
    ),
    "Response": _object(
        ["id", "object", "output"],
        {
            "id": {"type": "string"},
            "object": {"const": "response"},
            "output": {"type": "array", "items": {"type": "object", "required": ["type"]}},
            **_ADDED,
        },
        "The provider's answer, with what the gateway adds",
    ),
    "EmbeddingList": _object(
        ["object", "data"],
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"type": "object", "required": ["embedding", "index"]}},
            "usage": {"anyOf": [_USAGE, {"type": "null"}]},
            **_ADDED,
        },
        "The provider's answer, with what the gateway adds",
    ),
}
