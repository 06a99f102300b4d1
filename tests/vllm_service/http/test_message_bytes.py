"""Every byte of a request counts: trailers, extensions, sizes of chunks, blank lines. And work grows as bytes do."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
from collections.abc import Callable

import pytest

from tests.vllm_service.http.one_connection import Served, Wire, chunked, post, turns
from tests.waiting import until
from vllm_service.http.limits import ConnectionLimits

#: By how much a limit may be passed: one read, and what the parser gets at once.
READ = 65_536
HEAD = ConnectionLimits().head_bytes


async def taken(wire: Wire, data: bytes, piece: int = READ) -> int:
    """Returns how many bytes are read of what a caller sends until it is refused."""
    await wire.send(data, piece)
    await turns()
    return wire.sent


ENDLESS = {
    "one trailer": chunked(b"0\r\nx: " + b"y" * 5_000_000),
    "a trailer's name": chunked(b"0\r\n" + b"y" * 5_000_000),
    "many trailers": chunked(b"0\r\n" + b"x: y\r\n" * 800_000),
    "trailers after a body": chunked(b"5\r\nhello\r\n0\r\nx: " + b"y" * 5_000_000),
    "trailers after a large body": chunked(b"f4240\r\n" + b"z" * 1_000_000 + b"\r\n0\r\nx: " + b"y" * 5_000_000),
    "trailers of a path that takes no body": chunked(
        b"0\r\nx: " + b"y" * 5_000_000, path=b"/health/live", method=b"GET"
    ),
    "an extension": chunked(b"5;x=" + b"y" * 5_000_000),
    "an extension's quoted value": chunked(b'5;x="' + b"y" * 5_000_000),
    "extensions of each chunk": chunked(b"1;x=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\nz\r\n" * 100_000),
    "chunks of one byte": chunked(b"1\r\nz\r\n" * 1_000_000),
    "chunks of two bytes": chunked(b"2\r\nzz\r\n" * 1_000_000),
    "zeros before a size": chunked(b"0000000000000005\r\nhello\r\n" * 300_000),
    "blank lines": b"\r\n" * 2_500_000,
    "a target": b"GET /" + b"x" * 5_000_000,
    "a header": b"GET / HTTP/1.1\r\nx: " + b"y" * 5_000_000,
    "a header's name": b"GET / HTTP/1.1\r\n" + b"x" * 5_000_000,
    "headers of one byte": b"GET / HTTP/1.1\r\n" + b"x:\r\n" * 1_250_000,
    "a folded header": b"GET / HTTP/1.1\r\nx: y\r\n" + b" y\r\n" * 1_250_000,
    "spaces in a header": b"GET / HTTP/1.1\r\nx:" + b" " * 5_000_000,
    "spaces behind a header": b"GET / HTTP/1.1\r\nx: y" + b" " * 5_000_000,
    "a method": b"A" * 5_000_000,
}


@pytest.mark.parametrize("piece", [1_448, READ], ids=["packets", "reads"])
@pytest.mark.parametrize("kind", ENDLESS)
async def test_what_is_no_body_ends_at_the_size_of_a_head(kind: str, piece: int) -> None:
    wire = Served().connect()
    data = ENDLESS[kind]
    large = 1_000_000 * (1 + 1 / 8) if "large" in kind else 0
    assert await taken(wire, data, piece) <= large + 2 * HEAD + 3 * READ
    assert wire.is_refused
    assert wire.statuses[0] in (400, 413, 431)


@pytest.mark.parametrize("piece", [1, 7, 1_448])
async def test_a_trailer_that_never_ends_is_refused_at_any_piece_size(piece: int) -> None:
    wire = Served().connect()
    assert await taken(wire, chunked(b"0\r\nx: " + b"y" * 100_000), piece) <= HEAD + 2 * piece + 200
    assert wire.statuses == [431]


@pytest.mark.parametrize("piece", [1, 100, READ])
@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(chunked(b"3e8\r\n" + b"z" * 1_000 + b"\r\n0\r\n\r\n"), id="a chunk"),
        pytest.param(chunked(b"5\r\nhello\r\n" * 2_000 + b"0\r\n\r\n"), id="many small chunks"),
        pytest.param(chunked(b"64\r\n" + b"z" * 100 + b"\r\n" + b"0\r\nx: y\r\nz: a\r\n\r\n"), id="trailers"),
        pytest.param(chunked(b"5;x=y\r\nhello\r\n" * 1_000 + b"0\r\n\r\n"), id="extensions"),
        pytest.param(b"\r\n\r\n" + post(b"z" * 10_000), id="blank lines before"),
        pytest.param(post(b"z" * 50_000, b"x: %b\r\n" % (b"y" * 20_000)), id="a large head"),
    ],
)
async def test_what_callers_send_arrives_at_any_piece_size(request_bytes: bytes, piece: int) -> None:
    served = Served()
    wire = served.connect()
    for _ in range(3):
        assert await wire.send(request_bytes, piece)
        await turns()
    assert wire.statuses == [200] * 3
    assert len(set(served.bodies)) == 1
    assert set(served.bodies[0]) <= set(b"hello") | {ord("z")}


async def test_chunks_of_48_bytes_may_be_as_many_as_a_body_holds() -> None:
    served = Served()
    wire = served.connect()
    assert await wire.send(chunked(b"30\r\n" + b"z" * 48 + b"\r\n") + (b"30\r\n" + b"z" * 48 + b"\r\n") * 100_000)
    assert await wire.send(b"0\r\n\r\n")
    await until(lambda: [len(body) for body in served.bodies] == [48 * 100_001])


async def test_a_large_body_is_joined_beside_the_loop_and_nothing_overtakes_it() -> None:
    served = Served()
    wire = served.connect()
    large = bytes(range(256)) * 10_000
    await wire.send(post(b"first") + post(large) + post(b"last"))
    await until(lambda: len(served.bodies) >= 2 and wire.is_read())
    await wire.send((post(b"first") + post(large) + post(b"last"))[wire.sent :])
    await until(lambda: len(wire.statuses) == 3)
    assert served.bodies == [b"first", large, b"last"]


async def test_a_caller_who_leaves_while_its_body_is_joined_is_not_answered() -> None:
    served = Served()
    wire = served.connect()
    await wire.send(post(b"z" * 2_000_000))
    wire.transport.abort()
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)
    await turns()
    assert (served.bodies, served.server.budget.held_bytes) == ([], 0)


def calls_of(profile: cProfile.Profile) -> int:
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


async def work(data: bytes, piece: int) -> int:
    """Returns how many calls it takes to receive these bytes: they do not depend on the machine."""
    served = Served()
    wire = served.connect()
    profile = cProfile.Profile()
    loop_send = wire._arrive

    def arrive(data: bytes, piece: int) -> bool:
        profile.enable()
        try:
            return loop_send(data, piece)
        finally:
            profile.disable()

    wire._arrive = arrive  # type: ignore[method-assign]
    await wire.send(data, piece)
    return calls_of(profile)


@pytest.mark.parametrize("piece", [1, 100, READ])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda n: post(b"z" * n), id="a body"),
        pytest.param(lambda n: chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (n, b"z" * n)), id="one chunk"),
        pytest.param(lambda n: chunked((b"40\r\n" + b"z" * 64 + b"\r\n") * (n // 64) + b"0\r\n\r\n"), id="chunks"),
        pytest.param(lambda n: post(b"{}") * (n // 100), id="pipelined requests"),
        pytest.param(
            lambda n: post(b"{}", b"connection: upgrade\r\nupgrade: h2c\r\n") * (n // 150), id="pipelined upgrades"
        ),
    ],
)
async def test_work_grows_as_bytes_do(make: Callable[[int], bytes], piece: int) -> None:
    one = await work(make(20_000), piece)
    four = await work(make(80_000), piece)
    assert four <= 4.5 * one + 200
