"""No parser and no relay works more than its bytes are worth, whatever they are and however they are cut.

A message of eight times the bytes may take eight times the CPU time, and three times that on a machine with other work.
What is quadratic takes 64 times as long.
"""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from benchmarks.linear_parsers import Parser, parsers, pieces_of

GROWTH, MOST_TIMES = 8, 24
#: What is quicker than this is not worth a comparison.
FLOOR_SECONDS = 0.005
ATTEMPTS = 4
#: The smaller of two messages, by the size of its pieces: as long as the larger one takes about half a second.
BYTES = {1: 8_000, 7: 25_000, 100: 40_000, 65536: 140_000}


def cpu_seconds(parser: Parser, size: int, piece_bytes: int) -> float:
    pieces = pieces_of(parser.message(size), piece_bytes)
    loop = asyncio.new_event_loop()
    gc.collect()
    began = time.process_time()
    try:
        loop.run_until_complete(parser.read(pieces))
        return time.process_time() - began
    finally:
        loop.close()


@pytest.mark.parametrize("piece_bytes", BYTES)
@pytest.mark.parametrize("parser", [pytest.param(one, id=f"{one.name}, {one.kind}") for one in parsers()])
def test_cpu_time_grows_no_faster_than_bytes(parser: Parser, piece_bytes: int) -> None:
    size = BYTES[piece_bytes]
    for _ in range(ATTEMPTS):
        before = cpu_seconds(parser, size, piece_bytes)
        after = cpu_seconds(parser, GROWTH * size, piece_bytes)
        if after <= MOST_TIMES * before + FLOOR_SECONDS:
            return
    pytest.fail(f"{GROWTH} times {size} bytes took {after:.3f} s, and {size} bytes {before:.3f} s")
