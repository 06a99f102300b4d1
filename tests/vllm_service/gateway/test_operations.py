"""The operations of the hot path: where they are found, and how their streams end."""

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


@pytest.mark.parametrize("operation", [CHAT, COMPLETIONS, EMBEDDINGS], ids=lambda operation: operation.name)
@pytest.mark.parametrize(
    ("piece", "ends"),
    [
        pytest.param(b"data: [DONE]\n\n", True, id="the end alone"),
        pytest.param(b"data:[DONE]\n\n", True, id="without a space"),
        pytest.param(b"data: {}\n\ndata: [DONE]\r\n\r\n", True, id="after another event"),
        pytest.param(b"id: 3\ndata: [DONE]\n\n", True, id="in an event with an id"),
        pytest.param(b"data:  [DONE]\n\n", False, id="two spaces are text"),
        pytest.param(b'data: {"content":"data: [DONE]"}\n\n', False, id="quoted in a text"),
        pytest.param(b'data: {"content":"\\ndata: [DONE]"}\n\n', False, id="quoted in a text, with its line break"),
        pytest.param(b": data: [DONE]\n\n", False, id="in a comment"),
        pytest.param(b"data: [DON", False, id="cut"),
        pytest.param(b"event: response.completed\n\n", False, id="another operation's end"),
    ],
)
def test_how_a_stream_ends(operation: Operation, piece: bytes, ends: bool) -> None:
    assert (operation.last_event.search(piece) is not None) is ends
    assert operation.end_hint in piece or not ends


@pytest.mark.parametrize(
    ("piece", "ends"),
    [
        pytest.param(b"event: response.completed\ndata: {}\n\n", True, id="completed"),
        pytest.param(b"event:response.incomplete\ndata: {}\n\n", True, id="incomplete, without a space"),
        pytest.param(b"data: {}\n\nevent: response.failed\ndata: {}\n\n", True, id="failed, after another event"),
        pytest.param(b"data: [DONE]\n\n", True, id="as chat ends"),
        pytest.param(b"event: response.created\ndata: {}\n\n", False, id="created"),
        pytest.param(b'data: {"type":"response.completed"}\n\n', False, id="in its data alone"),
        pytest.param(b'data: {"text":"event: response.completed"}\n\n', False, id="quoted in a text"),
    ],
)
def test_how_a_response_ends(piece: bytes, ends: bool) -> None:
    assert (RESPONSES.last_event.search(piece) is not None) is ends


def test_the_ledger_knows_operations_by_these_names() -> None:
    names = [operation.name for operation in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)]
    assert names == ["chat.completions", "completions", "responses", "embeddings"]


def test_only_chat_and_completions_are_asked_for_usage_and_embeddings_write_nothing() -> None:
    operations = (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)
    assert [operation.has_stream_options for operation in operations] == [True, True, False, False]
    assert [operation.has_completion for operation in operations] == [True, True, True, False]
