"""The text of an answer, kept while it passes: the same however it was cut, by choice, and bounded."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.gateway.answer_text import MOST_TEXT_BYTES, AnswerText

DONE = b"data: [DONE]\n\n"


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str | None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}}]}


def heard(pieces: list[bytes]) -> dict[int, list[str]] | None:
    said, passed = AnswerText(), list[bytes]()
    receive = said.around(passed.append)
    for piece in pieces:
        receive(piece)
    assert passed == pieces, "everything is passed on as it came"
    return said.ended()


CALL = {"function": {"name": "weather", "arguments": '{"city":"Köln"}'}}


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"choices": None}, {}, id="null choices"),
        pytest.param({"choices": []}, {}, id="no choices"),
        pytest.param({"choices": [{"text": "a"}]}, {0: ["a"]}, id="a completion"),
        pytest.param({"choices": [{"message": {"content": "a"}}]}, {0: ["a"]}, id="a whole chat answer"),
        pytest.param({"choices": [{"delta": {"content": "a"}}]}, {0: ["a"]}, id="a chat event"),
        pytest.param({"choices": [{"delta": {"content": None}}]}, {}, id="null content"),
        pytest.param({"choices": [{"delta": {"content": ""}}]}, {}, id="empty content"),
        pytest.param({"choices": [{"delta": {}}]}, {}, id="an empty event"),
        pytest.param(
            {"choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]}, {1: ["b"], 0: ["a"]}, id="two choices"
        ),
        pytest.param(
            {"choices": [{"message": {"reasoning_content": "r", "content": "a"}}]},
            {0: ["r", "a"]},
            id="reasoning first",
        ),
        pytest.param({"choices": [{"message": {"reasoning": "r"}}]}, {0: ["r"]}, id="reasoning by its other name"),
        pytest.param(
            {"choices": [{"message": {"reasoning_content": "r", "reasoning": "r"}}]}, {0: ["r"]}, id="both names: once"
        ),
        pytest.param(
            {"choices": [{"message": {"content": None, "tool_calls": [CALL, CALL]}}]},
            {0: ["weather", '{"city":"Köln"}'] * 2},
            id="calls of tools",
        ),
        pytest.param(
            {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{"}}, {"function": None}]}}]},
            {0: ["{"]},
            id="a part of a call",
        ),
        pytest.param({"type": "response.output_text.delta", "delta": "a"}, {0: ["a"]}, id="an event of a response"),
        pytest.param({"type": "response.output_text.done", "text": "a"}, {}, id="its repetition"),
        pytest.param({"response": {"output": [{"content": [{"text": "a"}]}]}}, {}, id="its whole repetition"),
        pytest.param(
            {"output": [{"content": [{"text": "a"}, {"text": "b"}]}, {"name": "weather", "arguments": "{}"}]},
            {0: ["a", "b", "weather", "{}"]},
            id="a whole response",
        ),
        pytest.param({"output": [{"content": None}, {}]}, {}, id="a response without text"),
        pytest.param({"data": [{"embedding": [1.0]}]}, {}, id="embeddings"),
        pytest.param({"choices": "many"}, {}, id="choices of another shape"),
        pytest.param({"choices": [{"text": 7}]}, {}, id="a text that is a number"),
        pytest.param([1], {}, id="a list"),
        pytest.param(
            {"choices": [{"text": "\x00 東京 🚀 \n\ndata: x"}]}, {0: ["\x00 東京 🚀 \n\ndata: x"]}, id="unicode"
        ),
    ],
)
def test_what_is_text_in_an_answer_and_in_an_event(document: Any, texts: dict[int, list[str]]) -> None:
    assert AnswerText.whole(json.dumps(document).encode()).ended() == texts
    assert heard([event(document), DONE]) == texts


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        pytest.param(b"", {}, id="empty"),
        pytest.param(b"<html>", {}, id="HTML"),
        pytest.param(b'{"choices":[{"text":"a"}', {}, id="cut"),
        pytest.param(b'{"choices":[{"text":"\xe6\x9d"}]}', {}, id="cut in a character"),
        pytest.param(b'{"x":' + b"[" * 100_000, {}, id="nested without end"),
        pytest.param(b'{"choices":[{"text":"a","text":"b"}]}', {0: ["b"]}, id="twice: the last"),
    ],
)
def test_a_body_that_is_no_answer_has_no_text(body: bytes, texts: dict[int, list[str]]) -> None:
    assert AnswerText.whole(body).ended() == texts
    assert heard([b"data: " + body + b"\n\n"]) == texts


@pytest.mark.parametrize(
    ("stream", "texts"),
    [
        pytest.param(b"", {}, id="nothing"),
        pytest.param(event(delta("a")).replace(b"\n", b"\r\n"), {0: ["a"]}, id="line breaks of Windows"),
        pytest.param(event(delta("a")).replace(b"data: ", b"data:"), {0: ["a"]}, id="no space"),
        pytest.param(b": data\n\n" + event(delta("a")), {0: ["a"]}, id="a comment"),
        pytest.param(b"event: x\nid: 1\n" + event(delta("a")), {0: ["a"]}, id="other lines"),
        pytest.param(event(delta("a"))[:-2], {}, id="its line has not ended"),
        pytest.param(event(delta("a"))[:-1], {0: ["a"]}, id="its line has, its event has not"),
        pytest.param(
            event(delta("a")) + event(delta("b", 1)) + event(delta("c")), {0: ["a", "c"], 1: ["b"]}, id="in turn"
        ),
    ],
)
def test_what_is_text_in_a_stream(stream: bytes, texts: dict[int, list[str]]) -> None:
    assert heard([stream]) == texts


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=20), st.integers(0, 2)), max_size=6),
    st.lists(st.integers(0, 1500), max_size=10),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_any_split_of_the_bytes_says_the_same(said: list[tuple[str, int]], cuts: list[int], line_break: bytes) -> None:
    stream = (b"".join(event(delta(text, index)) for text, index in said) + DONE).replace(b"\n", line_break)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    expected = {index: [text for text, of in said if of == index] for _, index in said}
    assert heard([stream[start:stop] for start, stop in pairwise(places)]) == expected
    assert heard([stream[at : at + 1] for at in range(len(stream))]) == expected


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"data: ", b'{"choices":'])))
def test_no_bytes_do_anything_but_pass(pieces: list[bytes]) -> None:
    heard(pieces)


def test_a_whole_answer_of_the_most_bytes_is_kept_and_one_byte_more_is_not() -> None:
    envelope = b'{"choices":[{"text":"%b"}]}'
    most = MOST_TEXT_BYTES - len(envelope % b"")
    kept = AnswerText.whole(envelope % (b"x" * (most // 2))).ended()
    assert kept == {0: ["x" * (most // 2)]}
    assert AnswerText.whole(b"{}".ljust(MOST_TEXT_BYTES)).ended() == {}
    assert AnswerText.whole(b"{}".ljust(MOST_TEXT_BYTES + 1)).ended() is None
    assert MOST_TEXT_BYTES == 2 * 1024 * 1024


def test_a_line_without_an_end_is_kept_no_more_once_it_is_too_long() -> None:
    assert heard([b"data: ".ljust(MOST_TEXT_BYTES, b"x")]) == {}
    assert heard([b"data: ".ljust(MOST_TEXT_BYTES + 1, b"x")]) is None


def test_a_stream_is_read_while_it_passes_in_larger_pieces() -> None:
    said = AnswerText()
    receive = said.around(lambda data: None)
    seen = []
    for _ in range(3):
        receive(event(delta("x" * 60_000)))
        seen.append([len(text) for text in (said.texts or {}).get(0, [])])
    assert seen == [[], [60_000] * 2, [60_000] * 2]


def test_a_stream_that_is_too_long_is_kept_no_more_while_it_passes() -> None:
    said = AnswerText()
    receive = said.around(lambda data: None)
    for _ in range(MOST_TEXT_BYTES // 60_000 + 2):
        receive(event(delta("x" * 60_000)))
    assert said.texts is None
    receive(event(delta("more")))
    assert said.ended() is None
