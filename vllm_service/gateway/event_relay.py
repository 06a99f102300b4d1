"""A stream's events on their way: whole events only, looked at as little as can be, the usage chunk read in passing."""

from __future__ import annotations

import re
from collections.abc import Callable

from vllm_service.domain.usage import Usage
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.provider_request import Found, find_usage
from vllm_service.http.upstream import CutShort

LONGEST_EVENT_BYTES = 16 * 2**20
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_EVENT = re.compile(rb".*?(?:\n\n|\r\n\r\n)", re.DOTALL)
_DATA = re.compile(rb"(?:^|\n)data: ?(\{.*\})", re.DOTALL)


class EventRelay:
    """Passes events to `send`; one that came in part waits for its rest, so that a broken stream ends between two.

    finish: called with the event that carries usage, and says what is passed on in its place; b"" hides it.
    """

    __slots__ = ("_finish", "_held", "_operation", "_send", "events", "is_complete", "usage")

    def __init__(
        self, operation: Operation, send: Callable[[bytes], None], finish: Callable[[bytes, Usage, bool], bytes]
    ) -> None:
        self._operation = operation
        self._send = send
        self._finish = finish
        self._held = b""
        self.usage: Usage | None = None
        self.is_complete = False
        self.events = 0

    def receive(self, data: bytes) -> None:
        """The next bytes of the stream, cut anywhere. Raises CutShort for an event longer than LONGEST_EVENT_BYTES."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(_EVENT_ENDS):
            end = _after_last_event(data)
            self._held = data[end:]
            if len(self._held) > LONGEST_EVENT_BYTES:
                raise CutShort(f"an event is longer than {LONGEST_EVENT_BYTES} bytes")
            data = data[:end]
            if not data:
                return
        self.events += data.count(b"data:")
        if b'"usage"' in data and _USAGE.search(data):
            data = self._with_usage(data)
        operation = self._operation
        if operation.end_hint in data and operation.last_event.search(data):
            self.is_complete = True
        if data:
            self._send(data)

    def _with_usage(self, data: bytes) -> bytes:
        """Finds the event that carries usage among the others."""
        passed = []
        for event in _EVENT.findall(data):
            found = None
            if _USAGE.search(event) and (match := _DATA.search(event)):
                found = _found_in(match.group(1))
            if found is None or found.usage is None:
                passed.append(event)
                continue
            self.usage = found.usage
            passed.append(self._finish(event, found.usage, found.is_only_usage))
        return b"".join(passed)


def _after_last_event(data: bytes) -> int:
    """Where the last whole event ends."""
    end = data.rfind(b"\n\n") + 2
    windows = data.rfind(b"\r\n\r\n") + 4
    return max(end if end > 1 else 0, windows if windows > 3 else 0)


def _found_in(document: bytes) -> Found | None:
    try:
        return find_usage(document)
    except ValueError:
        return None
