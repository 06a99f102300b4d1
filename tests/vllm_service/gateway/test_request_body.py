"""What is read of a request's JSON: whole numbers however they are written, and nothing that could break a count."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.reported_usage import MOST_TOKENS
from vllm_service.domain.usage import PREFIX_BYTES, prefix_of
from vllm_service.errors import InvalidRequest
from vllm_service.gateway.operations import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Operation
from vllm_service.gateway.request_body import for_provider, read

#: Each bound with an operation that has it.
BOUNDS = {"max_tokens": COMPLETIONS, "max_completion_tokens": CHAT, "max_output_tokens": RESPONSES}


def longest(operation: Operation = CHAT, **fields: Any) -> int | None:
    read_fields = read(json.dumps({"model": "m", **fields}).encode())
    return read_fields.longest_answer_tokens(operation, read_fields.written_answers(operation))


@pytest.mark.parametrize("name", BOUNDS)
def test_an_integral_float_is_an_integer(name: str) -> None:
    bound = longest(BOUNDS[name], **{name: 5.0})
    assert (bound, type(bound)) == (5, int)
    assert read(b'{"model": "m", "%b": 1e3}' % name.encode()).longest_answer_tokens(BOUNDS[name], 2) == 2000


@pytest.mark.parametrize("name", BOUNDS)
def test_what_no_answer_can_have_is_cut_to_the_documented_most(name: str) -> None:
    assert longest(BOUNDS[name], **{name: 10**40, "n": 7}) == MOST_TOKENS
    assert longest(BOUNDS[name], **{name: 1e300}) == MOST_TOKENS
    assert longest(BOUNDS[name], **{name: -3}) is None
    assert longest(BOUNDS[name], **{name: None}) is None


@pytest.mark.parametrize("wrong", ["5", True, [5], {}])
def test_what_is_no_number_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        longest(max_tokens=wrong)
    assert refused.value.param == "max_tokens"


@pytest.mark.parametrize(
    "written", ['"background": true', '"\\u0062ackground": true', '"background": false, "background": true']
)
def test_no_answer_is_written_after_its_request_has_ended(written: str) -> None:
    with pytest.raises(InvalidRequest, match="could not be counted") as raised:
        read(f'{{"model": "m", "input": "Hi", {written}}}'.encode())
    assert raised.value.param == "background"
    assert read(b'{"model": "m", "input": "Hi", "background": false}').background is False


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param(b"", None, id="empty"),
        pytest.param(b"null", None, id="null"),
        pytest.param(b"[]", None, id="a list"),
        pytest.param(b"7", None, id="a number"),
        pytest.param(b'"m"', None, id="a text"),
        pytest.param(b"<html>", None, id="HTML"),
        pytest.param(b"model=m", None, id="a form"),
        pytest.param(b'{"model":"m"', None, id="cut"),
        pytest.param(b'{"model":"m"}}', None, id="a brace too many"),
        pytest.param(b'{"model":"m"}{"model":"m"}', None, id="two objects"),
        pytest.param(b"{'model':'m'}", None, id="Python's quotes"),
        pytest.param(b'{"model":"m",}', None, id="a comma too many"),
        pytest.param(b'{"model":"m","x":NaN}', None, id="NaN"),
        pytest.param(b'{"model":"\xe6\x9d"}', None, id="cut in a character of the model"),
        pytest.param(b'{"model":"m","x":"\xe6\x9d"}', None, id="cut in a character of a member that is skipped"),
        pytest.param(b'\xff\xfe{\x00"\x00', None, id="UTF-16"),
        pytest.param(b'{"model":"\\ud800"}', None, id="half a surrogate"),
        pytest.param(b'{"model":"m","x":' + b"[" * 100_000, None, id="nested without end"),
        pytest.param(b"{}", "model", id="no model"),
        pytest.param(b'{"Model":"m"}', "model", id="a model in capitals"),
        pytest.param(b'{"model":null}', "model", id="a null model"),
        pytest.param(b'{"model":7}', "model", id="a model that is a number"),
        pytest.param(b'{"model":["m"]}', "model", id="a model that is a list"),
        pytest.param(b'{"model":"m","model":7}', "model", id="the second of two models"),
        pytest.param(b'{"model":"m","stream":"true"}', "stream", id="a stream that is a text"),
        pytest.param(b'{"model":"m","stream":1}', "stream", id="a stream that is a number"),
        pytest.param(b'{"model":"m","temperature":"hot"}', "temperature", id="a temperature that is a text"),
        pytest.param(b'{"model":"m","temperature":1e999}', "temperature", id="a temperature beyond all floats"),
        pytest.param(b'{"model":"m","n":"2"}', "n", id="choices that are a text"),
        pytest.param(b'{"model":"m","max_tokens":1.5}', "max_tokens", id="half a token"),
        pytest.param(b'{"model":"m","max_completion_tokens":0.1}', "max_completion_tokens", id="a tenth of one"),
        pytest.param(b'{"model":"m","max_output_tokens":1e-9}', "max_output_tokens", id="next to none"),
        pytest.param(b'{"model":"m","stream_options":[]}', "stream_options", id="options that are a list"),
        pytest.param(
            b'{"model":"m","stream_options":{"include_usage":1}}', "stream_options.include_usage", id="an option"
        ),
    ],
)
def test_what_is_no_request_is_refused_with_its_field_and_without_its_text(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(body)
    assert refused.value.param == param
    assert not {"int", "str", "bool", "hot", "html"} & set(refused.value.message.replace("`", " ").split())


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ('"temperature":"x"', "Expected `number | null`, got `string`"),
        ('"max_tokens":true', "Expected `number | null`, got `boolean`"),
        ('"max_tokens":[]', "Expected `number | null`, got `array`"),
        ('"stream":1', "Expected `boolean | null`, got `integer`"),
        ('"stream":1.5', "Expected `boolean | null`, got `number`"),
        ('"stream_options":"x"', "Expected `object | null`, got `string`"),
        ('"model":null', "Expected `string`, got `null`"),
    ],
)
def test_a_refusal_speaks_of_jsons_types_and_not_of_pythons(member: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(b'{"model":"m",%b}' % member.encode())
    assert refused.value.message == f"The request is not valid: {message}."


@pytest.mark.parametrize(
    ("options", "requested"),
    [("null", False), ("{}", False), ('{"include_usage":null}', False), ('{"include_usage":true}', True),
     ('{"include_usage":false}', False), ('{"include_usage":true,"other":1}', True)],
)  # fmt: skip
def test_usage_counts_as_requested_only_where_the_caller_requests_it(options: str, requested: bool) -> None:
    assert read(b'{"model":"m","stream_options":%b}' % options.encode()).requests_usage is requested


@pytest.mark.parametrize(
    ("operation", "fields", "tokens"),
    [
        # OpenAI refuses both, vLLM takes the newer name, older servers know only the older one.
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, 7),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 5}, 7),
        (CHAT, {"max_completion_tokens": 0, "max_tokens": 5}, 5),
        (CHAT, {"max_tokens": -1}, None),
        (CHAT, {"n": 3}, None),
        (CHAT, {"max_tokens": 5, "n": 3}, 15),
        (CHAT, {"max_tokens": 5, "n": 3, "best_of": 4}, 20),
        # A bound that an operation does not have is ignored there, so it bounds nothing.
        (CHAT, {"max_tokens": 5, "max_output_tokens": 9}, 5),
        (CHAT, {"max_output_tokens": 9}, None),
        (COMPLETIONS, {"max_completion_tokens": 9}, None),
        (RESPONSES, {"max_tokens": 9}, None),
        (RESPONSES, {"max_output_tokens": 9, "n": 3}, 9),
        (COMPLETIONS, {"max_tokens": 5, "prompt": "a"}, 5),
        (COMPLETIONS, {"max_tokens": 5, "prompt": ["a"]}, 5),
        (COMPLETIONS, {"max_tokens": 5, "prompt": ["a", "b", "c"]}, 15),
        (COMPLETIONS, {"max_tokens": 5, "prompt": []}, 5),
        (COMPLETIONS, {"max_tokens": 5, "prompt": [1, 2, 3]}, 5),
        (COMPLETIONS, {"max_tokens": 5, "prompt": [[1, 2], [3]]}, 10),
        (COMPLETIONS, {"max_tokens": 5, "prompt": ["a", [3]]}, 10),
        (COMPLETIONS, {"max_tokens": 5, "prompt": ["a", "b"], "n": 2, "best_of": 3}, 30),
        (COMPLETIONS, {"max_tokens": 5, "prompt_embeds": ["a", "b"]}, 10),
        (COMPLETIONS, {"max_tokens": 5, "prompt": {"a": 1}}, 5),
        (COMPLETIONS, {"max_tokens": 5, "prompt": None, "echo": True, "logprobs": 5}, 5),
        (COMPLETIONS, {"prompt": ["a", "b"]}, None),
    ],
)
def test_the_longest_answer_is_of_the_whole_request(
    operation: Operation, fields: dict[str, Any], tokens: int | None
) -> None:
    assert longest(operation, **fields) == tokens


LONG = [{"role": "user", "content": "x" * PREFIX_BYTES}]


@pytest.mark.parametrize("name", ["messages", "input", "prompt"])
def test_a_conversation_begins_where_its_operation_writes_it(name: str) -> None:
    value = json.dumps(LONG).encode()
    assert read(b'{"model":"m","%b":%b}' % (name.encode(), value)).prefix == prefix_of(value) != 0
    assert read(b'{"model":"m","%b":"short"}' % name.encode()).prefix == 0


@pytest.mark.parametrize(
    ("operation", "sent", "passed"),
    [
        pytest.param(CHAT, {"stream": True}, {"include_usage": True}, id="a stream"),
        pytest.param(COMPLETIONS, {"stream": True}, {"include_usage": True}, id="a stream of completions"),
        pytest.param(
            CHAT, {"stream": True, "stream_options": None}, {"include_usage": True}, id="a stream with null options"
        ),
        pytest.param(
            CHAT, {"stream": True, "stream_options": {}}, {"include_usage": True}, id="a stream with empty options"
        ),
        pytest.param(
            CHAT,
            {"stream": True, "stream_options": {"include_usage": False, "other": [1]}},
            {"include_usage": True, "other": [1]},
            id="a stream that does not want it keeps its other options",
        ),
        pytest.param(
            CHAT,
            {"stream": True, "stream_options": {"include_usage": True}},
            {"include_usage": True},
            id="wanted anyway",
        ),
        pytest.param(CHAT, {"stream": False}, None, id="no stream"),
        pytest.param(CHAT, {"stream": None}, None, id="a null stream"),
        pytest.param(CHAT, {}, None, id="nothing said of a stream"),
        pytest.param(CHAT, {"stream_options": {"other": 1}}, {"other": 1}, id="options without a stream"),
        pytest.param(RESPONSES, {"stream": True}, None, id="responses know no such option"),
        pytest.param(EMBEDDINGS, {"stream": True}, None, id="embeddings neither"),
    ],
)
def test_the_provider_is_asked_for_the_usage_of_a_stream(
    operation: Operation, sent: dict[str, Any], passed: dict[str, Any] | None
) -> None:
    body = json.dumps({"model": "m", "seed": 1, **sent}).encode()
    document = json.loads(for_provider(body, read(body), operation, "there"))
    assert document.get("stream_options") == passed
    assert {**document, "stream_options": None} == {**sent, "model": "there", "seed": 1, "stream_options": None}


def test_of_a_member_that_is_there_twice_the_last_is_passed_on() -> None:
    body = b'{"model":"a","stream":true,"seed":1,"stream_options":{"include_usage":false},"seed":2,"model":"m"}'
    sent = for_provider(body, read(body), CHAT, "there")
    assert json.loads(sent) == {
        "model": "there", "stream": True, "seed": 2, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert sent.count(b'"seed"') == sent.count(b'"model"') == 1


def test_a_body_for_a_provider_of_the_same_name_is_passed_byte_for_byte() -> None:
    body = b'{ "model" : "m" , "seed": 1.50, "seed": 2 }\n'
    assert for_provider(body, read(body), CHAT, "m") is body


@pytest.mark.parametrize("name", BOUNDS)
def test_a_whole_number_written_as_a_float_is_passed_on_as_one(name: str) -> None:
    body = b'{"model":"m","%b":1e3,"top_p":1.0}' % name.encode()
    sent = for_provider(body, read(body), CHAT, "m")
    assert b'"%b":1000' % name.encode() in sent
    assert b'"top_p":1.0' in sent


@given(
    st.dictionaries(st.text().filter(lambda name: name not in ("stream", "stream_options", *BOUNDS)), JSON, max_size=4),
    st.text(min_size=1),
    st.text(min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_any_body_reaches_the_provider_with_nothing_but_the_model_changed(
    members: dict[str, Any], name: str, there: str, is_stream: bool, as_ascii: bool
) -> None:
    known = ("temperature", "n", "model")
    members = {key: value for key, value in members.items() if key not in known} | {"model": name, "stream": is_stream}
    body = json.dumps(members, ensure_ascii=as_ascii).encode()
    document = json.loads(for_provider(body, read(body), CHAT, there))
    expected = {**members, "model": there} | ({"stream_options": {"include_usage": True}} if is_stream else {})
    assert document == expected


@given(st.binary(max_size=80) | st.binary(max_size=20).map(lambda junk: b'{"model":"m","n":' + junk + b"}"))
def test_no_bytes_do_anything_but_be_read_or_refused(body: bytes) -> None:
    try:
        fields = read(body)
    except InvalidRequest:
        return
    assert json.loads(for_provider(body, fields, CHAT, "there"))["model"] == "there"


def _deeper(frames: int, call: Callable[[], bytes]) -> bytes:
    return call() if frames == 0 else _deeper(frames - 1, call)


@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_a_body_that_only_a_shallow_stack_can_parse_is_the_callers_mistake(stream: bytes) -> None:
    """Whatever the depth, and wherever in the stack the body is read and written: a body, or a 400."""
    outcomes = set()
    for depth in range(1, 1200, 7):
        body = b'{"model":"\\u0061","stream":%b,"metadata":%b%b}' % (stream, b"[" * depth, b"]" * depth)
        try:
            fields = read(body)
            _deeper(150, lambda body=body, fields=fields: for_provider(body, fields, CHAT, "b"))  # type: ignore[misc]
            outcomes.add("written")
        except InvalidRequest as error:
            outcomes.add(error.message)
    assert outcomes >= {"written", "The request's body is nested too deeply."}


OPTIONS = '"stream_options":{"include_usage":true,"x":1}'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('{"model":"a","stream":true}', b'{"model":"b","stream":true}'),
        ('{"model":"a","stream":true,' + OPTIONS + "}", b'{"model":"b","stream":true}'),
        ('{"model":"a","stream":true,"stream_options":null}', b'{"model":"b","stream":true}'),
        ('{"model":"a","stream":false,' + OPTIONS + "}", b'{"model":"b","stream":false,%b}' % OPTIONS.encode()),
    ],
)
def test_a_provider_that_refuses_stream_options_gets_none(given: str, expected: bytes) -> None:
    body = given.encode()
    assert for_provider(body, read(body), CHAT, "b", takes_options=False) == expected
