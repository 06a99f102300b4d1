"""CPU per byte of everything that reads or passes on what others send, by the size of message and pieces.

    python -m benchmarks.linear [--json] [--quick]

Each parser and relay gets messages of every kind that it may get, cut into pieces of 1, 7, 100 and 65,536 bytes. What
is linear has about the same nanoseconds a byte for each size of message. The stall is the longest time for which one
piece held the event loop, in the largest message. Nothing is sent anywhere: the pieces are in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import overload

from rich.console import Console
from rich.table import Table

from benchmarks.linear_parsers import Parser, parsers, pieces_of

#: Message sizes by the size of their pieces: a piece costs a call, so small pieces get smaller messages.
SIZES = {
    1: (16_000, 128_000),
    7: (64_000, 512_000),
    100: (250_000, 2_000_000),
    65536: (1_000_000, 8_000_000),
}


@dataclass(frozen=True)
class Row:
    """One parser with one kind of message and one size of pieces."""

    parser: str
    message: str
    piece_bytes: int
    #: By the size of the message.
    ns_per_byte: dict[int, float]
    longest_stall_ms: float


class Timed(Sequence[bytes]):
    """Pieces, with the longest time between one and the next."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self.longest_seconds = 0.0

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return self._pieces[index]

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            began = time.perf_counter()
            yield piece
            self.longest_seconds = max(self.longest_seconds, time.perf_counter() - began)


def measured(parser: Parser, piece_bytes: int, sizes: Sequence[int]) -> Row:
    """Returns the row of one parser, with the shortest time of three."""
    ns_per_byte = {}
    stalls: list[float] = []
    for size in sizes:
        pieces = pieces_of(parser.message(size), piece_bytes)
        seconds = []
        stalls = []
        for _ in range(3):
            timed = Timed(pieces)
            began = time.process_time()
            asyncio.run(parser.read(timed))
            seconds.append(time.process_time() - began)
            stalls.append(timed.longest_seconds)
        ns_per_byte[size] = min(seconds) / size * 1e9
    return Row(parser.name, parser.kind, piece_bytes, ns_per_byte, min(stalls) * 1000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table, or JSON; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="an eighth of the bytes, to see that it runs")
    options = parser.parse_args(arguments)
    sizes = {piece: [size // (8 if options.quick else 1) for size in each] for piece, each in SIZES.items()}
    rows = [measured(one, piece, each) for one in parsers() for piece, each in sizes.items()]
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    else:
        Console(width=140).print(table(rows))
    return 0


def table(rows: Sequence[Row]) -> Table:
    """Returns one line for each parser and message: small message / large one by the size of the pieces."""
    columns = [f"pieces of {piece}" for piece in SIZES]
    shown = Table("parser", "message", *columns, "longest stall", title="CPU ns a byte, message of an eighth / whole")
    for start in range(0, len(rows), len(SIZES)):
        group = rows[start : start + len(SIZES)]
        figures = [" / ".join(f"{value:.3g}" for value in row.ns_per_byte.values()) for row in group]
        longest = max(row.longest_stall_ms for row in group)
        shown.add_row(group[0].parser, group[0].message, *figures, f"{longest:.2f} ms")
    return shown


if __name__ == "__main__":
    sys.exit(main())
