"""Passes a stream's events on, whole events only, and reads those that hold more than a part of the text.

An event is searched for a few byte strings and is not parsed as long as it is an ordinary chunk, because this runs for
every chunk of every stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vllm_service.domain.answers import DONE as IS_DONE
from vllm_service.domain.answers import FOR_RESPONSES, EventReading, Form, Judgement
from vllm_service.domain.event_stream import (
    BYTE_ORDER_MARK,
    LONGEST_EVENT_BYTES,
    MOST_LINES,
    Event,
    EventSplitter,
    StreamJudge,
    TooLong,
)
from vllm_service.domain.reported_usage import ReportedUsage
from vllm_service.domain.usage import BYTES_PER_TOKEN, usage_of
from vllm_service.gateway.operations import Operation
from vllm_service.http.upstream import CutShort

DONE = b"data: [DONE]\n\n"
# An event ends with an empty line; a line ends with \n, \r\n or \r.
_EVENT_ENDS = (b"\n\n", b"\n\r\n", b"\r\r")
_LONGEST_END_BYTES = len(b"\r\n\r\n")
_OBJECT_ENDS = (b"}\n\n", b"}\r\n\r\n", b"}\r\r")
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
# With any number of empty lines behind it.
_EVENT_END_AND_MORE = re.compile(rb"(?>\r\n|\n|\r)[\r\n]+")
# Some providers write `"usage": null` into every chunk: only an object makes a chunk worth reading.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
# An empty one, which some providers write into every chunk, is none.
_FINISH_REASON = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
_LAST_OF_RESPONSE = re.compile(rb"response\.(?:completed|incomplete|failed)")
# What every event of an answer has once, as it is written with and without spaces.
_CHOICES = (b'"choices":[{', b'"choices": [{')
_UNFINISHED = (b'"finish_reason":null', b'"finish_reason": null')
_RESPONSE = (b'"type":"response.', b'"type": "response.')
# A line that is no comment. Without data it makes an event that SDKs fail at, such as `retry: 3000` alone.
_FIELD = re.compile(rb"(?:\A|[\r\n])[^:\r\n]")
# The letters of a JSON string, escaped ones included. The groups never overlap, so it cannot take long.
_LETTERS = rb'[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*'
_TEXT = re.compile(_LETTERS)
# Texts of several events, one a line: an escape does not reach over the end of a line.
_TEXTS = re.compile(rb"%b(?:\n%b)*" % (_LETTERS, _LETTERS))
_NAMED_TEXT = re.compile(rb'"(?:content|text|delta)": ?"(%b)"' % _LETTERS)
# So often the bytes around a stream's texts are looked at; where they keep changing, it is not worth more.
_MOST_ATTEMPTS_TO_LEARN = 4
# For estimates only: what an event holds besides its text, at most, and how many events without text end a stream.
_EVENT_BYTES = 320
_EVENTS_OF_AN_END = 2
# Of more that came together, halves are looked at on their own.
_MOST_READ_TOGETHER, _MOST_READ_TOGETHER_BYTES = 8, 4096


class EventRelay:
    """Passes events to `send`. An event that came in part is held until its rest comes.

    So a broken stream ends between two events, and the error event can follow. finish: called with this relay, which
    has the usage by then, the event that carries it, and whether the event holds nothing else; its result is passed on
    instead of the event, and b"" hides the event. choices: how many were requested.
    """

    __slots__ = (
        "_after_text", "_before_text", "_between_texts", "_finish", "_form", "_has_one_choice", "_held", "_is_first",
        "_judge", "_mark", "_marks", "_send", "_text_at", "_to_learn", "_unfinished", "events", "events_at_usage",
        "is_done", "others", "received_bytes", "usage",
    )  # fmt: skip

    def __init__(
        self,
        operation: Operation,
        send: Callable[[bytes], None],
        finish: Callable[[EventRelay, bytes, bool], bytes],
        choices: int = 1,
    ) -> None:
        self._form = operation.form
        self._marks = _RESPONSE if operation.form is Form.RESPONSES else _CHOICES
        # As this stream writes them.
        self._mark, self._unfinished = self._marks[0], _UNFINISHED[0]
        self._judge = StreamJudge(operation.form, choices)
        self._judge.has_begun = True  # a stream without content is not relayed
        self._has_one_choice = choices == 1
        self._send = send
        self._finish = finish
        # The event that has begun. It grows in place, or one that comes in many small pieces would cost O(n^2).
        self._held = bytearray()
        self._is_first = True
        # The bytes before and behind the text of this stream's chunks; most chunks differ in nothing else.
        # No data begins with the empty tuple; any bytes might come.
        self._before_text: bytes | tuple[bytes, ...] = ()
        self._after_text = self._between_texts = b""
        self._text_at = 0
        self._to_learn = _MOST_ATTEMPTS_TO_LEARN
        #: The counts that came last; None until some have come.
        self.usage: ReportedUsage | None = None
        #: Whether [DONE] has come.
        self.is_done = False
        #: How many events have come, the last one included.
        self.events = 0
        #: How many of these events had come when the usage did.
        self.events_at_usage = 0
        #: How many pieces besides ordinary chunks were passed on, such as a provider's comments.
        self.others = 0
        #: The bytes of whole events that have come.
        self.received_bytes = 0

    @property
    def answer_tokens(self) -> int:
        """An estimate: about one token comes with each event, and [DONE] is none; more where events are long."""
        events = self.events - self.is_done
        return max(0, events, (self.received_bytes - self.events * _EVENT_BYTES) // BYTES_PER_TOKEN)

    @property
    def tokens_after_usage(self) -> int:
        """An estimate of what came after the usage; 0 where only the stream's end did, as is usual."""
        after = self.events - self.events_at_usage - self.is_done
        return after if self.usage is not None and after > _EVENTS_OF_AN_END else 0

    @property
    def is_complete(self) -> bool:
        """True if the answer is complete, should the stream end now."""
        return self._judge.is_complete

    @property
    def fault(self) -> Judgement | None:
        """The error that came within the stream, or what came that is no part of an answer; None if none has come."""
        return self._judge.fault

    def receive(self, data: bytes) -> None:
        """Takes the next bytes of the stream, cut anywhere.

        Raises CutShort for an event that is longer than LONGEST_EVENT_BYTES, and once `fault` is set.
        """
        if self._held:
            data = self._whole_from_held(data)
        # Most chunks begin as those before, and differ in the letters of their text: these are not looked at.
        elif data.startswith(self._before_text):
            text = _TEXT.match(data, self._text_at)
            rest = data[text.end() if text else 0 :]
            count = 1 if rest == self._after_text else self._ordinary_chunks(data, rest)
            if count:
                self.events += count
                self.received_bytes += len(data)
                self._send(data)
                return
        if self._is_first or not data.endswith(_EVENT_ENDS):
            data = self._whole_events(data)
            if not data:
                return
        data = self._looked_at(data)
        if data:
            self.others += 1
            self._send(data)
        if self._judge.fault is not None:
            raise CutShort("an error came within the answer")

    def _looked_at(self, data: bytes) -> bytes:
        """Returns what is passed on of these whole events."""
        count = data.count(b"data:")  # too many where a text holds "data:"; it is for estimates only
        is_ordinary = self._are_ordinary(data, count)
        is_ordinary = is_ordinary or (not count and _FIELD.search(data) is None)
        are_many = not is_ordinary and (count > _MOST_READ_TOGETHER or len(data) > _MOST_READ_TOGETHER_BYTES)
        if are_many and (middle := _event_end_behind(data, len(data) // 2)):
            # Most of many events are ordinary all the same: to read an event takes 50 times as long as to look at it.
            first = self._looked_at(data[:middle])
            return first if self._judge.fault is not None else first + self._looked_at(data[middle:])
        self.events += count
        self.received_bytes += len(data)
        if not is_ordinary:
            return self._read(data)
        if count == 1 and self._to_learn:
            self._learn(data)
        return data

    def _whole_events(self, data: bytes) -> bytes:
        """Returns the whole events of the data, and holds the rest. Raises CutShort for one that is too long."""
        if not data.endswith(_EVENT_ENDS):
            end = _after_last_event(data)
            self._hold(data[end:])
            data = data[:end]
        if self._is_first and data:
            self._is_first = False
            data = data.removeprefix(BYTE_ORDER_MARK)  # OpenAI's SDKs would not see the first event
        return data

    def _whole_from_held(self, data: bytes) -> bytes:
        """Returns what is held and this piece, if an event ends in them; else nothing, and the piece is held, too.

        The bytes that were held before have no end of an event in them, so only where they meet the piece is looked at.
        """
        border = bytes(self._held[-_LONGEST_END_BYTES + 1 :]) + data
        if not border.endswith(_EVENT_ENDS) and not _after_last_event(border):
            self._hold(data)
            return b""
        whole, self._held = bytes(self._held) + data, bytearray()
        return whole

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > LONGEST_EVENT_BYTES:
            raise CutShort(str(TooLong()))

    def end(self) -> Judgement:
        """Ends a stream that has ended cleanly, and returns what it was. A complete one gets the [DONE] that it lacks.

        What remains of an event without its end is dropped, as every reader of such streams does.
        """
        judge = self._judge
        if self._held:
            splitter = EventSplitter()
            for _ in splitter.feed(bytes(self._held)):
                pass
            if splitter.is_done:
                judge.take(Event(b"", b"[DONE]"))
        judgement = judge.end()
        if judge.is_complete and not self.is_done and self._form is not FOR_RESPONSES:
            self._send(DONE)
        return judgement

    def _ordinary_chunks(self, data: bytes, rest: bytes) -> int:
        """Returns how many ordinary chunks these bytes are: one, several that differ in their texts alone, or 0.

        data: begins as the chunks before did. rest: what follows the letters of the first text.
        """
        after, between = self._after_text, self._between_texts
        if not rest.startswith(between):
            return 1 if self._is_ordinary_rest(rest) else 0
        if not rest.endswith(after):
            return 0
        texts = data[self._text_at : -len(after)]
        lines = texts.replace(between, b"\n")
        count = lines.count(b"\n") + 1
        # A line break within a text would be one too many.
        is_alike = len(texts) - len(lines) == (count - 1) * (len(between) - 1) and _TEXTS.fullmatch(lines)
        return count if is_alike else 0

    def _is_ordinary_rest(self, rest: bytes) -> bool:
        """Returns whether a chunk ends here, as an ordinary one does. rest: what follows the letters of its text."""
        return (
            rest.endswith(_OBJECT_ENDS)
            and b"data:" not in rest  # first, since it is found at once where several events came together
            and b"error" not in rest
            and (b'"usage"' not in rest or not _USAGE.search(rest))
            and ((self._has_one_choice and self._unfinished in rest) or not _FINISH_REASON.search(rest))
        )

    def _are_ordinary(self, data: bytes, count: int) -> bool:
        """Returns whether these events, `count` of them, are ordinary parts of an answer as far as bytes can show.

        They have neither an error nor usage nor the end of the answer in them, each holds what every event of an answer
        does, and each ends as an object does.
        """
        if b"error" in data or (b'"usage"' in data and _USAGE.search(data)):
            return False
        # Each count is a walk through all of the bytes: first comes what this stream had before.
        if not count or (data.count(self._mark) != count and not self._is_marked(data, count)):
            return False
        end = _OBJECT_ENDS[0]
        if data.count(end) != count:
            end = next((end for end in _OBJECT_ENDS[1:] if data.count(end) == count), b"")
        if not end or data.count(end[1:]) != count:  # something else stands between them
            return False
        if self._form is FOR_RESPONSES:
            return _LAST_OF_RESPONSE.search(data) is None
        is_open = self._has_one_choice and data.count(self._unfinished) == count
        return is_open or _FINISH_REASON.search(data) is None

    def _is_marked(self, data: bytes, count: int) -> bool:
        """Returns whether each event holds what every event of an answer does; keeps the way in which it is written."""
        for way, mark in enumerate(self._marks):
            if data.count(mark) == count:
                self._mark, self._unfinished = mark, _UNFINISHED[way]
                return True
        return False

    def _learn(self, data: bytes) -> None:
        """Takes the bytes around the text of an ordinary chunk."""
        self._to_learn -= 1
        found = _NAMED_TEXT.search(data)
        if found is not None:
            self._text_at = found.start(1)
            before, after = data[: self._text_at], data[found.end(1) :]
            self._before_text, self._after_text, self._between_texts = before, after, after + before

    def _read(self, data: bytes) -> bytes:
        """Reads events, and returns what is passed on of them. After the event that sets `fault` nothing is."""
        passed = []
        start = 0
        for found in _EVENT_END_AND_MORE.finditer(data):
            event, start = data[start : found.end()], found.end()
            try:
                passed.append(self._read_event(event))
            except TooLong as error:
                raise CutShort(str(error)) from None
            if self.fault is not None:
                self.events -= data.count(b"data:", start - len(event))
                return b"".join(passed)
        shown = b"".join(passed)
        return shown and shown + data[start:]  # one more line break

    def _read_event(self, event: bytes) -> bytes:
        """Reads one event, and returns what is passed on instead of it."""
        if _FIELD.search(event) is None:
            return event
        if len(event) > MOST_LINES and event.count(b"\n") + event.count(b"\r") > 2 * MOST_LINES:
            raise TooLong("an event", MOST_LINES, "lines")
        is_shown = False
        for parsed in EventSplitter().feed(event):
            reading = self._judge.take(parsed)
            if reading == IS_DONE:
                self.is_done = True
            if reading.fault is not None and self._judge.fault is not None:
                # SDKs know this event of a failed response. Any other error is worded by the gateway.
                return event if parsed.name == b"response.failed" else b""
            if reading.usage:
                return self._with_usage(event, reading)
            is_shown = not reading.is_blank
        return event if is_shown else b""

    def _with_usage(self, event: bytes, reading: EventReading) -> bytes:
        usage = usage_of(reading.usage)
        if usage is not None:
            self.usage = usage.after(self.usage)
            self.events_at_usage = self.events
        elif not reading.is_only_usage:
            return event
        return self._finish(self, event, reading.is_only_usage)


def _event_end_behind(data: bytes, position: int) -> int:
    """Returns the position behind the first event that ends after this position; 0 if nothing follows it."""
    found = _EVENT_END.search(data, position)
    return 0 if found is None or found.end() == len(data) else found.end()


def _after_last_event(data: bytes) -> int:
    """Returns the position behind the last whole event; 0 if there is none."""
    if b"\r" in data:
        # The final \r of "\n\r" may be half of a line break.
        searched = data[:-1] if data.endswith(b"\n\r") else data
        return max((found.end() for found in _EVENT_END.finditer(searched)), default=0)
    return data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
