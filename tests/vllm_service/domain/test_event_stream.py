"""Streams: their events however the bytes are cut, their beginning, and their end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.answers import Form, Judgement, Verdict, judge_whole
from vllm_service.domain.event_stream import Event, EventSplitter, StreamBeginning, StreamJudge

CHAT, RESPONSES = Form.CHAT, Form.RESPONSES
ANSWER, ERROR, INCOMPLETE, NOT_AN_ANSWER = Verdict
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
OTHER = STOP.replace(b'"index":0', b'"index":1')
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"
FAULT = b'data: {"error":{"code":429,"message":"no"}}\n\n'
WHOLE = b'{"choices":[{"message":{"content":"Hi"}}]}'
DELTA = b'data: {"type":"response.output_text.delta","delta":"Hi"}\n\n'
COMPLETED = b'data: {"type":"response.completed","response":{"error":null}}\n\n'


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(places)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@given(cuts=st.lists(st.integers(0, 80), max_size=8))
def test_events_are_the_same_however_they_are_cut_and_whatever_ends_their_lines(
    line_end: bytes, cuts: list[int]
) -> None:
    lines = b"\xef\xbb\xbfdata: 1\n\n: comment\n\nevent: x\ndata:2\ndata: 3\n\nid: 7\n\n\n"
    lines += b"retry: 3\ndata:4\n\ndata: [DONE]\n"
    splitter = EventSplitter()
    pieces = split_at(lines.replace(b"\n", line_end), cuts)
    assert [event for piece in pieces for event in splitter.feed(piece)] == [
        Event(b"", b"1"),
        Event(b"x", b"2\n3"),
        Event(b"", b"4"),
    ]
    assert splitter.is_done


@pytest.mark.parametrize(
    ("form", "body", "begins", "verdict"),  # begins: whether it is clear before the end of the body
    [
        pytest.param(CHAT, ROLE + TEXT + STOP + DONE, True, ANSWER, id="a stream"),
        pytest.param(CHAT, ROLE + TEXT + STOP, True, ANSWER, id="a finish reason and no [DONE]"),
        pytest.param(CHAT, ROLE + TEXT + STOP + USAGE + b": bye\n", True, ANSWER, id="usage and a comment at the end"),
        pytest.param(CHAT, TEXT + DONE, True, ANSWER, id="[DONE] without a finish reason"),
        pytest.param(CHAT, TEXT + b"data: [DONE]", True, ANSWER, id="[DONE] without a line break"),
        pytest.param(CHAT, TEXT + b"data: [DONE]\n", True, ANSWER, id="[DONE] without an empty line"),
        pytest.param(CHAT, ROLE + STOP + DONE, True, ANSWER, id="an empty answer"),
        pytest.param(CHAT, b"\xef\xbb\xbf" + TEXT + DONE, True, ANSWER, id="a byte order mark"),
        pytest.param(CHAT, (TEXT + DONE).replace(b"\n", b"\r"), True, ANSWER, id="old line breaks"),
        pytest.param(CHAT, ROLE + TEXT, True, INCOMPLETE, id="no end"),
        pytest.param(CHAT, ROLE + TEXT + b'data: {"choi', True, INCOMPLETE, id="cut within an event"),
        pytest.param(CHAT, TEXT + STOP[:-2], True, INCOMPLETE, id="the finish reason's event has no end"),
        pytest.param(CHAT, TEXT + FAULT + DONE, True, ERROR, id="an error and [DONE]"),
        pytest.param(CHAT, b": wait\n\n" + FAULT, True, ERROR, id="an error after a comment"),
        pytest.param(CHAT, ROLE + FAULT + DONE, True, ERROR, id="an error after a role"),
        pytest.param(CHAT, TEXT + b"data: <html>\n\n" + DONE, True, NOT_AN_ANSWER, id="HTML after text"),
        pytest.param(CHAT, b"", False, NOT_AN_ANSWER, id="nothing"),
        pytest.param(CHAT, b"\n\n: wait\n\n", False, NOT_AN_ANSWER, id="a comment"),
        pytest.param(CHAT, DONE, False, NOT_AN_ANSWER, id="[DONE] alone"),
        pytest.param(CHAT, USAGE + DONE, False, NOT_AN_ANSWER, id="usage alone"),
        pytest.param(CHAT, b"data: {}\n\n" + DONE, False, NOT_AN_ANSWER, id="an empty object"),
        pytest.param(CHAT, ROLE, False, INCOMPLETE, id="a role alone"),
        pytest.param(CHAT, b"<html>", False, NOT_AN_ANSWER, id="a page"),
        pytest.param(CHAT, b"null", False, NOT_AN_ANSWER, id="null"),
        pytest.param(CHAT, b"data: null\n\n", True, NOT_AN_ANSWER, id="an event with null"),
        pytest.param(CHAT, WHOLE, False, ANSWER, id="a whole answer"),
        pytest.param(CHAT, b" \r\n" + WHOLE, False, ANSWER, id="white space before it"),
        pytest.param(CHAT, b'{"error":{"code":429}}', False, ERROR, id="an error that is no stream"),
        pytest.param(CHAT, b"{}", False, NOT_AN_ANSWER, id="an object that is no answer"),
        pytest.param(RESPONSES, DELTA + COMPLETED, True, ANSWER, id="a response"),
        pytest.param(RESPONSES, DELTA, True, INCOMPLETE, id="a response without its end"),
    ],
)
def test_what_came_for_a_streamed_request(form: Form, body: bytes, begins: bool, verdict: Verdict) -> None:
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        beginning = StreamBeginning(form)
        is_clear = any(beginning.feed(piece) for piece in pieces)
        assert is_clear is begins
        judgement = beginning.judge(body)
        assert (judgement if judgement.verdict is not ANSWER else at_end(form, body)).verdict is verdict


def at_end(form: Form, body: bytes, choices: int = 1) -> Judgement:
    """What a stream that has begun is at its end; a document is what it is."""
    if body.lstrip().startswith(b"{"):
        return judge_whole(form, body)
    splitter, judge = EventSplitter(), StreamJudge(form, choices)
    for event in splitter.feed(body):
        judge.take(event)
    if splitter.is_done:
        judge.take(Event(b"", b"[DONE]"))
    return judge.end()


@pytest.mark.parametrize(("body", "verdict"), [(TEXT + STOP, INCOMPLETE), (TEXT + STOP + OTHER, ANSWER)])
def test_two_choices_have_two_ends(body: bytes, verdict: Verdict) -> None:
    assert at_end(CHAT, body, choices=2).verdict is verdict


def test_a_stream_that_has_begun_is_an_answer_whatever_follows_in_the_same_piece() -> None:
    beginning = StreamBeginning(CHAT)
    assert beginning.feed(TEXT + FAULT)
    assert beginning.judge(TEXT + FAULT).verdict is ANSWER
    assert at_end(CHAT, TEXT + FAULT).verdict is ERROR


def test_what_follows_the_end_or_an_error_does_not_count() -> None:
    assert at_end(CHAT, TEXT + DONE + FAULT).verdict is ANSWER
    assert at_end(CHAT, FAULT + TEXT + DONE).verdict is ERROR
