"""The operations of the hot path: where they are found, and what they have."""

from __future__ import annotations

import pytest

from vllm_service.gateway.operations import BY_PATH, CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Operation


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        (b"/chat/completions", CHAT),
        (b"/completions", COMPLETIONS),
        (b"/responses", RESPONSES),
        (b"/embeddings", EMBEDDINGS),
    ],
)
def test_an_operation_is_found_with_and_without_v1(path: bytes, operation: Operation) -> None:
    assert (BY_PATH[path], BY_PATH[b"/v1" + path]) == (operation, operation)
    assert operation.path.encode() == path


@pytest.mark.parametrize("path", [b"", b"/", b"/v1", b"/v2/embeddings", b"/embeddings/", b"/Embeddings", b"embeddings"])
def test_nothing_else_is_an_operation(path: bytes) -> None:
    assert path not in BY_PATH


def test_the_ledger_knows_operations_by_these_names() -> None:
    names = [operation.name for operation in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)]
    assert names == ["chat.completions", "completions", "responses", "embeddings"]


def test_only_chat_and_completions_are_asked_for_usage_and_embeddings_write_nothing() -> None:
    operations = (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)
    assert [operation.has_stream_options for operation in operations] == [True, True, False, False]
    assert [operation.has_completion for operation in operations] == [True, True, True, False]
