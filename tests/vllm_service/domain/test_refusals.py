"""What providers' errors mean: their statuses, and the codes, types and messages of the big ones."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from vllm_service.domain.in_band_errors import error_status
from vllm_service.domain.refusals import Meaning, meaning_of
from vllm_service.resilience.failures import Blame, Failure, Kind, blame

ACCOUNT, CALLER, CONTEXT, OFFER = Meaning.ACCOUNT, Meaning.CALLER, Meaning.CONTEXT, Meaning.OFFER
OVERSIZED, PROVIDER, THROTTLED, UNFINISHED = (
    Meaning.OVERSIZED,
    Meaning.PROVIDER,
    Meaning.THROTTLED,
    Meaning.UNFINISHED,
)

BY_STATUS = {
    CALLER: (400, 411, 414, 415, 416, 417, 418, 422),
    OFFER: (403, 404, 405, 406, 409, 410, 412, 413, 421, 423, 424, 425, 426, 428, 431, 451, 494, 495, 497, 501, 505),
    ACCOUNT: (401, 402, 407),
    THROTTLED: (420, 429, 498),
    PROVIDER: (408, 499, 500, 502, 503, 520, 521, 522, 523, 525, 529, 530, 599, 600, 999),
    UNFINISHED: (504, 524, 598),
}


@pytest.mark.parametrize(
    ("status", "meaning"), [(status, meaning) for meaning, statuses in BY_STATUS.items() for status in statuses]
)
def test_a_status_alone(status: int, meaning: Meaning) -> None:
    assert meaning_of(status) is meaning


class Said(NamedTuple):
    provider: str
    meaning: Meaning
    status: int
    code: object = None
    type: object = None
    message: str | None = None


ERRORS = [
    Said("OpenAI", CONTEXT, 400, "context_length_exceeded", "invalid_request_error", "This model's maximum context …"),
    Said("OpenAI", CALLER, 400, None, "invalid_request_error", "'messages' is a required property"),
    Said("OpenAI", CALLER, 400, "invalid_value", "invalid_request_error", "Invalid value: 'x'."),
    Said("OpenAI", CALLER, 400, "content_policy_violation", "invalid_request_error", "Your request was rejected"),
    Said("OpenAI", OFFER, 400, "unsupported_parameter", "invalid_request_error", "Unsupported parameter: 'max_tokens'"),
    Said("OpenAI", OFFER, 400, "unsupported_value", "invalid_request_error", "Unsupported value: 'temperature'"),
    Said("OpenAI", OFFER, 404, "model_not_found", "invalid_request_error", "The model `x` does not exist"),
    Said("OpenAI", ACCOUNT, 401, "invalid_api_key", "invalid_request_error", "Incorrect API key provided"),
    Said("OpenAI", ACCOUNT, 429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota"),
    Said("OpenAI", ACCOUNT, 400, "billing_hard_limit_reached", "billing_limit_user_error", "Billing hard limit"),
    Said("OpenAI", THROTTLED, 429, "rate_limit_exceeded", "requests", "Rate limit reached for gpt-4o"),
    Said(
        "OpenAI", OVERSIZED, 429, "rate_limit_exceeded", "tokens", "Request too large for gpt-4o in organization org-1"
    ),
    Said("OpenAI", PROVIDER, 503, None, "server_error", "The engine is currently overloaded"),
    Said("Azure", CALLER, 400, "content_filter", None, "The response was filtered"),
    Said("Azure", OFFER, 404, "DeploymentNotFound", None, "The API deployment for this resource does not exist."),
    Said("Azure", THROTTLED, 429, "429", None, "Requests to the operation have exceeded call rate limit"),
    Said(
        "Groq", OVERSIZED, 413, "rate_limit_exceeded", "tokens", "Request too large for model `llama` in organization"
    ),
    Said("Groq", THROTTLED, 498, "capacity_exceeded", "capacity", "Flex tier capacity exceeded"),
    Said("Groq", OFFER, 424, None, "invalid_request_error", "Failed dependency"),
    Said("Groq", OFFER, 400, "model_decommissioned", "invalid_request_error", "The model has been decommissioned"),
    Said("Groq", OFFER, 400, "tool_use_failed", "invalid_request_error", "Failed to call a function."),
    Said("Groq", OFFER, 400, "json_validate_failed", "invalid_request_error", "Failed to generate JSON."),
    Said("Groq", CONTEXT, 400, "context_length_exceeded", "invalid_request_error", "Please reduce the length of the …"),
    Said("Together", CONTEXT, 403, None, None, "Input token count + max_tokens must be less than the context length"),
    Said("Together", CONTEXT, 422, None, "invalid_request_error", "`inputs` tokens + `max_new_tokens` must be <= 4097"),
    Said(
        "Together", OFFER, 400, "model_not_available", "invalid_request_error", "Unable to access non-serverless model"
    ),
    Said("Together", THROTTLED, 429, "rate_limit", "rate_limit", "You have reached the rate limit"),
    Said("Together", ACCOUNT, 402, None, "insufficient_credits", "You have reached the spending limit"),
    Said("Cerebras", CONTEXT, 400, "context_length_exceeded", "invalid_request_error", "Please reduce the length"),
    Said("Cerebras", THROTTLED, 429, "too_many_requests_error", "too_many_requests_error", "Traffic is high"),
    Said("Cerebras", THROTTLED, 429, "request_quota_exceeded", "too_many_requests_error", "Requests per day exceeded"),
    Said("Cerebras", OFFER, 404, "model_not_found", "not_found_error", "Model x does not exist"),
    Said(
        "Anthropic", CONTEXT, 400, None, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"
    ),
    Said("Anthropic", ACCOUNT, 400, None, "invalid_request_error", "Your credit balance is too low"),
    Said("Anthropic", ACCOUNT, 401, None, "authentication_error", "invalid x-api-key"),
    Said("Anthropic", OFFER, 403, None, "permission_error", "Your API key does not have permission"),
    Said("Anthropic", OFFER, 413, None, "request_too_large", "Request exceeds the maximum size"),
    Said("Anthropic", THROTTLED, 429, None, "rate_limit_error", "Number of request tokens has exceeded your limit"),
    Said("Anthropic", PROVIDER, 529, None, "overloaded_error", "Overloaded"),
    Said("Anthropic", CALLER, 400, None, "invalid_request_error", "max_tokens: Field required"),
    Said("vLLM", CONTEXT, 400, 400, "BadRequestError", "This model's maximum context length is 2048 tokens."),
    Said(
        "vLLM",
        CONTEXT,
        400,
        400,
        "BadRequestError",
        "The decoder prompt (length 9000) is longer than the maximum model length of",
    ),
    Said("vLLM", OFFER, 404, 404, "NotFoundError", "The model `x` does not exist."),
    Said("vLLM", CALLER, 400, 400, "BadRequestError", "top_p must be in (0, 1], got 2.0."),
    Said("vLLM", PROVIDER, 500, 500, "InternalServerError", "EngineCore encountered an issue."),
    Said("llama.cpp", CONTEXT, 400, 400, "exceed_context_size_error", "the request exceeds the available context size"),
    Said(
        "Gemini",
        CONTEXT,
        400,
        400,
        "INVALID_ARGUMENT",
        "The input token count (1200000) exceeds the maximum number of tokens allowed",
    ),
    Said(
        "Gemini", THROTTLED, 429, 429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan"
    ),
    Said("Gemini", PROVIDER, 503, 503, "UNAVAILABLE", "The model is overloaded."),
    Said("Mistral", CALLER, 422, None, None, None),
    Said(
        "Mistral",
        CONTEXT,
        400,
        "3051",
        "invalid_request_prompt",
        "too large for model with 32768 maximum context length",
    ),
    Said("DeepSeek", ACCOUNT, 402, "invalid_request_error", "unknown_error", "Insufficient Balance"),
    Said("xAI", CONTEXT, 400, None, None, "This model's maximum prompt length is 131072"),
    Said("Bedrock", CONTEXT, 400, None, None, "Input is too long for requested model."),
    Said("Bedrock", THROTTLED, 400, None, "ThrottlingException", "Too many tokens, please wait"),
    Said("Cloudflare", UNFINISHED, 524),
    Said("a proxy of size", OFFER, 413, None, None, None),
]


@pytest.mark.parametrize("said", ERRORS, ids=lambda said: f"{said.provider} {said.status} {said.code or said.type}")
def test_the_errors_of_providers(said: Said) -> None:
    assert meaning_of(said.status, said.code, said.type, said.message) is said.meaning


@pytest.mark.parametrize("said", ERRORS, ids=lambda said: f"{said.provider} {said.status} {said.code or said.type}")
def test_an_error_within_a_200_means_what_the_same_error_means_with_its_status(said: Said) -> None:
    """Where its words say it; what follows from the status alone cannot be seen there."""
    status = error_status({"code": said.code, "type": said.type, "message": said.message})
    if status and meaning_of(said.status) is not said.meaning:
        assert meaning_of(status, said.code, said.type, said.message) is said.meaning


@pytest.mark.parametrize("status", [400, 403, 413, 422, 429])
@pytest.mark.parametrize("quoted", ["Your credit balance", "request too large", "rate_limit", "overloaded", "billing"])
def test_a_message_that_quotes_the_caller_shuts_no_provider(status: int, quoted: str) -> None:
    """Only `code` and `type`, which are the provider's own, and the beginning of a message can count against it."""
    refusal = meaning_of(status, "invalid_value", "invalid_request_error", f"Invalid value: '{quoted}'.")
    failure = Failure(Kind.STATUS, status, refusal=refusal)
    assert blame(failure.breaker_status) in (Blame.CALLER, Blame.THROTTLED)


@pytest.mark.parametrize("odd", [7, 1.5, True, [], {}, b"x"])
def test_members_of_other_types_say_nothing(odd: object) -> None:
    assert meaning_of(400, odd, odd) is CALLER
