"""What is written in one turn of the loop goes out at its end, in its order and in one piece."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from vllm_service.http.write_buffer import WriteBuffer, Writer


class Transport:
    """Remembers what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def writer_to(transport: Transport, write_buffer: WriteBuffer) -> Writer:
    writer = Writer(write_buffer)
    writer._transport = cast("Any", transport)
    return writer


async def test_pieces_of_one_turn_go_out_as_one_to_each_connection() -> None:
    write_buffer = WriteBuffer(asyncio.get_running_loop())
    transports = Transport(), Transport()
    writers = [writer_to(transport, write_buffer) for transport in transports]
    for piece in (b"a", b"b"):
        for writer in writers:
            writer.write(piece)
    assert [transport.written for transport in transports] == [[], []]
    await asyncio.sleep(0)
    assert [transport.written for transport in transports] == [[b"ab"], [b"ab"]]


async def test_what_is_flushed_goes_out_once() -> None:
    transport = Transport()
    writer = writer_to(transport, WriteBuffer(asyncio.get_running_loop()))
    writer.write(b"a")
    writer.flush()
    assert transport.written == [b"a"]
    await asyncio.sleep(0)
    assert transport.written == [b"a"]


async def test_what_goes_out_at_once_overtakes_nothing() -> None:
    transport = Transport()
    writer = writer_to(transport, WriteBuffer(asyncio.get_running_loop()))
    writer.write_now(b"a")
    assert transport.written == [b"a"]
    writer.write(b"b")
    writer.write_now(b"c")
    assert transport.written == [b"a"]
    writer.flush()
    assert transport.written == [b"a", b"bc"]
