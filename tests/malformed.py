"""Job inputs that are wrong, each in its own way, and what the error must say; tried with the engine and without."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Malformed:
    """`says` is a part of the message that names the field or what was expected."""

    name: str
    job_input: object
    says: str


def _nested(depth: int) -> object:
    document: object = "SECRET-PROMPT"
    for _ in range(depth):
        document = [document]
    return document


CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "SECRET-PROMPT"}]

MALFORMED = [
    # no form at all
    Malformed("null", None, "input: expected an object, got null"),
    Malformed("string", "SECRET-PROMPT", "input: expected an object, got a string"),
    Malformed("array", [1], "input: expected an object, got an array"),
    Malformed("number", 7, "input: expected an object, got a number"),
    Malformed("boolean", True, "input: expected an object, got a boolean"),
    Malformed("empty object", {}, "openai_route"),
    Malformed("unknown form", {"text": "SECRET-PROMPT"}, "one of prompt, prompts and messages"),
    # OpenAI route
    Malformed("route missing", {"openai_input": {"messages": MESSAGES}}, "openai_route: Field required"),
    Malformed("route is a number", {"openai_route": 5}, "openai_route: Input should be a valid string, got a number"),
    Malformed("route is null", {"openai_route": None}, "openai_route"),
    Malformed(
        "input is a list", {"openai_route": CHAT, "openai_input": [1]}, "openai_input: Input should be a valid dict"
    ),
    Malformed("input is a string", {"openai_route": CHAT, "openai_input": "SECRET-PROMPT"}, "got a string"),
    Malformed(
        "stream is a string",
        {"openai_route": CHAT, "openai_input": {"stream": "false"}},
        "openai_input.stream: expected",
    ),
    Malformed("stream is a number", {"openai_route": CHAT, "openai_input": {"stream": 0}}, "openai_input.stream"),
    Malformed("NaN", {"openai_route": CHAT, "openai_input": {"temperature": float("nan")}}, "NaN or Infinity"),
    Malformed("infinity", {"openai_route": CHAT, "openai_input": {"seed": float("-inf")}}, "NaN or Infinity"),
    Malformed(
        "lone surrogate", {"openai_route": CHAT, "openai_input": {"x": "\ud800 SECRET-PROMPT"}}, "lone surrogate"
    ),
    Malformed("surrogate key", {"openai_route": CHAT, "openai_input": {"\udfff": 1}}, "lone surrogate"),
    Malformed("bytes", {"openai_route": CHAT, "openai_input": {"x": b"\xff\xfe"}}, "a value that JSON does not have"),
    Malformed("deeply nested", {"openai_route": CHAT, "openai_input": {"x": _nested(100_000)}}, "nested too deeply"),
    Malformed("huge", {"openai_route": CHAT, "openai_input": {"x": "SECRET-PROMPT" * 2_000_000}}, "bytes; at most"),
    # paths
    Malformed("user and host", {"route": "@127.0.0.1:1/x"}, "route: expected a plain path"),
    Malformed("scheme and host", {"route": "http://127.0.0.1:1/v1/models"}, "route: expected a plain path"),
    Malformed("host without scheme", {"route": "//127.0.0.1/v1/models"}, "route: expected a plain path"),
    Malformed("host in an OpenAI route", {"openai_route": "/v1/@127.0.0.1:1/x"}, "route: expected a plain path"),
    Malformed("path traversal", {"route": "/v1/../metrics"}, "route: expected a plain path"),
    Malformed("escaped path traversal", {"route": "/v1/%2e%2e/metrics"}, "route: expected a plain path"),
    Malformed("double escape", {"route": "/v1/%252e%252e/metrics"}, "route: expected a plain path"),
    Malformed("backslash", {"route": "/v1\\..\\metrics"}, "route: expected a plain path"),
    Malformed("new line", {"route": "/v1/models\r\nX-Evil: 1"}, "route: expected a plain path"),
    Malformed("null byte", {"route": "/v1/models\x00"}, "route: expected a plain path"),
    Malformed("fragment", {"route": "/v1/models#x"}, "route: expected a plain path"),
    Malformed("relative path", {"route": "v1/models"}, "route: expected a plain path"),
    Malformed("empty path", {"route": ""}, "route: expected a plain path"),
    Malformed("very long path", {"route": "/v1/" + "a" * 5000}, "route: expected a plain path"),
    Malformed("not an allowed path", {"route": "/metrics"}, "not one of the allowed paths"),
    Malformed("prefix of another word", {"route": "/healthy"}, "not one of the allowed paths"),
    # generic route
    Malformed("unknown method", {"route": "/health", "method": "TRACE"}, "method"),
    Malformed("method in lower case", {"route": "/health", "method": "get"}, "method"),
    Malformed("body of a GET", {"route": "/health", "method": "GET", "body": {}}, "body: a GET request has none"),
    Malformed(
        "body is a string", {"route": "/tokenize", "body": "SECRET-PROMPT"}, "body: Input should be a valid dict"
    ),
    Malformed("extra field", {"route": "/health", "host": "127.0.0.1"}, "host: Extra inputs are not permitted"),
    # native
    Malformed("prompt is a number", {"prompt": 5}, "prompt: Input should be a valid string, got a number"),
    Malformed("prompt is empty", {"prompt": ""}, "prompt: String should have at least 1 character"),
    Malformed("prompts is empty", {"prompts": []}, "prompts: List should have at least 1 item"),
    Malformed("a prompt among prompts is null", {"prompts": ["a", None]}, "prompts.1: Input should be a valid string"),
    Malformed("messages is a string", {"messages": "SECRET-PROMPT"}, "messages: Input should be a valid list"),
    Malformed("messages is empty", {"messages": []}, "messages: List should have at least 1 item"),
    Malformed("a message is a string", {"messages": ["SECRET-PROMPT"]}, "messages.0: Input should be a valid dict"),
    Malformed("two questions", {"prompt": "SECRET-PROMPT", "messages": MESSAGES}, "exactly one of prompt"),
    Malformed("template for a batch", {"prompts": ["a"], "apply_chat_template": True}, "not with prompts"),
    Malformed(
        "native stream is a string", {"prompt": "a", "stream": "false"}, "stream: Input should be a valid boolean"
    ),
    Malformed("adapter is a number", {"prompt": "a", "lora_adapter": 1}, "lora_adapter"),
    Malformed("sampling is a list", {"prompt": "a", "sampling_params": []}, "sampling_params: Input should be"),
    Malformed("unknown native field", {"prompt": "a", "max_tokens": 5}, "max_tokens: Extra inputs are not permitted"),
    Malformed("unknown sampling", {"prompt": "a", "sampling_params": {"temprature": 0}}, "did you mean temperature?"),
    Malformed("prompt in sampling", {"prompt": "a", "sampling_params": {"stream": True}}, "belongs beside"),
    Malformed("NaN in sampling", {"prompt": "a", "sampling_params": {"temperature": float("nan")}}, "NaN"),
]
