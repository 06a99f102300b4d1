"""A worker's output lines: cut anywhere, bounded, and followed by readers of any speed."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from runpod_emulator.endpoint.output import LONGEST_LINE, MOST_LINES, LogLine, WorkerOutput
from runpod_emulator.workers.output_pipe import PIECE_BYTES, WholeLines


def output() -> WorkerOutput:
    return WorkerOutput(lambda: 1_000_000)


async def read(kept: WorkerOutput, number: int = 0) -> list[LogLine]:
    kept.end("end")
    return [line async for lines in kept.follow(number, 60) for line in lines]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\nc"], ["ab", "c"]),
        ([b"a\r", b"\nb\r\n\n\nc\rd"], ["a", "b", "c", "d"]),
        (["ä😀\n".encode()[:3], "ä😀\n".encode()[3:]], ["ä😀"]),
        ([b"\xff\xfe\n"], ["\ufffd\ufffd"]),
        ([b"x" * (2 * LONGEST_LINE + 1)], ["x" * LONGEST_LINE, "x" * LONGEST_LINE, "x"]),
        ([b"x" * (LONGEST_LINE + 1) + b"\ny"], ["x" * LONGEST_LINE, "x", "y"]),
        ([], []),
    ],
)
async def test_lines_are_whole_however_they_come(pieces: list[bytes], expected: list[str]) -> None:
    kept = output()
    for piece in pieces:
        kept.add(piece)
    lines = await read(kept)
    assert [line.text for line in lines] == [*expected, "end"]
    assert [line.source for line in lines] == [*["container"] * len(expected), "system"]
    assert len({line.at_us for line in lines}) == len(lines)


async def test_a_reader_that_comes_late_or_reads_slowly_is_told_how_many_lines_it_lost() -> None:
    kept = output()
    kept.add(b"first\n")
    reader = kept.follow(0, 60)
    assert [line.text for line in await anext(reader)] == ["first"]
    for number in range(MOST_LINES + 7):
        kept.add(b"%d\n" % number)
    lines = await anext(reader)
    assert (lines[0].source, lines[0].text.split()[0]) == ("system", "7")
    assert [line.text for line in lines[1:]] == [str(number) for number in range(7, MOST_LINES + 7)]
    assert lines[0].at_us < lines[1].at_us
    await reader.aclose()


async def test_an_endless_line_and_endless_lines_take_bounded_memory() -> None:
    kept = output()
    for _ in range(400):
        kept.add(b"x" * 64 * 1024)
    lines = await read(kept)
    assert sum(len(line.text) for line in lines) < 5_000_000
    kept.forget()
    assert len(await read(kept, kept.tail(5))) == 1


async def test_a_tail_and_a_time_choose_where_to_begin() -> None:
    times = count(10, 10)
    kept = WorkerOutput(lambda: next(times))
    kept.add(b"a\nb\nc\n")
    assert [kept.tail(0), kept.tail(2), kept.tail(9)] == [3, 1, 0]
    assert [kept.since(at_us) for at_us in (0, 10, 11, 30, 31)] == [0, 0, 1, 2, 3]
    assert [line.text for line in await read(kept, kept.since(11))] == ["b", "c", "end"]


async def test_a_pause_is_reported_and_the_next_line_wakes_the_reader() -> None:
    kept = output()
    reader = kept.follow(0, 0.01)
    assert await anext(reader) == []
    waiting = asyncio.ensure_future(anext(kept.follow(0, 60)))
    await asyncio.sleep(0)
    kept.add(b"now\n")
    assert [line.text for line in await waiting] == ["now"]


LONG = b"x" * PIECE_BYTES


@pytest.mark.parametrize(
    ("pieces", "passed_on"),
    [
        ([b"a\nb", b"c\n"], [b"a\n", b"bc\n"]),
        ([b"a", b"b", b"\n"], [b"ab\n"]),
        ([b"a\nb\n"], [b"a\nb\n"]),
        ([b"no end"], [b"no end\n"]),
        ([LONG, b"y", b"z\n"], [LONG + b"y", b"z\n"]),
        ([], []),
    ],
)
def test_a_terminal_gets_whole_lines(pieces: list[bytes], passed_on: list[bytes]) -> None:
    put: list[bytes] = []
    lines = WholeLines(put.append)
    for piece in pieces:
        lines.add(piece)
    lines.close()
    assert put == passed_on
