"""Every error writes the same document, and says whether a retry helps."""

from __future__ import annotations

import json

import pytest

from handler import errors
from handler.errors import EngineError, WorkerError

OURS = [errors.ConfigurationError, errors.InvalidInput, errors.StreamBroken, errors.EngineUnavailable, WorkerError]


@pytest.mark.parametrize("kind", OURS)
def test_an_error_is_written_as_vllm_writes_its_own(kind: type[WorkerError]) -> None:
    document = json.loads(kind("what is wrong", param="field").to_json_text())
    assert document["status"] == kind.status
    assert document["error"]["message"] == "what is wrong"
    assert document["error"]["param"] == "field"
    assert document["error"]["code"] == kind.code
    assert document["error"]["type"].endswith("Error")
    assert "ErrorError" not in document["error"]["type"]


def test_a_retry_helps_where_the_worker_is_at_fault_and_not_where_the_caller_is() -> None:
    assert errors.EngineUnavailable("dead").retryable
    assert errors.StreamBroken("cut").retryable
    assert not errors.InvalidInput("wrong").retryable
    assert [EngineError(status, {}).retryable for status in (400, 404, 408, 429, 500, 503)] == [
        *(False, False, True),
        *(True, True, True),
    ]


@pytest.mark.parametrize("status", [101, 204, 299, 307, 308, 418, 498, 499, 520, 599])
def test_a_status_without_a_name_of_its_own_is_written_too(status: int) -> None:
    document = json.loads(EngineError.from_response(status, b"").to_json_text())
    assert (document["status"], document["error"]["code"]) == (status, status)
    assert document["error"]["message"]
    assert document["error"]["type"].endswith("Error")
    assert "ErrorError" not in document["error"]["type"]


def test_further_fields_of_vllms_error_are_kept() -> None:
    error = EngineError.from_response(400, b'{"error": {"message": "too long", "code": 400, "hint": "shorten it"}}')
    assert error.to_json()["error"]["hint"] == "shorten it"
