"""Server-sent events on their way: whole ones only, the same however the network cut them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.answers import Judgement
from vllm_service.domain.event_stream import LONGEST_EVENT_BYTES
from vllm_service.domain.reported_usage import ReportedUsage
from vllm_service.gateway.event_relay import EventRelay
from vllm_service.gateway.operations import CHAT, COMPLETIONS, RESPONSES, Operation
from vllm_service.http.upstream import CutShort

HELLO = 'data: {"choices":[{"delta":{"content":"Grüße, 東京 🚀"}}]}\n\n'.encode()
HI = HELLO.replace("Grüße, 東京 🚀".encode(), b"Hi")
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
FAULT = b'data: {"error":{"code":429,"message":"no"}}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":3}}\n\n'
BOTH = b'data: {"choices":[{"index":0}],"usage":{"prompt_tokens":10,"completion_tokens":3}}\n\n'
NULL = b'data: {"choices":[{"index":0}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"
COMPLETED = (
    b"event: response.completed\n"
    b'data: {"type":"response.completed","response":{"usage":{"input_tokens":7,"output_tokens":2}}}\n\n'
)
FAILED = b"event: response.failed\ndata: {}\n\n"
QUOTED = b'data: {"choices":[{"delta":{"content":"\\"usage\\": {\\"error\\": 99} data: [DONE]\\n\\n"}}]}\n\n'
COMMENT = b": waiting\n\n"
SEEN = b": seen\n\n"  # what is put behind an event that carries usage


class Passed:
    """What came out of a relay."""

    def __init__(self, operation: Operation = CHAT) -> None:
        self.pieces: list[bytes] = []
        self.finished: list[tuple[bytes, ReportedUsage | None, bool]] = []
        self.relay = EventRelay(operation, self.pieces.append, self._finish)

    def _finish(self, relay: EventRelay, event: bytes, is_only_usage: bool) -> bytes:
        self.finished.append((event, relay.usage, is_only_usage))
        return b"" if is_only_usage else event + SEEN

    def receive(self, pieces: Iterable[bytes]) -> Passed:
        try:
            for piece in pieces:
                self.relay.receive(piece)
        except CutShort:
            if self.relay.fault is None:
                raise
        return self

    @property
    def all(
        self,
    ) -> tuple[bytes, list[tuple[bytes, ReportedUsage | None, bool]], ReportedUsage | None, bool, Judgement | None]:
        """Everything that can be told of it, the pieces' borders apart."""
        relay = self.relay
        return b"".join(self.pieces), self.finished, relay.usage, relay.is_complete, relay.fault


