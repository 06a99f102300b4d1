"""Passes a stream's events on, whole events only, and reads the usage chunk in passing.

A chunk is searched for a few byte strings and is not parsed, because this runs for every chunk of every stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vllm_service.domain.usage import BYTES_PER_TOKEN, ReportedUsage
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.provider_request import EventUsage, find_usage
from vllm_service.http.upstream import CutShort

#: An unfinished event is held in memory; one that is longer ends the stream.
LONGEST_EVENT_BYTES = 16 * 2**20
# An event ends with an empty line. The third line break of the standard, a lone \r, is not looked for.
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
# Some providers write `"usage": null` into every chunk: only an object makes a chunk worth parsing.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_EVENT = re.compile(rb".*?(?:\n\n|\r\n\r\n)", re.DOTALL)
# For estimates only: what an event holds besides its text, at most, and how many events without text end a stream.
_EVENT_BYTES = 320
_EVENTS_OF_AN_END = 2
_DATA = re.compile(rb"(?:^|\n)data: ?(\{.*\})", re.DOTALL)


class EventRelay:
    """Passes events to `send`. An event that came in part is held until its rest comes.

    So a broken stream ends between two events, and the error event can follow. finish: called with this relay, which
    has the usage by then, the event that carries it, and whether the event holds nothing else; its result is passed on
    instead of the event, and b"" hides the event.
    """

    __slots__ = (
        "_finish",
        "_held",
        "_operation",
        "_send",
        "events",
        "events_at_usage",
        "is_complete",
        "received_bytes",
        "usage",
    )

    def __init__(
        self, operation: Operation, send: Callable[[bytes], None], finish: Callable[[EventRelay, bytes, bool], bytes]
    ) -> None:
        self._operation = operation
        self._send = send
        self._finish = finish
        self._held = b""
        #: The counts that came last; None until some have come.
        self.usage: ReportedUsage | None = None
        #: Whether the operation's last event has come; a stream that ends without it is broken.
        self.is_complete = False
        #: How many events have come, the last one included.
        self.events = 0
        #: How many of them when the usage came.
        self.events_at_usage = 0
        #: The bytes of whole events that have come.
        self.received_bytes = 0

    @property
    def answer_tokens(self) -> int:
        """An estimate: about one token comes with each event, and [DONE] is none; more where events are long."""
        events = self.events - self.is_complete
        return max(0, events, (self.received_bytes - self.events * _EVENT_BYTES) // BYTES_PER_TOKEN)

    @property
    def tokens_after_usage(self) -> int:
        """An estimate of what came after the usage; 0 where only the stream's end did, as is usual."""
        after = self.events - self.events_at_usage - self.is_complete
        return after if self.usage is not None and after > _EVENTS_OF_AN_END else 0

    def receive(self, data: bytes) -> None:
        """Takes the next bytes of the stream, cut anywhere.

        Raises CutShort for an event that is longer than LONGEST_EVENT_BYTES.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        # Most chunks end with an event: these are passed on without a copy.
        if not data.endswith(_EVENT_ENDS):
            end = _after_last_event(data)
            self._held = data[end:]
            if len(self._held) > LONGEST_EVENT_BYTES:
                raise CutShort(f"an event is longer than {LONGEST_EVENT_BYTES} bytes")
            data = data[:end]
            if not data:
                return
        self.received_bytes += len(data)
        self.events += data.count(b"data:")  # too many where a text holds "data:"; it is for estimates only
        # The cheap test comes first; it is false for most chunks.
        if b'"usage"' in data and _USAGE.search(data):
            data = self._with_usage(data)
        operation = self._operation
        if operation.end_hint in data and operation.last_event.search(data):
            self.is_complete = True
        if data:
            self._send(data)

    def _with_usage(self, data: bytes) -> bytes:
        """Returns the events with those that carry usage replaced by what `finish` returns for them.

        A deeper member may have the name, too, so an event counts only if its JSON has usage where providers send it.
        """
        passed = []
        for event in _EVENT.findall(data):
            found = None
            if _USAGE.search(event) and (match := _DATA.search(event)):
                found = _usage_in_event(match.group(1))
            if found is None or found.usage is None:
                passed.append(event)
                continue
            self.usage = found.usage.after(self.usage)
            self.events_at_usage = self.events
            passed.append(self._finish(self, event, found.is_only_usage))
        return b"".join(passed)


def _after_last_event(data: bytes) -> int:
    """Returns the position behind the last whole event; 0 if there is none."""
    # rfind gives -1 for nothing found, so 1 and 3 mean that there is no such end.
    end_by_lf = data.rfind(b"\n\n") + 2
    end_by_crlf = data.rfind(b"\r\n\r\n") + 4
    return max(end_by_lf if end_by_lf > 1 else 0, end_by_crlf if end_by_crlf > 3 else 0)


def _usage_in_event(document: bytes) -> EventUsage | None:
    """Returns what `find_usage` finds; None for data that is not JSON, which is passed on as it came."""
    try:
        return find_usage(document)
    except ValueError:
        return None
