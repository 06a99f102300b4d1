"""The files and functions that were entered between two moments, and the bars for their number. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: The most files that each may enter.
BARS = {"gateway": 28, "worker": 10, "router": 19}


@dataclass(frozen=True, slots=True)
class Call:
    """The begin of a function."""

    #: By the monotonic clock.
    at_ns: int
    #: Its path within the package.
    file: str
    #: Its qualified name.
    function: str


@dataclass(frozen=True, slots=True)
class Last:
    """A description of the call that ends the count."""

    #: The function's name.
    function: str
    #: A part of its file's path.
    in_path: str

    def __str__(self) -> str:
        return f"{self.function}() in a file whose path contains {self.in_path!r}"

    def matches(self, call: Call) -> bool:
        """Returns whether the call fits the description."""
        name = re.split(r"\W", call.function)[-1]
        return name == self.function and self.in_path in call.file


@dataclass(frozen=True)
class Walk:
    """The way of one request through a package: its calls in order."""

    calls: tuple[Call, ...]

    @property
    def files(self) -> dict[str, list[str]]:
        """Returns the entered functions by file, both in the order of their first entry."""
        found: dict[str, dict[str, None]] = {}
        for call in self.calls:
            found.setdefault(call.file, {})[call.function] = None
        return {file: list(functions) for file, functions in found.items()}

    @property
    def functions(self) -> int:
        """Returns how many different functions were entered."""
        return sum(len(functions) for functions in self.files.values())

    @property
    def changes(self) -> int:
        """Returns how often a call was in another file than the call before it."""
        return sum(one.file != next_one.file for one, next_one in zip(self.calls, self.calls[1:], strict=False))

    def to_json(self, name: str) -> dict[str, Any]:
        """Returns the figures, the bar, and every function by file."""
        figures = {"files": len(self.files), "functions": self.functions, "changes": self.changes}
        return {**figures, "bar": BARS[name], "entered": self.files}


class LastCallMissing(Exception):
    """Is raised if the call that ends the count was not made: it has another name now, or the request failed."""


def walk_of(calls: Iterable[Call], windows: Sequence[tuple[int, int]], last: Last | None) -> Walk:
    """Returns the walk with the fewest files, then calls, of all windows, each up to and including `last`.

    Raises LastCallMissing.
    """
    # The fewest, because periodic work beside the requests falls into some windows and not into others.
    ordered = sorted(calls, key=lambda call: call.at_ns)
    walks = [_until(last, [call for call in ordered if begin <= call.at_ns <= end]) for begin, end in windows]
    return min(walks, key=lambda walk: (len(walk.files), len(walk.calls)))


def _until(last: Last | None, calls: list[Call]) -> Walk:
    if last is None:
        return Walk(tuple(calls))
    for number, call in enumerate(calls):
        if last.matches(call):
            return Walk(tuple(calls[: number + 1]))
    raise LastCallMissing(
        f"none of {len(calls)} calls was {last}. If it was renamed, change its name in scripts/entered_files/driven.py."
    )
