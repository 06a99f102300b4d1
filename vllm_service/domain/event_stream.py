"""Decides what a streamed answer is, from its bytes as they come. Pure; the rules for one event are in answers.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from vllm_service.domain.answers import ANSWER, EventReading, Form, Judgement, Verdict, judge_whole, read_event

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: An unfinished event is held in memory, and read at once when it ends: 9 ns a byte of the loop (docs/benchmarks.md).
#: Images come in events of some MB.
LONGEST_EVENT_BYTES = 8 * 2**20
#: Each line of an event is an object until it ends. JSON that is spread over lines has some hundreds.
MOST_LINES = 2**14
_LINE_END = re.compile(rb"\r\n|\n|\r")


class TooLong(ValueError):
    """An event, or an answer in place of events, is longer than may be held in memory."""

    def __init__(self, what: str = "an event", most: int = LONGEST_EVENT_BYTES, unit: str = "bytes") -> None:
        super().__init__(f"{what} is longer than {most} {unit}")


class Event(NamedTuple):
    """One server-sent event."""

    name: bytes
    data: bytes


class BodyBeginning:
    """Decides whether a body that comes in pieces begins a JSON document, or events."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        #: What has come of a byte order mark.
        self._held = b""

    def feed(self, data: bytes) -> bool | None:
        """Returns whether the pieces up to this one begin a JSON document; None if they do not show it yet."""
        data = self._held + data
        if BYTE_ORDER_MARK.startswith(data):
            self._held = data
            return None
        self._held = b""
        first = data.removeprefix(BYTE_ORDER_MARK).lstrip()[:1]
        return first in (b"{", b"[") if first else None


class EventSplitter:
    """Splits bytes, cut anywhere, into server-sent events, by WHATWG's standard: any line break, comments, a BOM."""

    __slots__ = ("_data", "_data_bytes", "_is_first", "_line", "_name", "_skips_line_feed")

    def __init__(self) -> None:
        # What has come of a line. It grows in place, or many small pieces would cost O(n^2).
        self._line = bytearray()
        self._skips_line_feed = False
        self._is_first = True
        self._name = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yields the events that end within these bytes. To feed more, it must have been read to its end.

        Raises TooLong.
        """
        data = self._trimmed(data)
        if not data:
            return
        *lines, rest = _LINE_END.split(data)
        begun = self._line
        for line in lines:
            if begun:
                begun += line
                event = self._take(bytes(begun))
                begun.clear()
            else:
                event = self._take(line)
            if event is not None:
                yield event
        if rest:
            begun += rest
            if len(begun) + self._data_bytes > LONGEST_EVENT_BYTES:
                raise TooLong
        self._skips_line_feed = data.endswith(b"\r")

    def _trimmed(self, data: bytes) -> bytes:
        """Returns the bytes without the second half of a line break, and before an event without its empty lines."""
        if self._skips_line_feed and data[:1] == b"\n":
            data = data[1:]
            self._skips_line_feed = False
        if self._line or self._data or self._name:
            return data
        rest = data.lstrip(b"\r\n")
        if len(rest) < len(data):
            self._is_first = False
            self._skips_line_feed = not rest and data.endswith(b"\r")
        return rest

    @property
    def is_done(self) -> bool:
        """True if the bytes that are no whole event yet are a [DONE] without its empty line."""
        line = bytes(self._line)
        field, _, value = line.partition(b":")
        data = [*self._data, value.removeprefix(b" ")] if field == b"data" else self._data
        return b"\n".join(data).startswith(b"[DONE]")

    def _take(self, line: bytes) -> Event | None:
        """Takes one line, and returns the event that it ends."""
        if self._is_first:
            line = line.removeprefix(BYTE_ORDER_MARK)
            self._is_first = False
        if not line:
            event = Event(self._name, b"\n".join(self._data)) if self._name or self._data else None
            self._name, self._data, self._data_bytes = b"", [], 0
            return event
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(line)
            if self._data_bytes > LONGEST_EVENT_BYTES:
                raise TooLong
            if len(self._data) > MOST_LINES:
                raise TooLong("an event", MOST_LINES, "lines")
        elif field == b"event":
            self._name = value
        return None


class StreamJudge:
    """Judges a stream from those of its events that are given to it.

    An event that holds no error, no finish reason, no usage and is not the last one need not be given. choices: how
    many were requested (`n`).
    """

    __slots__ = ("_choices", "_finished", "_form", "_has_part", "fault", "has_begun", "has_ended")

    def __init__(self, form: Form, choices: int = 1) -> None:
        self._form = form
        self._choices = choices
        self._finished: set[int] = set()
        self._has_part = False
        #: Whether the last event of the answer has come.
        self.has_ended = False
        #: What is wrong with the stream; None while it may still be an answer. Nothing after it counts.
        self.fault: Judgement | None = None
        #: Whether its first content has come, or the end of an answer without any.
        self.has_begun = False

    @property
    def is_complete(self) -> bool:
        """True if the answer is complete, should the stream end now, cleanly."""
        return self.has_begun and self.fault is None and (self.has_ended or len(self._finished) >= self._choices)

    def take(self, event: Event) -> EventReading:
        """Takes the next event, and returns what it holds."""
        reading = read_event(self._form, event.name, event.data)
        if self.has_ended or self.fault is not None:  # nothing counts after the end
            return reading
        self.fault = reading.fault
        self._has_part = self._has_part or reading.is_part
        self._finished.update(reading.finished)
        if reading.has_content or reading.finished:
            self.has_begun = True
        self.has_ended = reading.is_last
        return reading

    def end(self) -> Judgement:
        """Returns the judgement of a stream that has ended cleanly."""
        if self.fault is not None:
            return self.fault
        if self.is_complete:
            return ANSWER
        if self.has_begun or self._has_part:
            return Judgement(Verdict.INCOMPLETE, "ended the stream before the end of the answer")
        return Judgement(Verdict.NOT_AN_ANSWER, "ended the stream before it began")


class StreamBeginning:
    """Reads the beginning of what came for a streamed request, until it is clear whether it is an answer.

    What the bytes are decides, not the content type: a JSON document is read to its end and judged as a whole answer.
    """

    __slots__ = ("_body", "_form", "_judge", "_splitter", "is_document")

    def __init__(self, form: Form, choices: int = 1) -> None:
        self._form = form
        self._body = BodyBeginning()
        self._splitter = EventSplitter()
        self._judge = StreamJudge(form, choices)
        #: Whether the bytes are a JSON document; None until the first of them has come.
        self.is_document: bool | None = None

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes. Returns whether it is clear now: the first content has come, or an error."""
        if self.is_document is None:
            self.is_document = self._body.feed(data)
        if self.is_document:
            return False
        judge = self._judge
        for event in self._splitter.feed(data):
            judge.take(event)
            # What follows the first content in the same piece is not read yet: the verdict must not depend on how the
            # network cut the stream.
            if judge.has_begun or judge.fault is not None:
                return True
        return False

    def judge(self, body: bytes) -> Judgement:
        """Returns the judgement of a beginning that is clear, or of a body that has ended before that. body: all of it.

        A stream that has begun is an answer until its end shows that it is not; see StreamJudge.
        """
        if self.is_document:
            return judge_whole(self._form, body)
        judge = self._judge
        if judge.has_begun:
            return ANSWER
        if judge.fault is None and self._splitter.is_done:
            judge.take(Event(b"", b"[DONE]"))
        return judge.end()
