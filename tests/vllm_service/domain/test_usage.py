"""The tokens of one request add up without counting any twice."""

from __future__ import annotations

import pytest

from vllm_service.domain.usage import Usage


@pytest.mark.parametrize(
    ("usage", "total"),
    [
        (Usage(0, 0), 0),
        (Usage(7, 5), 12),
        # Cached tokens are part of the prompt and reasoning is part of the completion.
        (Usage(7, 5, cached_tokens=7, reasoning_tokens=5), 12),
        (Usage(2**63, 2**63), 2**64),
    ],
)
def test_the_total_is_prompt_and_completion(usage: Usage, total: int) -> None:
    assert usage.total_tokens == total


def test_what_is_not_told_is_nothing_and_counted_by_the_provider() -> None:
    usage = Usage(1, 2)
    assert (usage.cached_tokens, usage.reasoning_tokens, usage.estimated) == (0, 0, False)
    assert usage != Usage(1, 2, estimated=True)
