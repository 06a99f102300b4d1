"""The usage of a request by what its provider reported: what is missing is estimated, what cannot be is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.reported_usage import MOST_TOKENS, ReportedUsage
from vllm_service.domain.usage import (
    LONGEST_ANSWER_TOKENS,
    LONGEST_PROMPT_TOKENS,
    TEMPLATE_TOKENS,
    TokenBounds,
    Usage,
    counted,
)

#: A prompt of about 25 tokens, and a bound of 50 on the answer.
BODY = b"x" * 100
BOUNDED = TokenBounds(BODY, 25, 50)
UNBOUNDED = TokenBounds(BODY, 25)
EMBEDDINGS = TokenBounds(BODY, 25, 0)
ANSWER = 12
Report = ReportedUsage


def estimated(prompt: int, completion: int) -> Usage:
    return Usage(prompt, completion, estimated=True)


def bad(prompt: int, completion: int) -> Usage:
    return Usage(prompt, completion, estimated=True, implausible=True)


@pytest.mark.parametrize(
    ("reported", "bounds", "usage"),
    [
        pytest.param(Report(30, 9), BOUNDED, Usage(30, 9), id="all of it"),
        pytest.param(Report(30, 9, 39, 4, 2), BOUNDED, Usage(30, 9, 4, 2), id="with details"),
        pytest.param(Report(30, 9, 99), BOUNDED, Usage(30, 9), id="another total does not matter"),
        pytest.param(Report(30, 9, 38), BOUNDED, Usage(30, 9), id="nor does a smaller one"),
        pytest.param(Report(30, 9, 59, None, 20), BOUNDED, Usage(30, 29, 0, 20), id="reasoning beside the answer"),
        pytest.param(Report(30, 9, 59), BOUNDED, estimated(30, 29), id="reasoning in the total alone"),
        pytest.param(Report(30, 9, 59), EMBEDDINGS, bad(30, 0), id="embeddings do not reason"),
        pytest.param(Report(30, 50), BOUNDED, Usage(30, 50), id="as long as allowed"),
        pytest.param(None, BOUNDED, estimated(25, ANSWER), id="nothing"),
        # One is missing.
        pytest.param(Report(30), BOUNDED, estimated(30, ANSWER), id="only the prompt"),
        pytest.param(Report(None, 9), BOUNDED, estimated(25, 9), id="only the answer"),
        pytest.param(Report(0, 9), BOUNDED, estimated(25, 9), id="a prompt of nothing"),
        pytest.param(Report(30, 0), BOUNDED, estimated(30, ANSWER), id="an answer of nothing that has text"),
        # The total says what is missing.
        pytest.param(Report(30, None, 39), BOUNDED, Usage(30, 9), id="prompt and total"),
        pytest.param(Report(30, 0, 39), BOUNDED, Usage(30, 9), id="prompt, total and a zero"),
        pytest.param(Report(None, 9, 39), BOUNDED, Usage(30, 9), id="answer and total"),
        pytest.param(Report(0, 9, 39), BOUNDED, Usage(30, 9), id="answer, total and a zero"),
        pytest.param(Report(None, None, 40), BOUNDED, estimated(25, 15), id="only the total"),
        pytest.param(Report(None, None, 20), BOUNDED, estimated(8, 12), id="a total below the prompt's estimate"),
        pytest.param(Report(None, None, 1), BOUNDED, estimated(1, 0), id="a total of one"),
        pytest.param(Report(None, None, 99), BOUNDED, estimated(49, 50), id="a total that needs a longer prompt"),
        pytest.param(Report(30, None, 30), BOUNDED, estimated(30, ANSWER), id="a total that leaves no answer"),
        pytest.param(Report(None, 9, 9), BOUNDED, estimated(25, 9), id="a total that leaves no prompt"),
        # Embeddings have no answer.
        pytest.param(Report(30), EMBEDDINGS, Usage(30, 0), id="embeddings"),
        pytest.param(Report(30, 0, 30), EMBEDDINGS, Usage(30, 0), id="embeddings with a total"),
        pytest.param(Report(None, None, 30), EMBEDDINGS, Usage(30, 0), id="embeddings with nothing but a total"),
        pytest.param(None, EMBEDDINGS, estimated(25, 0), id="embeddings that say nothing"),
        pytest.param(Report(30, 9), EMBEDDINGS, bad(30, 0), id="embeddings with an answer"),
        # What cannot be.
        pytest.param(Report(30, 51), BOUNDED, bad(30, 50), id="more than was allowed"),
        pytest.param(Report(30, MOST_TOKENS), UNBOUNDED, bad(30, ANSWER), id="more than any model writes"),
        pytest.param(Report(30, LONGEST_ANSWER_TOKENS), UNBOUNDED, Usage(30, LONGEST_ANSWER_TOKENS), id="the longest"),
        pytest.param(Report(None, 9, is_implausible=True), BOUNDED, bad(25, 9), id="one was no count"),
        pytest.param(Report(is_implausible=True), BOUNDED, bad(25, ANSWER), id="none was a count"),
        pytest.param(Report(30, 9, is_implausible=True), BOUNDED, bad(30, 9), id="the total was no count"),
        pytest.param(Report(100 + TEMPLATE_TOKENS, 9), BOUNDED, Usage(100 + TEMPLATE_TOKENS, 9), id="a long template"),
        pytest.param(Report(101 + TEMPLATE_TOKENS, 9), BOUNDED, bad(25, 9), id="more tokens than bytes were sent"),
        pytest.param(Report(None, 9, 10**6), BOUNDED, bad(25, 9), id="a total that no prompt can have"),
        pytest.param(Report(None, None, 10**6), BOUNDED, bad(25, ANSWER), id="nothing but such a total"),
        pytest.param(Report(30, 9, 39, 31, 2), BOUNDED, Usage(30, 9, 30, 2, True, True), id="more cached than read"),
        pytest.param(Report(30, 9, 39, 4, 10), BOUNDED, Usage(30, 9, 4, 9, True, True), id="more thought than written"),
    ],
)
def test_what_is_counted(reported: ReportedUsage | None, bounds: TokenBounds, usage: Usage) -> None:
    assert counted(reported, bounds, lambda: ANSWER) == usage


def test_an_empty_answer_may_have_no_tokens() -> None:
    assert counted(Report(30, 0), BOUNDED, lambda: 0) == Usage(30, 0)


def test_the_answer_is_estimated_only_where_that_is_needed() -> None:
    def never() -> int:
        raise AssertionError

    assert counted(Report(30, 9), BOUNDED, never) == Usage(30, 9)


def test_an_estimate_is_bounded_as_well() -> None:
    assert counted(None, BOUNDED, lambda: 99) == estimated(25, 50)
    assert counted(None, BOUNDED, lambda: -1) == estimated(25, 0)


@pytest.mark.parametrize(
    ("bounds", "longest", "most"),
    [
        pytest.param(BOUNDED, 50, 50, id="by the caller"),
        pytest.param(UNBOUNDED, None, LONGEST_ANSWER_TOKENS, id="by nothing"),
        pytest.param(TokenBounds(BODY, 25, None, 1, 8192), 8167, 8192, id="by the context"),
        pytest.param(TokenBounds(BODY, 25, None, 3, 8192), 24_501, 24_576, id="by the context, three choices"),
        pytest.param(TokenBounds(BODY, 9000, None, 1, 8192), 1, 8192, id="a prompt that fills the context"),
        pytest.param(TokenBounds(BODY, 25, 50, 1, 8192), 50, 50, id="by the caller, below the context"),
        pytest.param(TokenBounds(BODY, 25, 9000, 1, 8192), 9000, 8192, id="by the caller, beyond the context"),
        pytest.param(EMBEDDINGS, 0, 0, id="no answer"),
    ],
)
def test_the_longest_answer_of_a_request(bounds: TokenBounds, longest: int | None, most: int) -> None:
    assert (bounds.longest_answer, bounds.most_completion) == (longest, most)


@pytest.mark.parametrize(
    "body",
    [
        b'{"image_url":{"url":"https://x.test/1.png"}}',
        b'{"file_id":"f-1"}',
        b'{"previous_response_id":"r-1"}',
        b'{"tools":[{"type":"web_search"}]}',
        b'{"file":{"file_data":"data:application/pdf;base64,AAAA"}}',
        pytest.param(b'{"image\\u005furl":{"url":"https://x.test/1.png"}}', id="a name with an escape"),
        pytest.param(b'{"tools":[{"type":"web\\u005Fsearch"}]}', id="a type with an escape"),
    ],
)
def test_what_is_elsewhere_may_be_longer_than_the_body(body: bytes) -> None:
    assert TokenBounds(body, 9).allows_prompt(LONGEST_PROMPT_TOKENS)
    assert not TokenBounds(body, 9).allows_prompt(LONGEST_PROMPT_TOKENS + 1)
    assert not TokenBounds(body, 9, context_length=50_000).allows_prompt(50_001)


COUNT = st.none() | st.integers(0, 200) | st.integers(0, MOST_TOKENS)


@given(
    reported=st.builds(ReportedUsage, COUNT, COUNT, COUNT, COUNT, COUNT, st.booleans()),
    allowed=st.none() | st.integers(0, 500),
    choices=st.integers(1, 5),
    context=st.none() | st.integers(1, 10_000),
    answer=st.integers(0, 10_000),
)
def test_whatever_is_reported_counts_stay_within_the_bounds_and_are_never_free(
    reported: ReportedUsage, allowed: int | None, choices: int, context: int | None, answer: int
) -> None:
    bounds = TokenBounds(BODY, 25, allowed, choices, context)
    usage = counted(reported, bounds, lambda: answer)
    assert usage.prompt_tokens > 0
    assert bounds.allows_prompt(usage.prompt_tokens)
    assert 0 <= usage.completion_tokens <= bounds.most_completion
    assert 0 <= usage.cached_tokens <= usage.prompt_tokens
    assert 0 <= usage.reasoning_tokens <= usage.completion_tokens
    assert usage.estimated or not usage.implausible
    if not usage.estimated:
        total = reported.total_tokens
        assert usage.prompt_tokens in (reported.prompt_tokens, (total or 0) - usage.completion_tokens)