def windows(event: bytes) -> bytes:
    return event.replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    ("operation", "stream", "shown", "told"),  # told: the usage, whether it is complete, events
    [
        pytest.param(CHAT, b"", b"", (None, False, 0), id="nothing"),
        pytest.param(CHAT, HELLO + DONE, HELLO + DONE, (None, True, 2), id="text"),
        pytest.param(COMPLETIONS, HELLO + DONE, HELLO + DONE, (None, True, 2), id="completions end so too"),
        pytest.param(CHAT, HELLO, HELLO, (None, False, 1), id="without its end"),
        pytest.param(CHAT, HELLO + DONE[:-1], HELLO, (None, False, 1), id="its end cut by a byte"),
        pytest.param(CHAT, HELLO + HELLO[:40], HELLO, (None, False, 1), id="cut within an event"),
        pytest.param(
            CHAT, HI + USAGE + DONE, HI + DONE, (ReportedUsage(10, 3), True, 3), id="the usage chunk may be hidden"
        ),
        pytest.param(
            CHAT, HI + BOTH + DONE, HI + BOTH + SEEN + DONE, (ReportedUsage(10, 3), True, 3), id="usage beside a choice"
        ),
        pytest.param(CHAT, HI + NULL + DONE, HI + NULL + DONE, (None, True, 3), id="null usage"),
        pytest.param(CHAT, QUOTED, QUOTED, (None, False, 2), id="a text that speaks of usage and of the end"),
        pytest.param(CHAT, b"\n\n" + HELLO[:40], b"\n\n", (None, False, 0), id="an empty event before a cut one"),
        pytest.param(
            CHAT, b"\r\n\r\n" + HELLO[:40], b"\r\n\r\n", (None, False, 0), id="the same with line breaks of Windows"
        ),
        pytest.param(CHAT, HELLO + STOP, HELLO + STOP, (None, True, 2), id="a finish reason is an end"),
        pytest.param(CHAT, HELLO + FAULT + DONE, HELLO, (None, False, 1), id="an error ends it, whatever follows"),
        pytest.param(CHAT, b"\xef\xbb\xbf" + HELLO, HELLO, (None, False, 1), id="a byte order mark is taken away"),
        pytest.param(
            CHAT,
            (HELLO + DONE).replace(b"\n", b"\r"),
            (HELLO + DONE).replace(b"\n", b"\r"),
            (None, True, 2),
            id="old line breaks",
        ),
        pytest.param(CHAT, COMMENT + HELLO, COMMENT + HELLO, (None, False, 1), id="a comment"),
        pytest.param(
            CHAT, HI + b"data:[DONE]\n\n", HI + b"data:[DONE]\n\n", (None, True, 2), id="no space before the end"
        ),
        pytest.param(CHAT, windows(HELLO + DONE), windows(HELLO + DONE), (None, True, 2), id="line breaks of Windows"),
        pytest.param(
            CHAT,
            windows(BOTH),
            windows(BOTH) + SEEN,
            (ReportedUsage(10, 3), False, 1),
            id="usage with line breaks of Windows",
        ),
        pytest.param(
            CHAT,
            windows(HELLO) + BOTH,
            windows(HELLO) + BOTH + SEEN,
            (ReportedUsage(10, 3), False, 2),
            id="both line breaks",
        ),
        pytest.param(
            CHAT,
            b"id: 7\n" + BOTH,
            b"id: 7\n" + BOTH + SEEN,
            (ReportedUsage(10, 3), False, 1),
            id="an id before its data",
        ),
        pytest.param(
            CHAT,
            BOTH.replace(b"10", b"1") + BOTH,
            BOTH.replace(b"10", b"1") + SEEN + BOTH + SEEN,
            (ReportedUsage(10, 3), False, 2),
            id="usage so far in each event: the last counts",
        ),
        pytest.param(CHAT, HI + b'data: {"usage":{"a":\n\n' + HI, HI, (None, False, 1), id="an event that is not JSON"),
        pytest.param(
            CHAT,
            HI + b'data: {"usage":{"prompt_tokens":[]}}\n\n',
            HI,
            (None, False, 2),
            id="a chunk of usage that says nothing is hidden as well",
        ),
        pytest.param(CHAT, b"\xff\xfe\n\n", b"", (None, False, 0), id="no UTF-8"),
        pytest.param(RESPONSES, COMPLETED, COMPLETED + SEEN, (ReportedUsage(7, 2), True, 1), id="a response"),
        pytest.param(RESPONSES, COMPLETED[:-1], b"", (None, False, 0), id="a response cut by a byte"),
        pytest.param(RESPONSES, FAILED, FAILED, (None, False, 0), id="a response that failed is not complete"),
    ],
)
def test_what_passes_and_what_is_read_in_passing(
    operation: Operation, stream: bytes, shown: bytes, told: tuple[ReportedUsage | None, bool, int]
) -> None:
    for split in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        passed = Passed(operation).receive(split)
        assert b"".join(passed.pieces) == shown
        assert (passed.relay.usage, passed.relay.is_complete, passed.relay.events) == told


@given(
    st.lists(st.sampled_from([HELLO, USAGE, BOTH, NULL, QUOTED, COMMENT, DONE, b"retry: 3\n\n"]), max_size=8),
    st.sampled_from([bytes, windows]),
    st.lists(st.integers(0, 2000), max_size=12),
    st.integers(0, 60),
)
def test_any_split_of_the_bytes_gives_the_same(
    parts: list[bytes], written: Callable[[bytes], bytes], cuts: list[int], missing: int
) -> None:
    stream = written(b"".join(parts))
    stream = stream[: max(0, len(stream) - missing)]
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    split = [stream[start:stop] for start, stop in pairwise(places)]
    assert Passed().receive(split).all == Passed().receive([stream]).all


