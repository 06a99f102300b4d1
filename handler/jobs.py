"""Parses a job's input into the request that it makes to the engine. There are three forms:

{"openai_route": "/v1/chat/completions", "openai_input": {...}}     from RunPod's /openai/v1/* proxy
{"route": "/tokenize", "method": "POST", "body": {...}}             any allowed path of the engine
{"prompt" | "prompts" | "messages": ..., "sampling_params": {...}}  needs no OpenAI client

The form is known from here on and travels with the job, because it also decides what the end of the job carries.
"""

from __future__ import annotations

import difflib
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from handler.engine.protocol import EngineRequest
from handler.errors import InvalidInput
from handler.guided_decoding import MAY_CONCERN, translated
from handler.outputs import Output, WholeAnswer
from handler.request_limits import DEFAULT, RequestLimits

COMPLETIONS = "/v1/completions"
CHAT_COMPLETIONS = "/v1/chat/completions"
LONGEST_PATH = 1024
# These characters cannot write a scheme, host, percent escape or backslash. `is_plain` checks dots and slashes.
PATH_CHARACTERS = re.compile(r"/[A-Za-z0-9._~/-]*")
QUERY = re.compile(r"[A-Za-z0-9=&._~-]{0,1024}")

Json = dict[str, Any]
RequestFields = Callable[[str], Collection[str]]


def _without_closing_slash(route: str) -> str:
    """Returns the route as vLLM's own routes are written. vLLM redirects any other, and a redirect is no answer."""
    path, mark, query = route.partition("?")
    return f"{path.removesuffix('/') or path}{mark}{query}"


