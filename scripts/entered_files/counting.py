"""What was entered between two moments, in which order, and the bars for it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# The most files that each may enter.
BARS = {"gateway": 24, "worker": 8, "router": 14}


@dataclass(frozen=True, slots=True)
class Call:
    """A function began."""

    #: By the monotonic clock.
    at_ns: int
    #: Its path within the package.
    file: str
    #: Its qualified name.
    function: str


@dataclass(frozen=True, slots=True)
class Last:
    """The call that ends what is counted: of a function of this name, in a file whose path holds this word."""

    function: str
    in_path: str

    def __str__(self) -> str:
        return f"{self.function}() in a file whose path holds {self.in_path!r}"

    def is_it(self, call: Call) -> bool:
        """Whether this is that call."""
        name = re.split(r"\W", call.function)[-1]
        return name == self.function and self.in_path in call.file


@dataclass(frozen=True)
class Walk:
    """The way of one request through a package: its calls in order."""

    calls: tuple[Call, ...]

    @property
    def files(self) -> dict[str, list[str]]:
        """The functions that were entered by file, both in the order of their first entry."""
        found: dict[str, dict[str, None]] = {}
        for call in self.calls:
            found.setdefault(call.file, {})[call.function] = None
        return {file: list(functions) for file, functions in found.items()}

    @property
    def functions(self) -> int:
        """How many different ones were entered."""
        return sum(len(functions) for functions in self.files.values())

    @property
    def changes(self) -> int:
        """How often a call was in another file than the call before it."""
        return sum(one.file != next_one.file for one, next_one in zip(self.calls, self.calls[1:], strict=False))

    def to_json(self, name: str) -> dict[str, Any]:
        """Figures, bar, and every function by file."""
        figures = {"files": len(self.files), "functions": self.functions, "changes": self.changes}
        return {**figures, "bar": BARS[name], "entered": self.files}


class LastCallMissing(Exception):
    """The call that ends the count was not made: it has another name now, or the request failed."""


def walk_of(calls: Iterable[Call], windows: Sequence[tuple[int, int]], last: Last | None) -> Walk:
    """Returns the walk with the fewest files, then calls, of all windows, up to and with `last`.

    The fewest, because what runs beside the requests from time to time falls into some windows and not into others.
    Raises LastCallMissing.
    """
    ordered = sorted(calls, key=lambda call: call.at_ns)
    walks = [_until(last, [call for call in ordered if begin <= call.at_ns <= end]) for begin, end in windows]
    return min(walks, key=lambda walk: (len(walk.files), len(walk.calls)))


def _until(last: Last | None, calls: list[Call]) -> Walk:
    if last is None:
        return Walk(tuple(calls))
    for number, call in enumerate(calls):
        if last.is_it(call):
            return Walk(tuple(calls[: number + 1]))
    raise LastCallMissing(
        f"none of {len(calls)} calls was {last}. Has it been renamed? Then name it in scripts/entered_files/driven.py."
    )