@pytest.mark.parametrize(
    ("operation", "stream"),
    [(CHAT, HELLO + QUOTED + USAGE + DONE), (CHAT, windows(HELLO + BOTH + DONE)), (RESPONSES, HELLO + COMPLETED)],
    ids=["chat", "chat with line breaks of Windows", "a response"],
)
def test_a_stream_cut_at_any_byte_is_not_complete_and_shows_whole_events(operation: Operation, stream: bytes) -> None:
    whole = b"".join(Passed(operation).receive([stream]).pieces)
    for at in range(len(stream)):
        passed = Passed(operation).receive([stream[:at]])
        assert not passed.relay.is_complete
        assert whole.startswith(b"".join(passed.pieces))
    assert Passed(operation).receive([stream]).relay.is_complete


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", b"\r\n", b"\n\n", b"data: "]), max_size=12))
def test_whatever_comes_what_has_passed_are_lines_of_it_in_order_and_ends_with_an_event(pieces: list[bytes]) -> None:
    passed = b"".join(Passed().receive(pieces).pieces)
    came = iter(b"".join(pieces).splitlines())
    assert all(line in came for line in passed.splitlines())
    assert passed == b"" or passed.endswith((b"\n\n", b"\n\r\n", b"\r\r", b"\n\r"))


def test_a_piece_without_an_event_sends_nothing() -> None:
    passed = Passed().receive([HELLO[:9], HELLO[9:-1]])
    assert passed.pieces == []
    assert passed.receive([b"\n"]).pieces == [HELLO]


@pytest.mark.parametrize(
    "blank",
    [
        b"data: {}\n\n",
        b'data: {"choices":null}\n\n',
        b"data:\n\n",
        b"event: ping\n\n",
        b"retry: 3000\n\n",
        b": comment\nid: 1\n\n",
    ],
)
def test_what_holds_nothing_is_hidden_because_sdks_fail_at_it(blank: bytes) -> None:
    assert b"".join(Passed().receive([HELLO + blank + DONE]).pieces) == HELLO + DONE
    assert b"".join(Passed().receive([blank, HELLO, blank, DONE]).pieces) == HELLO + DONE


def test_a_chunk_with_no_choice_in_its_list_passes_since_some_providers_put_filters_there() -> None:
    chunk = b'data: {"choices":[],"prompt_filter_results":[{}]}\n\n'
    assert b"".join(Passed().receive([chunk + HELLO]).pieces) == chunk + HELLO


@pytest.mark.parametrize("data", [b"\0", b'\0"}\n\n', b'\0{"x":1}\n\n'])
def test_bytes_that_are_no_event_do_not_pass_for_a_chunk(data: bytes) -> None:
    assert Passed().receive([data]).pieces == []


SPACED = b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "%b"}, "finish_reason": null}]}\n\n'


@pytest.mark.parametrize(
    ("texts", "last", "passes"),
    [
        ([b"a", b"b", b""], b"", 3),
        ([rb"\n", rb"\"", rb"\\"], b"", 3),
        ([b"a", b"b"], STOP, 3),
        ([b"a", b"b"], FAULT, 2),
        ([b"a", b'b"},"error":{"code":429},"x":{"y":"'], b"", 1),
    ],
)
def test_events_of_one_read_that_differ_in_their_texts_alone_are_passed_on_and_counted(
    texts: list[bytes], last: bytes, passes: int
) -> None:
    first = SPACED % b"first"
    events = [first + first, first, b"".join(SPACED % text for text in texts) + last]
    passed = Passed().receive(events)
    shown = [*(SPACED % text for text in texts), last]
    assert b"".join(passed.pieces) == first * 3 + b"".join(shown[:passes])
    assert passed.relay.events >= 3 + passes
    assert (passed.relay.fault is not None) is (passes < len(list(filter(None, shown))))


def test_a_hidden_event_sends_nothing_and_not_an_empty_piece() -> None:
    assert Passed().receive([USAGE]).pieces == []


def test_an_event_of_the_longest_length_is_held_and_a_byte_more_is_cut_short() -> None:
    assert LONGEST_EVENT_BYTES == 8 * 1024 * 1024
    passed = Passed().receive([b"x" * LONGEST_EVENT_BYTES])
    with pytest.raises(CutShort, match=str(LONGEST_EVENT_BYTES)):
        passed.receive([b"x"])
    assert passed.pieces == []


def test_a_long_event_that_ends_passes() -> None:
    event = HI.replace(b"Hi", b"x" * LONGEST_EVENT_BYTES)
    assert Passed().receive([HELLO + event]).pieces == [HELLO + event]
