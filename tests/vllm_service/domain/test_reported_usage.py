"""The usage in providers' answers, in every vocabulary and in none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vllm_service.domain.reported_usage import MOST_TOKENS, ReportedUsage, read_usage
from vllm_service.domain.usage import usage_of

COUNTS = st.integers(0, MOST_TOKENS)
BAD = ReportedUsage(is_implausible=True)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param({"prompt_tokens": 10, "completion_tokens": 3}, ReportedUsage(10, 3), id="chat"),
        pytest.param({"input_tokens": 10, "output_tokens": 3}, ReportedUsage(10, 3), id="responses"),
        pytest.param({"prompt_tokens": 10, "total_tokens": 10}, ReportedUsage(10, None, 10), id="embeddings"),
        pytest.param({"total_tokens": 10}, ReportedUsage(None, None, 10), id="only the total"),
        pytest.param({"completion_tokens": 3}, ReportedUsage(None, 3), id="only the answer"),
        pytest.param({"prompt_tokens": 10, "completion_tokens": 0}, ReportedUsage(10, 0), id="no answer"),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 3}, ReportedUsage(0, 3), id="no prompt"),
        # What says nothing is as if nothing had been sent.
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None, id="zeros"),
        pytest.param({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, None, id="nulls"),
        pytest.param({}, None, id="an empty object"),
        pytest.param({"unknown": 7}, None, id="other members"),
        pytest.param(None, None, id="null"),
        pytest.param("none", None, id="a text"),
        pytest.param([1, 2], None, id="a list"),
        pytest.param(True, None, id="true"),
        pytest.param(7, None, id="a number"),
        # Each member is read on its own.
        pytest.param({"prompt_tokens": 11.0, "completion_tokens": 3.0}, ReportedUsage(11, 3), id="floats"),
        pytest.param({"prompt_tokens": "11", "completion_tokens": " 3 "}, ReportedUsage(11, 3), id="texts"),
        pytest.param({"prompt_tokens": [], "completion_tokens": 3}, ReportedUsage(None, 3), id="a list and a number"),
        pytest.param({"prompt_tokens": 10, "completion_tokens": {}}, ReportedUsage(10), id="a number and an object"),
        pytest.param({"prompt_tokens": True, "completion_tokens": 3}, ReportedUsage(None, 3), id="a boolean"),
        pytest.param({"prompt_tokens": 10.5, "completion_tokens": 3}, ReportedUsage(None, 3), id="half a token"),
        pytest.param({"prompt_tokens": "ten", "completion_tokens": 3}, ReportedUsage(None, 3), id="a word"),
        pytest.param({"prompt_tokens": "²", "completion_tokens": 3}, ReportedUsage(None, 3), id="a digit that is none"),
        pytest.param({"prompt_tokens": None, "input_tokens": 7, "output_tokens": 2}, ReportedUsage(7, 2), id="null"),
        pytest.param({"prompt_tokens": 0, "input_tokens": 7, "output_tokens": 2}, ReportedUsage(7, 2), id="both names"),
        pytest.param({"prompt_tokens": 10, "prompt_tokens_details": [4]}, ReportedUsage(10), id="details as a list"),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": "4"}},
            ReportedUsage(10, 3, cached_tokens=4),
            id="cached tokens as text",
        ),
        pytest.param(
            {
                "input_tokens": 10,
                "output_tokens": 3,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 1},
            },
            ReportedUsage(10, 3, cached_tokens=4, reasoning_tokens=2),
            id="all details of responses",
        ),
        pytest.param(
            {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "prompt_tokens_details": None,
                "completion_tokens_details": {"reasoning_tokens": None},
            },
            ReportedUsage(10, 3),
            id="null details",
        ),
        # A number that no count can be is marked, and the others are read all the same.
        pytest.param({"prompt_tokens": -1, "completion_tokens": 3}, replace(BAD, completion_tokens=3), id="below 0"),
        pytest.param({"prompt_tokens": -1.0, "completion_tokens": "-7"}, BAD, id="below 0, otherwise written"),
        pytest.param({"prompt_tokens": 10, "completion_tokens": 10**30}, replace(BAD, prompt_tokens=10), id="2^100"),
        pytest.param({"prompt_tokens": 1e300, "completion_tokens": 3}, replace(BAD, completion_tokens=3), id="1e300"),
        pytest.param({"prompt_tokens": 1e999, "completion_tokens": 3}, replace(BAD, completion_tokens=3), id="1e999"),
        pytest.param(
            {"prompt_tokens": "9" * 5000, "completion_tokens": 3}, replace(BAD, completion_tokens=3), id="999"
        ),
        pytest.param({"total_tokens": MOST_TOKENS + 1}, BAD, id="more than any total"),
        pytest.param(
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": -1}},
            ReportedUsage(10, 3, is_implausible=True),
            id="less than no cached tokens",
        ),
    ],
)
def test_usage_in_all_shapes(usage: object, expected: ReportedUsage | None) -> None:
    assert usage_of(json.dumps(usage).replace("Infinity", "1e999").encode()) == expected
    assert read_usage(usage) == expected, "the same from JSON that has been parsed already"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(b"", None, id="none"),
        pytest.param(b"null", None, id="null"),
        pytest.param(b'{"prompt_tokens":1', None, id="cut"),
        pytest.param(b"\xff\xfe", None, id="no UTF-8"),
        pytest.param(b'{"prompt_tokens":1,"prompt_tokens":2}', ReportedUsage(2), id="twice: the last"),
        pytest.param(b'{"prompt_\\u0074okens":1}', ReportedUsage(1), id="an escaped name"),
        pytest.param(b' \r\n{"prompt_tokens" : 1}\n', ReportedUsage(1), id="white space"),
        pytest.param(b'{"prompt_tokens":1' + b"0" * 5000 + b"}", BAD, id="5,000 digits"),
        pytest.param(
            b'{"input_tokens":1' + b"0" * 5000 + b',"output_tokens":2}',
            ReportedUsage(None, 2, is_implausible=True),
            id="5,000 digits and 2",
        ),
    ],
)
def test_usage_as_it_is_written(document: bytes, expected: ReportedUsage | None) -> None:
    assert usage_of(document) == expected


@given(prompt=COUNTS, completion=COUNTS, cached=st.none() | COUNTS, reasoning=st.none() | COUNTS, ours=st.booleans())
def test_every_count_is_read_under_either_name(
    prompt: int, completion: int, cached: int | None, reasoning: int | None, ours: bool
) -> None:
    given_name, made_name = ("prompt", "completion") if ours else ("input", "output")
    usage: dict[str, Any] = {
        f"{given_name}_tokens": prompt,
        f"{made_name}_tokens": completion,
        f"{given_name}_tokens_details": {"cached_tokens": cached},
        f"{made_name}_tokens_details": {"reasoning_tokens": reasoning},
    }
    read = usage_of(json.dumps(usage).encode())
    assert read == (ReportedUsage(prompt, completion, None, cached, reasoning) if prompt or completion else None)


@given(st.binary(max_size=60))
def test_no_bytes_do_anything_but_give_a_usage_or_none(document: bytes) -> None:
    assert usage_of(document) is None or document
