"""What each form of job input becomes, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handler import jobs
from handler.engine.protocol import EngineRequest
from handler.errors import InvalidInput
from handler.jobs import Form, GenericRoute, Native, OpenAIRoute
from handler.outputs import Output, StreamPiece, WholeAnswer
from handler.settings import ALLOWED_PATHS
from tests.malformed import MALFORMED, Malformed


def parse(job_input: object, fields: frozenset[str] = frozenset(), max_bytes: int = 1_000_000) -> EngineRequest:
    return jobs.parse(
        job_input, allowed_paths=ALLOWED_PATHS, max_bytes=max_bytes, request_fields=lambda path: fields
    ).request


def body_of(request: EngineRequest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(request.body or b"null")
    return document


def test_an_openai_route_with_input_is_a_post_of_that_input() -> None:
    request = parse({"openai_route": "/v1/chat/completions", "openai_input": {"messages": [], "x": "é"}})
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert body_of(request) == {"messages": [], "x": "é"}


@pytest.mark.parametrize("openai_input", [None, {}])
def test_an_openai_route_without_input_is_a_get(openai_input: object) -> None:
    assert parse({"openai_route": "/v1/models", "openai_input": openai_input}) == EngineRequest("GET", "/v1/models")


def test_a_cancellation_on_an_openai_route_is_a_post_although_it_has_no_body() -> None:
    assert parse({"openai_route": "/v1/responses/resp_1/cancel"}).method == "POST"


def test_further_fields_of_the_platforms_own_envelope_are_let_by() -> None:
    assert parse({"openai_route": "/v1/models", "openai_method": "GET"}).path == "/v1/models"


def test_a_generic_route_posts_a_body_and_gets_without_one() -> None:
    assert parse({"route": "/tokenize", "body": {"prompt": "a"}}).method == "POST"
    assert parse({"route": "/health"}) == EngineRequest("GET", "/health")
    assert parse({"route": "/v1/responses/x/cancel", "method": "POST"}).method == "POST"


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/models/?limit=2", "/v1/models?limit=2"),
        ("/tokenize/", "/tokenize"),
    ],
)
def test_a_closing_slash_is_left_out_since_vllm_would_only_redirect_it(written: str, path: str) -> None:
    assert parse({"openai_route": written, "openai_input": {"x": 1}}).path == path
    assert parse({"route": written, "body": {"x": 1}}).path == path


def test_a_cancellation_with_a_closing_slash_or_a_query_is_one() -> None:
    for route in ("/v1/responses/resp_1/cancel/", "/v1/responses/resp_1/cancel?x=1"):
        assert parse({"openai_route": route}).method == "POST"


def test_a_query_stays_with_its_path() -> None:
    assert parse({"route": "/v1/responses/x?stream=true&starting_after=2"}).path.endswith(
        "?stream=true&starting_after=2"
    )


def test_a_native_prompt_is_a_completion_with_its_sampling_parameters() -> None:
    request = parse({"prompt": "Hi", "sampling_params": {"temperature": 0}, "lora_adapter": "pirate"})
    assert request.path == "/v1/completions"
    assert body_of(request) == {"prompt": "Hi", "temperature": 0, "stream": False, "model": "pirate"}


def test_native_prompts_are_one_batch_in_one_request() -> None:
    assert body_of(parse({"prompts": ["a", "b"]}))["prompt"] == ["a", "b"]


def test_native_messages_and_a_templated_prompt_are_chats() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for job_input in ({"messages": messages}, {"prompt": "Hi", "apply_chat_template": True}):
        request = parse(job_input)
        assert request.path == "/v1/chat/completions"
        assert body_of(request)["messages"] == messages


def test_a_native_stream_asks_for_its_usage_unless_told_otherwise() -> None:
    assert body_of(parse({"prompt": "Hi", "stream": True}))["stream_options"] == {"include_usage": True}
    options = {"stream_options": {"include_usage": False}}
    assert (
        body_of(parse({"prompt": "Hi", "stream": True, "sampling_params": options}))["stream_options"]
        == (options["stream_options"])
    )


def test_a_misspelt_sampling_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidInput, match=r"sampling_params.max_token: .* did you mean max_tokens\?"):
        parse({"prompt": "Hi", "sampling_params": {"max_token": 1}}, frozenset({"max_tokens", "temperature"}))


def test_where_the_engine_cannot_tell_its_fields_any_sampling_parameter_passes() -> None:
    assert body_of(parse({"prompt": "Hi", "sampling_params": {"new_field": 1}}))["new_field"] == 1


def test_an_input_over_the_limit_is_refused_with_its_size() -> None:
    with pytest.raises(InvalidInput, match="at most 100 are taken"):
        parse({"prompt": "x" * 200}, max_bytes=100)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
def test_a_malformed_input_is_refused_with_its_field_and_without_its_content(case: Malformed) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(case.job_input, frozenset({"temperature", "max_tokens"}))
    error = caught.value
    assert case.says in error.message
    assert error.to_json()["status"] == 400
    assert error.to_json()["error"]["param"]
    assert "SECRET-PROMPT" not in error.to_json_text()


PIECES = [StreamPiece("data: 1\n\n"), StreamPiece("data: [DONE]\n\n")]
TEXTS = [piece.value for piece in PIECES]
OPENAI = OpenAIRoute(openai_route="/v1/models")


@pytest.mark.parametrize(
    ("form", "outputs", "final"),
    [
        (OPENAI, [WholeAnswer({"a": 1})], [{"a": 1}]),
        (OPENAI, PIECES, TEXTS),
        (OPENAI, [], []),
        (Native(prompt="Hi"), [WholeAnswer({"a": 1})], {"a": 1}),
        (Native(prompt="Hi"), PIECES, TEXTS),
        (Native(prompt="Hi"), [], None),
        (GenericRoute(route="/health"), [WholeAnswer("")], ""),
    ],
)
def test_the_form_of_a_job_decides_what_its_end_carries(form: Form, outputs: list[Output], final: object) -> None:
    assert form.final_output(outputs) == final


def test_only_readers_of_an_openai_stream_are_not_given_it_twice() -> None:
    repeating = [form.__name__ for form in set(jobs.FORMS.values()) if form.repeats_stream]
    assert sorted(repeating) == ["GenericRoute", "Native"]
