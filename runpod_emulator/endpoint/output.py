"""A worker's latest output lines, for readers that follow them: a slow one loses lines, and never holds the worker."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from runpod_emulator.signals import Signal

Source = Literal["container", "system"]

#: What is kept of one worker. As many lines as RunPod's log stream hands out at most (its schema of 2026-08).
MOST_LINES = 5000
MOST_CHARACTERS = 4 * 1024 * 1024
#: A longer line is several.
LONGEST_LINE = 16 * 1024
LINE_ENDS = re.compile(rb"[\r\n]+")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. No two lines of a worker have the same time, so it is also a line's name."""

    #: Microseconds since 1970.
    at_us: int
    source: Source
    text: str


class WorkerOutput:
    """The latest lines of one worker, until it has ended and beyond.

    now_us: returns microseconds since 1970.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.has_ended = False
        self._now_us = now_us
        self._lines: deque[LogLine] = deque()
        self._characters = 0
        #: The number of the first line that is kept, counted from the worker's start.
        self._first = 0
        self._last_us = 0
        self._rest = b""
        self._changed = Signal()

    def add(self, data: bytes) -> None:
        """Adds output as it comes, cut anywhere. An unfinished line waits for its rest; blank lines are left out."""
        *lines, self._rest = LINE_ENDS.split(self._rest + data)
        while len(self._rest) > LONGEST_LINE:
            lines.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        for line in filter(None, lines):
            for begin in range(0, len(line), LONGEST_LINE):
                self._append("container", line[begin : begin + LONGEST_LINE].decode(errors="replace"))
        self._changed.notify_all()

    def report(self, text: str) -> None:
        """Adds a line of the system about the worker."""
        self._append("system", text)
        self._changed.notify_all()

    def end(self, text: str) -> None:
        """Ends the output with a line of the system: readers get what there is, and then the end."""
        self.add(b"\n")
        self.has_ended = True
        self.report(text)

    def forget(self) -> None:
        """Drops all lines."""
        self._first += len(self._lines)
        self._lines.clear()
        self._characters = 0

    def tail(self, count: int) -> int:
        """Returns the number of the line from which on there are at most `count`."""
        return self._first + max(0, len(self._lines) - count)

    def since(self, at_us: int) -> int:
        """Returns the number of the first line of this time or later."""
        earlier = sum(line.at_us < at_us for line in self._lines)
        return self._first + earlier

    async def follow(self, number: int, pause_seconds: float) -> AsyncGenerator[list[LogLine], None]:
        """Yields the lines from this number on as they come, until the worker has ended.

        An empty list says that there was none for `pause_seconds`. Lines that were dropped before the reader came to
        them are one line of the system that counts them.
        """
        while True:
            lines = list(self._from(number))
            number = self._first + len(self._lines)
            if lines:
                yield lines
            elif self.has_ended:
                return
            elif not await self._changed.wait(pause_seconds):
                yield []

    def _from(self, number: int) -> Iterator[LogLine]:
        lost = self._first - number
        kept = list(islice(self._lines, max(0, -lost), None))
        if lost > 0:
            at_us = kept[0].at_us - 1 if kept else self._last_us
            yield LogLine(at_us, "system", f"{lost} lines were dropped: they were not read fast enough")
        yield from kept

    def _append(self, source: Source, text: str) -> None:
        # Two more: the line that counts lost ones has a time of its own, just before the first that is kept.
        self._last_us = max(self._now_us(), self._last_us + 2)
        self._lines.append(LogLine(self._last_us, source, text))
        self._characters += len(text)
        while len(self._lines) > MOST_LINES or self._characters > MOST_CHARACTERS:
            self._characters -= len(self._lines.popleft().text)
            self._first += 1
