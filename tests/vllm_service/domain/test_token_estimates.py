"""How many tokens a request is before any tokenizer runs."""

from __future__ import annotations

from binascii import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.media import TOKENS_PER_IMAGE
from vllm_service.domain.reported_usage import MOST_TOKENS
from vllm_service.domain.usage import (
    ASSUMED_COMPLETION_TOKENS,
    PREFIX_BYTES,
    choices_of,
    estimated_prompt_tokens,
    longest_answer_tokens,
    prefix_of,
)


def test_the_documented_numbers() -> None:
    assert (ASSUMED_COMPLETION_TOKENS, TOKENS_PER_IMAGE, PREFIX_BYTES, MOST_TOKENS) == (1024, 800, 1024, 1_000_000_000)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"abc", 0, id="less than a token"),
        pytest.param(b"abcd", 1, id="four bytes are a token"),
        pytest.param(b"x" * 40_003, 10_000, id="a long text"),
    ],
)
def test_a_prompt_is_estimated_by_its_length(body: bytes, tokens: int) -> None:
    assert estimated_prompt_tokens(body) == tokens


@pytest.mark.parametrize(
    ("inputs", "tokens"),
    [
        pytest.param(b"[1,2,3,4,5,6,7,8,9,1]", 10, id="token ids of one digit"),
        pytest.param(b" [ [ 1,2 ] , [3,4,5] ]", 5, id="lists of token ids"),
        pytest.param(b"[[],[1,2,3,4,5,6,7,8]]", 9, id="lists of token ids behind an empty one"),
        pytest.param(b"[128000,128001]", 3, id="long ones are estimated by their length"),
        pytest.param(b'["a,b,c,d,e,f,g,h"]', 4, id="commas of a text"),
        pytest.param(b'"1,2,3,4,5,6,7,8"', 4, id="a text of numbers"),
        pytest.param(b"[]", 0, id="nothing"),
    ],
)
def test_token_ids_count_as_they_are(inputs: bytes, tokens: int) -> None:
    assert estimated_prompt_tokens(inputs, inputs) == tokens
    assert estimated_prompt_tokens(inputs, memoryview(inputs)) == tokens


@pytest.mark.parametrize(
    ("bounds", "choices", "tokens"),
    [
        pytest.param((), 1, None, id="an operation without bounds"),
        pytest.param((None, None), 3, None, id="no bound for three choices"),
        pytest.param((0,), 1, None, id="a bound of 0 is none"),
        pytest.param((-1,), 2, None, id="a negative bound is none"),
        pytest.param((float("nan"),), 1, None, id="a bound that is no number is none"),
        pytest.param((1,), 1, 1, id="one token"),
        pytest.param((100,), 3, 300, id="three choices"),
        pytest.param((5.0,), 2, 10, id="written as a float"),
        # OpenAI refuses both, vLLM takes the second, older servers know only the first.
        pytest.param((500, 7), 1, 500, id="the first of two is larger"),
        pytest.param((7, 500), 1, 500, id="the second of two is larger"),
        pytest.param((None, 7), 1, 7, id="one of two"),
        pytest.param((-1, 7), 1, 7, id="one of two is none"),
        pytest.param((MOST_TOKENS,), 1, MOST_TOKENS, id="the most"),
        pytest.param((MOST_TOKENS + 1,), 1, MOST_TOKENS, id="more than the most"),
        pytest.param((10**40,), 10**9, MOST_TOKENS, id="beyond 64 bits"),
        pytest.param((1e300,), 10**9, MOST_TOKENS, id="a large float"),
    ],
)
def test_the_longest_answer(bounds: tuple[float | None, ...], choices: int, tokens: int | None) -> None:
    longest = longest_answer_tokens(bounds, choices)
    assert (longest, type(longest)) == (tokens, type(tokens))


@pytest.mark.parametrize(
    ("numbers", "prompts", "choices"),
    [
        pytest.param((None, None), 1, 1, id="nothing said"),
        pytest.param((3, None), 1, 3, id="n"),
        pytest.param((None, 5), 1, 5, id="best_of"),
        pytest.param((3, 5), 1, 5, id="best_of is what is written, n of it is shown"),
        pytest.param((3, None), 4, 12, id="for each of four prompts"),
        pytest.param((None, None), 0, 1, id="an empty list of prompts"),
        pytest.param((0, -5), 1, 1, id="0 and less are one"),
        pytest.param((0.5, float("nan")), 1, 1, id="half a choice is one"),
        pytest.param((2.0, None), 1, 2, id="written as a float"),
        pytest.param((10**40, 1e300), 10**6, MOST_TOKENS, id="the most"),
    ],
)
def test_how_many_answers_are_written(numbers: tuple[float | None, ...], prompts: int, choices: int) -> None:
    assert choices_of(numbers, prompts) == choices


def test_a_short_conversation_has_no_prefix() -> None:
    assert (prefix_of(b""), prefix_of(b"x" * (PREFIX_BYTES - 1))) == (0, 0)


def test_a_prefix_is_the_same_in_every_process() -> None:
    assert prefix_of(b"x" * PREFIX_BYTES) == crc32(b"x" * PREFIX_BYTES) != 0


@given(st.binary(max_size=3000), st.binary(max_size=50))
def test_only_how_a_conversation_begins_decides_its_prefix(conversation: bytes, more: bytes) -> None:
    long = conversation.ljust(PREFIX_BYTES, b"x")
    assert prefix_of(long + more) == prefix_of(long[:PREFIX_BYTES]) == prefix_of(memoryview(long))
    other = bytes([long[0] ^ 1]) + long[1:]
    assert prefix_of(other) != prefix_of(long)
