"""What is read of a request's JSON: whole numbers however they are written, and nothing that could break a count."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_service.domain.token_estimates import MOST_TOKENS
from vllm_service.errors import InvalidRequest
from vllm_service.gateway.operations import CHAT
from vllm_service.gateway.request_body import for_provider, read

BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def longest(**fields: Any) -> int | None:
    return read(json.dumps({"model": "m", **fields}).encode()).longest_answer_tokens


@pytest.mark.parametrize("name", BOUNDS)
def test_an_integral_float_is_an_integer(name: str) -> None:
    bound = longest(**{name: 5.0})
    assert (bound, type(bound)) == (5, int)
    assert longest(**{name: 5.0, "n": 2.0}) == 10
    assert read(b'{"model": "m", "%b": 1e3}' % name.encode()).longest_answer_tokens == 1000


@pytest.mark.parametrize("name", BOUNDS)
def test_what_no_answer_can_have_is_cut_to_the_documented_most(name: str) -> None:
    assert longest(**{name: 10**40, "n": 7}) == MOST_TOKENS
    assert longest(**{name: 1e300}) == MOST_TOKENS
    assert longest(**{name: -3}) is None
    assert longest(**{name: None}) is None


@pytest.mark.parametrize("wrong", ["5", True, [5], {}])
def test_what_is_no_number_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        longest(max_tokens=wrong)
    assert refused.value.param == "max_tokens"


def test_the_provider_gets_a_whole_number_as_an_integer() -> None:
    body = b'{"model": "m", "max_tokens": 5.0}'
    assert b'"max_tokens":5}' in for_provider(body, read(body), CHAT, "there")


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"m","messages":[]}',
        '{ "messages" : [{"role":"user","content":"\\"model\\":\\"m\\""}], "model" : "m" }',
        '{"metadata":{"model":"m"},"model":"m"}',
        '{"mod\\u0065l":"m","metadata":{"model":"m"}}',
        '{"model":"other","model":"m"}',
        '{"model":"m","user":"model"}',
        '{"x\\"model":"m","model":"m"}',
        '{"model":"\\u006d"}',
        '{"model":"m/\u00fc"}',
    ],
)
def test_the_provider_gets_its_own_name_of_the_model_and_all_else_as_it_was(body: str) -> None:
    fields = read(body.encode())
    sent = json.loads(for_provider(body.encode(), fields, CHAT, 'there "too"'))
    assert sent == {**json.loads(body), "model": 'there "too"'}


def test_a_model_is_renamed_in_place() -> None:
    body = b'{ "seed": 1.50, "model" : "m", "seed": 2 }'
    assert for_provider(body, read(body), CHAT, "there") == b'{ "seed": 1.50, "model" : "there", "seed": 2 }'
