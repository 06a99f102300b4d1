"""Batch jobs as values: what is read from RunPod's answers, and how requests are cut into calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service import BatchResult, BatchState, BatchSummary, JobStatus, errors
from vllm_service.client.runpod.batch_values import (
    MAX_CALL_BYTES,
    ResultPage,
    calls_for,
    read_batches,
    read_page,
    read_summary,
)

SUMMARY = {
    "id": "batch_1",
    "endpointId": "ep",
    "status": "FINALIZED",
    "requestTotal": 10,
    "requestInProgress": 1,
    "requestCompleted": 4,
    "requestFailed": 2,
    "createdAt": 1783584000000,
    "aFieldOfTomorrow": {},
}


def test_a_summary_is_read_with_its_counts() -> None:
    summary = read_summary(SUMMARY)
    assert summary == BatchSummary("batch_1", BatchState.FINALIZED, 10, 1, 4, 2, None, 1783584000000)
    assert (summary.done, summary.is_done) == (6, False)


@pytest.mark.parametrize(
    ("state", "total", "completed", "failed", "is_done"),
    [
        ("DRAFT", 0, 0, 0, False),
        ("DRAFT", 2, 0, 0, False),
        ("FINALIZED", 3, 2, 0, False),
        ("FINALIZED", 3, 2, 1, True),
        ("FINALIZED", 0, 0, 0, True),
        ("FINALIZED", None, 2, 1, False),
        ("FAILED", 3, 0, 0, True),
        ("CANCELLED", 3, 1, 0, True),
    ],
)
def test_a_batch_is_done_when_nothing_of_it_will_run(
    state: str, total: int | None, completed: int, failed: int, is_done: bool
) -> None:
    document = {"id": "b", "status": state, "requestTotal": total}
    document |= {"requestCompleted": completed, "requestFailed": failed}
    assert read_summary(document).is_done is is_done


@pytest.mark.parametrize("odd", [True, -1, 1.5e300, float("nan"), float("inf"), "7", None, [], 2**60])
def test_a_count_that_is_none_is_unknown(odd: object) -> None:
    assert read_summary(SUMMARY | {"requestTotal": odd}).total is None


@pytest.mark.parametrize(
    "odd", [None, [], "x", {}, {"id": "b"}, {"id": 1, "status": "DRAFT"}, {"id": "b", "status": "RUNNING"}]
)
def test_what_is_no_batch_is_an_error(odd: object) -> None:
    with pytest.raises(errors.UpstreamFailed, match="batch"):
        read_summary(odd)


def test_a_list_of_batches_is_bare_or_wrapped() -> None:
    assert read_batches([SUMMARY]) == read_batches({"batches": [SUMMARY]}) == [read_summary(SUMMARY)]
    with pytest.raises(errors.UpstreamFailed):
        read_batches({"data": []})


def test_a_page_gives_each_request_its_place() -> None:
    done = {"id": "r1", "status": "COMPLETED", "output": 7, "startedAt": "a", "completedAt": "b"}
    failed = {"id": "r2", "status": "FAILED", "error": {"x": 1}}
    page = read_page({"requests": [done, failed], "hasMore": True, "total": 9}, 40)
    assert page == ResultPage(
        (
            BatchResult("r1", 40, JobStatus.COMPLETED, 7, None, "a", "b"),
            BatchResult("r2", 41, JobStatus.FAILED, None, "{'x': 1}"),
        ),
        has_more=True,
    )


@pytest.mark.parametrize("odd", [None, [], {}, {"requests": {}}, {"requests": [{"id": "r"}]}, {"requests": [7]}])
def test_what_is_no_page_is_an_error(odd: object) -> None:
    with pytest.raises(errors.UpstreamFailed):
        read_page(odd, 0)


@pytest.mark.parametrize(
    ("output", "key", "text"),
    [
        ({"id": "chatcmpl-row-7", "choices": [{"message": {"content": "hi"}}]}, "row-7", "hi"),
        ({"id": "cmpl-k", "choices": [{"text": "hi"}]}, "k", "hi"),
        ({"id": "chatcmpl-", "choices": []}, None, None),
        ({"id": 7, "choices": [{"message": {"content": None}}]}, None, None),
        ([{"id": "chatcmpl-k", "choices": [{"message": {"content": "hi"}}]}], "k", "hi"),
        ([{"id": "chatcmpl-k"}, {"id": "chatcmpl-l"}], None, None),
        ({"choices": {}}, None, None),
        ("text", None, None),
        (None, None, None),
    ],
)
def test_an_answer_names_its_request_and_has_a_text(output: object, key: str | None, text: str | None) -> None:
    result = BatchResult("r", 0, JobStatus.COMPLETED, output)
    assert (result.key, result.text) == (key, text)


@given(st.lists(st.text(max_size=40), max_size=30), st.integers(80, 300))
def test_calls_hold_every_input_in_order_and_are_never_too_large(texts: list[str], max_bytes: int) -> None:
    inputs = [{"t": text} for text in texts]
    if any(len(json.dumps(one, ensure_ascii=False).encode()) > 40 for one in inputs):
        inputs = [{"t": "x"} for _ in inputs]
    calls = list(calls_for(inputs, max_bytes))
    found = [request["input"] for call in calls for request in json.loads(call.content)["requests"]]
    assert found == inputs
    assert all(len(call.content) <= max_bytes for call in calls)
    assert all(call.requests == len(json.loads(call.content)["requests"]) for call in calls)


def test_a_call_is_as_large_as_it_may_be() -> None:
    one = {"t": "x" * (MAX_CALL_BYTES // 4 - 30)}
    assert [call.requests for call in calls_for([one] * 9)] == [4, 4, 1]


def test_inputs_are_read_as_they_are_needed() -> None:
    taken: list[int] = []

    def inputs() -> Iterator[dict[str, Any]]:
        for number in range(100):
            taken.append(number)
            yield {"t": "x" * 50}

    calls = calls_for(inputs(), 300)
    next(calls)
    assert len(taken) < 10


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        ("text", "inputs[1]"),
        ({"t": "x" * 400}, "inputs[1]"),
        ({"t": float("nan")}, "inputs[1]"),
        ({"t": object()}, "inputs[1]"),
    ],
)
def test_an_input_that_cannot_be_sent_is_named_by_its_place_and_not_quoted(odd: Any, named: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        list(calls_for([{"t": "fine"}, odd], 300))
    assert named in caught.value.message
    assert "xxx" not in caught.value.message