Route = Annotated[str, AfterValidator(_without_closing_slash)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    #: Whether the end of a streaming job repeats its pieces, as readers of /status expect.
    repeats_stream: ClassVar[bool] = True

    @abstractmethod
    def request(self, request_fields: RequestFields) -> EngineRequest:
        """Returns the engine request that this form stands for."""

    def final_output(self, kept: Sequence[Output]) -> Any:
        """Returns what the end of the job carries: the plain answer, or the pieces of a stream that were kept."""
        match kept:
            case []:
                return None
            case [WholeAnswer(document)]:
                return document
        return [output.value for output in kept]


class OpenAIRoute(_Form):
    """A call as RunPod's OpenAI proxy passes it on. The envelope is RunPod's, so its further fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    # The reader of /stream has them already, and readers of /status do not expect them.
    repeats_stream: ClassVar[bool] = False

    openai_route: Route
    openai_input: Json | None = None

    def request(self, request_fields: RequestFields) -> EngineRequest:
        """Returns a POST for an input with a body and for a cancellation, else a GET."""
        # The proxy does not pass the method on.
        if self.openai_input or self.openai_route.partition("?")[0].endswith("/cancel"):
            return _post(self.openai_route, self.openai_input or {}, "openai_input", request_fields=request_fields)
        return EngineRequest("GET", self.openai_route)

    def final_output(self, kept: Sequence[Output]) -> Any:
        """Returns a list in every case, as RunPod's proxy expects. A plain answer is its only item."""
        return [output.value for output in kept]


class GenericRoute(_Form):
    """Any allowed path of the engine. The method defaults to POST with a body and to GET without one."""

    route: Route
    method: Literal["GET", "POST", "DELETE"] | None = None
    body: Json | None = None

    def request(self, request_fields: RequestFields) -> EngineRequest:
        """Returns the request as written."""
        if self.body is None:
            return EngineRequest(self.method or "GET", self.route)
        if self.method == "GET":
            raise InvalidInput("body: a GET request has none; leave it out, or use POST", param="body")
        return _post(self.route, self.body, "body", self.method or "POST", request_fields)


class Native(_Form):
    """A prompt, several prompts as one batch, or a conversation. The answer is vLLM's own completion object."""

    prompt: Annotated[str, Field(min_length=1)] | None = None
    prompts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    messages: Annotated[list[Json], Field(min_length=1)] | None = None
    apply_chat_template: bool = False
    sampling_params: Json = {}
    stream: bool = False
    lora_adapter: str | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Native:
        given = [name for name in ("prompt", "prompts", "messages") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of prompt, prompts and messages, got {' and '.join(given) or 'none'}"
            )
        if self.apply_chat_template and self.prompts is not None:
            raise ValueError("apply_chat_template goes with prompt or messages, not with prompts")
        return self

    def request(self, request_fields: RequestFields) -> EngineRequest:
        """Returns a completion, or a chat where there are messages or a chat template is to be applied."""
        path, question = self._question()
        parameters = translated(self.sampling_params, "sampling_params")
        _check_parameters(parameters, request_fields(path))
        body = parameters | question | {"stream": self.stream}
        if self.lora_adapter is not None:
            body["model"] = self.lora_adapter
        if self.stream:
            body.setdefault("stream_options", {"include_usage": True})
        return _post(path, body, "input")

    def _question(self) -> tuple[str, Json]:
        if self.messages is not None:
            return CHAT_COMPLETIONS, {"messages": self.messages}
        if self.apply_chat_template:
            return CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": self.prompt}]}
        return COMPLETIONS, {"prompt": self.prompt if self.prompts is None else self.prompts}


Form = OpenAIRoute | GenericRoute | Native


@dataclass(frozen=True, slots=True)
class ParsedJob:
    """A job's form and the request that it makes to the engine."""

    form: Form
    request: EngineRequest


FORMS: dict[str, type[Form]] = {
    "openai_route": OpenAIRoute,
    "openai_input": OpenAIRoute,
    "route": GenericRoute,
    "prompt": Native,
    "prompts": Native,
    "messages": Native,
}
# Fields of the request that Native fills itself, so sampling_params must not hold them.
OWN_FIELDS = frozenset({"prompt", "messages", "model", "stream"})


def parse(
    job_input: object,
    *,
    allowed_paths: Collection[str],
    max_bytes: int,
    request_fields: RequestFields,
    limits: RequestLimits = DEFAULT,
) -> ParsedJob:
    """Returns what `job_input` asks for; raises InvalidInput naming the field and what was expected.

    request_fields: returns the fields that the engine's API takes at a path; nothing where they are unknown.
    """
    if not isinstance(job_input, dict):
        raise InvalidInput(f"input: expected an object, got {_type_name(job_input)}", param="input")
    kind = next((kind for name, kind in FORMS.items() if name in job_input), None)
    if kind is None:
        raise InvalidInput(
            "input: expected openai_route with openai_input, route with body, or one of prompt, prompts and messages",
            param="input",
        )
    try:
        form = kind.model_validate(job_input)
        request = form.request(request_fields)
    except ValidationError as error:
        raise _invalid(error) from None
    except RecursionError:
        raise InvalidInput("input: nested too deeply", param="input") from None
    _check_path(request.path, allowed_paths)
    if len(request.body or b"") > max_bytes:
        raise InvalidInput(f"input: {len(request.body or b'')} bytes; at most {max_bytes} are taken", param="input")
    limits.check(request.body, request.document)
    return ParsedJob(form, request)


def _post(
    path: str, body: Json, name: str, method: str = "POST", request_fields: RequestFields = lambda path: ()
) -> EngineRequest:
    """Returns a request with a JSON body; refuses what JSON or HTTP cannot carry, and a `stream` that is no boolean."""
    stream = body.get("stream")
    if not isinstance(stream, bool | None):
        raise InvalidInput(f"{name}.stream: expected true or false, got {_type_name(stream)}", param=f"{name}.stream")
    if not MAY_CONCERN.isdisjoint(body):
        body = translated(body, name, request_fields(path.partition("?")[0]))
    try:
        encoded = json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput(f"{name}: holds a lone surrogate, which is no Unicode text", param=name) from None
    except ValueError:
        raise InvalidInput(f"{name}: holds NaN or Infinity, which JSON does not have", param=name) from None
    except TypeError:
        raise InvalidInput(f"{name}: holds a value that JSON does not have", param=name) from None
    return EngineRequest(method, path, encoded, document=body)


def _check_path(path: str, allowed_paths: Collection[str]) -> None:
    plain, _, query = path.partition("?")
    if not is_plain(plain) or not QUERY.fullmatch(query):
        raise InvalidInput(
            "route: expected a plain path such as /v1/models, without host, dots or escapes", param="route"
        )
    if not is_allowed(plain, allowed_paths):
        raise InvalidInput(f"route: not one of the allowed paths: {', '.join(allowed_paths)}", param="route")


def is_plain(path: str) -> bool:
    """Returns whether a path, without its query, holds no host, no escapes, no empty and no dot segments."""
    segments = path.split("/")
    odd_segments = "" in segments[1:-1] or {".", ".."} & set(segments)
    return len(path) <= LONGEST_PATH and bool(PATH_CHARACTERS.fullmatch(path)) and not odd_segments


def is_allowed(path: str, allowed: Collection[str]) -> bool:
    """Returns whether the path is one of the allowed ones, or lies below one of them."""
    return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in allowed)


def _check_parameters(parameters: Json, known: Collection[str]) -> None:
    """Refuses parameters that this vLLM does not have.

    vLLM itself only logs unknown fields: a misspelt `max_token` would silently do nothing.
    """
    for name in parameters:
        field = f"sampling_params.{name}"
        if name in OWN_FIELDS:
            raise InvalidInput(f"{field}: belongs beside sampling_params, not into it", param=field)
        if known and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise InvalidInput(f"{field}: this vLLM has no such parameter{hint}", param=field)


def _invalid(error: ValidationError) -> InvalidInput:
    """Returns an error with the first wrong field. It never holds the value, which may be a prompt."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "input"
    got = (
        "" if first["type"] in ("missing", "extra_forbidden", "value_error") else f", got {_type_name(first['input'])}"
    )
    return InvalidInput(f"{field}: {first['msg'].removeprefix('Value error, ')}{got}", param=field)


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
