"""The usage in providers' answers, in every vocabulary and in none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.usage import MOST_TOKENS, Usage
from vllm_service.gateway.provider_request import EventUsage, find_usage, usage_in

MOST = Usage(MOST_TOKENS, MOST_TOKENS)
COUNTS = st.integers(-5, MOST_TOKENS)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param({"prompt_tokens": 10, "completion_tokens": 3}, Usage(10, 3), id="chat"),
        pytest.param({"input_tokens": 10, "output_tokens": 3}, Usage(10, 3), id="responses"),
        pytest.param({"prompt_tokens": 10, "total_tokens": 10}, Usage(10, 0), id="embeddings"),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0), id="zeros"),
        pytest.param({}, Usage(0, 0), id="an empty object"),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
            Usage(10, 3, cached_tokens=4),
            id="cached tokens",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}},
            Usage(10, 3, reasoning_tokens=2),
            id="reasoning tokens",
        ),
        pytest.param(
            {
                "input_tokens": 10,
                "output_tokens": 3,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 1},
            },
            Usage(10, 3, cached_tokens=4, reasoning_tokens=2),
            id="all details of responses",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": None},
            Usage(10, 3),
            id="null details",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": None}},
            Usage(10, 3),
            id="null cached tokens",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": None}},
            Usage(10, 3),
            id="null reasoning tokens",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 11}},
            Usage(10, 3, cached_tokens=10),
            id="more cached than there were",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 99}},
            Usage(10, 3, reasoning_tokens=3),
            id="more reasoning than was written",
        ),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": -1}},
            Usage(10, 3),
            id="less than no cached tokens",
        ),
        pytest.param({"prompt_tokens": -1, "completion_tokens": 3}, Usage(0, 3), id="less than no prompt"),
        pytest.param({"prompt_tokens": 10, "completion_tokens": -3}, Usage(10, 0), id="less than no answer"),
        pytest.param(
            {"prompt_tokens": None, "input_tokens": 7, "output_tokens": 2}, Usage(7, 2), id="null and a number"
        ),
        pytest.param({"prompt_tokens": MOST_TOKENS, "completion_tokens": MOST_TOKENS}, MOST, id="the most"),
        # More than any answer has would use up an organisation's month, and no database would take the row.
        pytest.param({"prompt_tokens": MOST_TOKENS + 1, "completion_tokens": 3}, None, id="more than any prompt"),
        pytest.param({"input_tokens": 10, "output_tokens": MOST_TOKENS + 1}, None, id="more than any answer"),
        pytest.param({"prompt_tokens": 10**30}, None, id="beyond 64 bits"),
        # What is of another shape is no usage; the answer itself is passed on.
        pytest.param({"prompt_tokens": 10.0, "completion_tokens": 3.0}, None, id="floats"),
        pytest.param(None, None, id="null"),
        pytest.param("none", None, id="a text"),
        pytest.param([1, 2], None, id="a list"),
        pytest.param({"prompt_tokens": "10"}, None, id="numbers as text"),
        pytest.param({"prompt_tokens": 10.5}, None, id="half a token"),
        pytest.param({"prompt_tokens": True}, None, id="a boolean"),
        pytest.param({"prompt_tokens": 10, "prompt_tokens_details": [4]}, None, id="details as a list"),
    ],
)
def test_usage_in_all_shapes(usage: object, expected: Usage | None) -> None:
    document = json.dumps({"id": "x", "choices": [{"index": 0}], "usage": usage}).encode()
    assert usage_in(document) == expected
    assert find_usage(document) == EventUsage(expected, False)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(b"{}", None, id="an empty object"),
        pytest.param(b'{"choices":[]}', None, id="no usage"),
        pytest.param(b'{"response":{"usage":{"input_tokens":7,"output_tokens":2}}}', Usage(7, 2), id="within response"),
        pytest.param(b'{"response":{}}', None, id="a response without"),
        pytest.param(b'{"response":null}', None, id="a null response"),
        pytest.param(b'{"response":"r-1"}', None, id="a response that is a text"),
        pytest.param(
            b'{"usage":{"prompt_tokens":1},"response":{"usage":{"input_tokens":7}}}', Usage(1, 0), id="both: its own"
        ),
        pytest.param(
            b'{"usage":null,"response":{"usage":{"input_tokens":7}}}', Usage(7, 0), id="null and within response"
        ),
        pytest.param(b'{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2}}', Usage(2, 0), id="twice: the last"),
        pytest.param(b'{"us\\u0061ge":{"prompt_tokens":1}}', Usage(1, 0), id="an escaped name"),
        pytest.param(b' \r\n{"usage" : {"prompt_tokens" : 1}}\n', Usage(1, 0), id="white space"),
        pytest.param(b'{"x":{"usage":{"prompt_tokens":1}}}', None, id="within something else"),
        pytest.param(b'{"x":' + b"[" * 500 + b"]" * 500 + b',"usage":{"prompt_tokens":1}}', Usage(1, 0), id="nested"),
        pytest.param(b'{"x":"' + b"y" * 2**20 + b'","usage":{"prompt_tokens":1}}', Usage(1, 0), id="a megabyte"),
        pytest.param(b'{"usage":{"prompt_tokens":1' + b"0" * 5000 + b"}}", None, id="5,000 digits"),
    ],
)
def test_where_usage_stands(document: bytes, expected: Usage | None) -> None:
    assert usage_in(document) == expected
    assert find_usage(document).usage == expected


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="HTML"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"usage"', id="a text"),
        pytest.param(b"[DONE]", id="the end of a stream"),
        pytest.param(b'{"usage":{"prompt_tokens":1}', id="cut"),
        pytest.param(b'{"usage":{"prompt_tokens":1}}}', id="a brace too many"),
        pytest.param(b'{"x":"\\ud8', id="cut in an escape"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b'{"usage":[1}', id="usage that is no JSON"),
    ],
)
def test_what_is_no_json_object_is_a_value_error(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        usage_in(document)
    with pytest.raises(ValueError, match=r"."):
        find_usage(document)


@pytest.mark.parametrize(
    ("choices", "is_only_usage"),
    [
        pytest.param(b"[]", True, id="an empty list"),
        pytest.param(b"[ ]", True, id="an empty list with a space"),
        pytest.param(b"[\r\n\t]", True, id="an empty list on two lines"),
        pytest.param(b'[{"index":0}]', False, id="a choice"),
        pytest.param(b"[0]", False, id="something"),
        pytest.param(b"null", False, id="null"),
        pytest.param(b"[" + b" " * 14 + b"]", True, id="16 bytes of nothing"),
        pytest.param(b"[" + b" " * 15 + b"]", False, id="17 bytes of nothing are not looked at"),
        pytest.param(b"[" + b" " * 100 + b"]", False, id="so much white space that it is passed on"),
    ],
)
def test_a_chunk_without_choices_is_only_usage(choices: bytes, is_only_usage: bool) -> None:
    document = b'{"choices":%b,"usage":{"prompt_tokens":1}}' % choices
    assert find_usage(document) == EventUsage(Usage(1, 0), is_only_usage)


def test_an_event_without_choices_has_something_else_to_say() -> None:
    document = b'{"type":"response.completed","response":{"usage":{"input_tokens":7}}}'
    assert find_usage(document) == EventUsage(Usage(7, 0), False)


@given(prompt=COUNTS, completion=COUNTS, cached=st.none() | COUNTS, reasoning=st.none() | COUNTS, ours=st.booleans())
def test_counts_are_never_negative_and_details_never_more_than_their_totals(
    prompt: int, completion: int, cached: int | None, reasoning: int | None, ours: bool
) -> None:
    given_name, made_name = ("prompt", "completion") if ours else ("input", "output")
    usage: dict[str, Any] = {
        f"{given_name}_tokens": prompt,
        f"{made_name}_tokens": completion,
        f"{given_name}_tokens_details": {"cached_tokens": cached},
        f"{made_name}_tokens_details": {"reasoning_tokens": reasoning},
    }
    read = usage_in(json.dumps({"usage": usage}).encode())
    assert read is not None
    assert (read.prompt_tokens, read.completion_tokens) == (max(0, prompt), max(0, completion))
    assert 0 <= read.cached_tokens <= read.prompt_tokens
    assert 0 <= read.reasoning_tokens <= read.completion_tokens
    if cached is not None and 0 <= cached <= prompt:
        assert read.cached_tokens == cached


@given(st.binary(max_size=60))
def test_no_bytes_do_anything_but_give_a_usage_or_a_value_error(document: bytes) -> None:
    for read in (usage_in, find_usage):
        try:
            read(document)
        except ValueError:
            continue
