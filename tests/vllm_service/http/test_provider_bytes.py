"""Every byte of a provider's answer counts towards a limit, whatever part of the message it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from benchmarks.linear_parsers import SilentTransport
from vllm_service.http.client_connection import LONGEST_ERROR_BYTES, LONGEST_HEAD_BYTES, Connection, ProviderAnswer
from vllm_service.http.upstream import CutShort
from vllm_service.http.write_buffer import WriteBuffer

OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
FAILED = b"HTTP/1.1 500 No\r\ncontent-length: 99999999\r\n\r\n"
ENDLESS = {
    "a status line": (b"HTTP/1.1 200 ", b"O", LONGEST_HEAD_BYTES, "head"),
    "headers": (OK, b"a: b\r\n", LONGEST_HEAD_BYTES, "head"),
    "one header": (OK + b"a: ", b"b", LONGEST_HEAD_BYTES, "head"),
    "interim answers": (b"", b"HTTP/1.1 102 Processing\r\na: b\r\n\r\n", LONGEST_HEAD_BYTES, "head"),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"a: b\r\n", LONGEST_HEAD_BYTES, "trailer"),
    "one trailer": (CHUNKED + b"1\r\nx\r\n0\r\na: ", b"b", LONGEST_HEAD_BYTES, "trailer"),
    "an extension of a chunk": (CHUNKED + b"1;", b"e", LONGEST_HEAD_BYTES, "trailer"),
    "an error's body": (FAILED, b"x", LONGEST_ERROR_BYTES, "answer"),
}


def connected() -> tuple[Connection, SilentTransport, asyncio.Future[ProviderAnswer]]:
    loop = asyncio.get_running_loop()
    connection, transport = Connection(loop, WriteBuffer(loop), lambda _: None), SilentTransport()
    connection.connection_made(transport)
    return connection, transport, connection.request(b"", 1.0, 1.0, is_alone=True)


def endless(begin: bytes, part: bytes, piece_bytes: int) -> Iterator[bytes]:
    whole = part * max(1, piece_bytes // len(part))
    return chain((begin,) if begin else (), repeat(whole))


@pytest.mark.parametrize("piece_bytes", [1, 1000, 65536])
@pytest.mark.parametrize(("begin", "part", "most", "what"), ENDLESS.values(), ids=ENDLESS)
async def test_what_has_no_end_is_cut_at_its_limit(
    begin: bytes, part: bytes, most: int, what: str, piece_bytes: int
) -> None:
    connection, transport, waiting = connected()
    for piece in endless(begin, part, max(piece_bytes, most // 65536)):
        connection.data_received(piece)
        if transport.is_closed:
            break
    assert connection.received_bytes <= most + len(begin) + 2 * max(piece_bytes, len(part), 16)
    with pytest.raises(CutShort, match=f"{what} is longer than {most} bytes"):
        await waiting


async def test_a_trailer_is_no_header() -> None:
    connection, _, waiting = connected()
    connection.data_received(CHUNKED + b"1\r\nx\r\n0\r\nretry-after: 9\r\n\r\n")
    answer = await waiting
    assert answer.body == b"x"
    assert b"retry-after" not in answer.headers


@pytest.mark.parametrize("piece_bytes", [1, 7, 100])
async def test_a_long_body_in_small_pieces_is_no_fault_whatever_is_around_its_chunks(piece_bytes: int) -> None:
    """What is between two pieces of the body counts anew for each: all of it may be longer than the body."""
    connection, _, waiting = connected()
    message = CHUNKED + b"1;why=not\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    assert len(message) > 2 * LONGEST_HEAD_BYTES
    for start in range(0, len(message), piece_bytes):
        connection.data_received(message[start : start + piece_bytes])
    assert (await waiting).body == b"x" * 20_000


async def test_a_connection_that_ends_within_its_answer_was_not_stale() -> None:
    """Such a request is not sent a second time: it may have cost GPU time."""
    connection, _, waiting = connected()
    before = connection.was_stale
    connection.data_received(CHUNKED + b"1\r\nx\r\n")
    assert (before, connection.was_stale) == (True, False)
    connection.connection_lost(None)
    with pytest.raises(CutShort):
        await waiting
