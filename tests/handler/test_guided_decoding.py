"""Former parameters of structured answers mean what they meant, in every form of a job and over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handler.errors import InvalidInput
from handler.guided_decoding import translated, translated_text
from handler.jobs import parse
from handler.settings import ALLOWED_PATHS
from tests.handler.http.http_worker import CHAT, worker
from tests.support import FakeEngine

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TABLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
    ({"guided_json": json.dumps(SCHEMA)}, {"structured_outputs": {"json": json.dumps(SCHEMA)}}),
    ({"guided_regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
    ({"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}),
    ({"guided_grammar": "root ::= x"}, {"structured_outputs": {"grammar": "root ::= x"}}),
    ({"guided_json_object": True}, {"structured_outputs": {"json_object": True}}),
    (
        {"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"},
        {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ?"}},
    ),
    ({"guided_json": SCHEMA, "guided_decoding_backend": "auto"}, {"structured_outputs": {"json": SCHEMA}}),
    ({"guided_json": None, "guided_decoding_backend": None}, {}),
    ({"guided_json_object": False}, {}),
    ({"guided_json_object": False, "guided_regex": "a"}, {"structured_outputs": {"regex": "a"}}),
    ({"guided_json": SCHEMA, "structured_outputs": None}, {"structured_outputs": {"json": SCHEMA}}),
    ({"guided_json": None, "structured_outputs": {"regex": "a"}}, {"structured_outputs": {"regex": "a"}}),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"guided_json": SCHEMA, "guided_decoding_backend": "outlines"}, "guided_decoding_backend"),
    ({"guided_regex": "a", "structured_outputs": {"json": SCHEMA}}, "guided_regex"),
    ({"extra_body": {"guided_regex": "a"}}, "extra_body"),
]


def engine_body(job_input: dict[str, Any]) -> Any:
    """The body that the engine would get for a job."""
    known = {"structured_outputs", "temperature"}
    parsed = parse(job_input, allowed_paths=ALLOWED_PATHS, max_bytes=10**6, request_fields=lambda path: known)
    return json.loads(parsed.request.body or b"")


@pytest.mark.parametrize(("former", "today"), TABLE)
def test_former_fields_become_todays_in_every_form_of_a_job(former: dict[str, Any], today: dict[str, Any]) -> None:
    chat = {"messages": [{"role": "user", "content": "x"}], "temperature": 0}
    assert engine_body({"openai_route": CHAT, "openai_input": chat | former}) == chat | today
    assert engine_body({"route": CHAT, "body": chat | former}) == chat | today
    native = engine_body({"prompt": "x", "sampling_params": {"temperature": 0} | former})
    assert native == {"prompt": "x", "temperature": 0, "stream": False} | today


@pytest.mark.parametrize(("former", "field"), REFUSED)
def test_what_cannot_be_translated_is_refused_by_its_name(former: dict[str, Any], field: str) -> None:
    for job_input, name in (
        ({"openai_route": CHAT, "openai_input": former}, f"openai_input.{field}"),
        ({"route": CHAT, "body": former}, f"body.{field}"),
        ({"prompt": "x", "sampling_params": former}, f"sampling_params.{field}"),
    ):
        with pytest.raises(InvalidInput) as refused:
            engine_body(job_input)
        assert refused.value.param == name


@pytest.mark.parametrize(("former", "today"), TABLE)
async def test_http_mode_translates_alike(former: dict[str, Any], today: dict[str, Any]) -> None:
    engine = FakeEngine()
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={"temperature": 0} | former) as response:
            assert response.status == 200
    assert json.loads(engine.requests[0].body or b"") == {"temperature": 0} | today


@pytest.mark.parametrize(("former", "field"), REFUSED)
async def test_http_mode_refuses_alike(former: dict[str, Any], field: str) -> None:
    engine = FakeEngine()
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json=former) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == field
    assert engine.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"a": 1}',
        b'{"a": "\\"guided_json\\""}',
        b'{"guided_json": ',
        b'["guided_json"]',
        b'{"messages": [{"content": "guided_json", "guided_json": 1}]}',
        b'{"a": "\xff", "guided_json": 1}',
        b"[" * 100_000 + b'"guided_json"',
    ],
)
def test_any_other_body_passes_byte_for_byte(body: bytes) -> None:
    assert translated_text(body) is body


def test_a_body_without_former_fields_is_not_copied() -> None:
    body = {"structured_outputs": {"json": SCHEMA}}
    assert translated(body) is body


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"max_tokens", "messages"}, True),
        ({"max_output_tokens"}, True),
        ({"max_tokens", "structured_outputs"}, False),
        ({"prompt"}, False),  # generates nothing
        (set(), False),  # unknown: another server has the model
    ],
)
def test_a_route_that_cannot_constrain_its_answers_refuses_by_name(fields: set[str], refused: bool) -> None:
    body = {"guided_choice": ["a"]}
    for call in (
        lambda: translated(body, fields=fields),
        lambda: translated_text(json.dumps(body).encode(), lambda: fields),
    ):
        if refused:
            with pytest.raises(InvalidInput, match="guided_choice: this route cannot constrain its answers"):
                call()
        else:
            call()
    assert translated({"guided_choice": None}, fields=fields) == {}
