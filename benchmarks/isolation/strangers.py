"""Attackers without a key: what they do to connections, heads and bodies."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

from benchmarks.isolation.keyed import DEFENCES, Attack, Attacker, ask, at_rate, held
from benchmarks.isolation.wire import Connection, chat_body, connect, connected, get, head, post

#: More than a gateway takes unless it is configured otherwise (MAX_CONNECTIONS is 4096).
HOARD = 4500
BODY_BYTES = 19_000_000


async def _unfinished(attacker: Attacker) -> None:
    """Sends a body but its last byte, then waits."""
    piece = b"x" * 10**6
    async with connected(attacker.address) as connection:
        connection.writer.write(head(attacker.key, lines=f"content-length: {BODY_BYTES + 1}\r\n"))
        for _ in range(BODY_BYTES // len(piece)):
            connection.writer.write(piece)
            await connection.writer.drain()
        await connection.reader.read()


async def unfinished_bodies(attacker: Attacker) -> None:
    """Sends a hundred bodies of 19 MB but for the last byte."""
    await held(100, lambda _: _unfinished(attacker))


async def slow_heads(attacker: Attacker) -> None:
    """Sends 500 heads, a byte a second."""

    async def one(_: int) -> None:
        async with connected(attacker.address) as connection:
            connection.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ")
            while not connection.reader.at_eof():
                connection.writer.write(b"a")
                await connection.writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await connection.reader.read(1024)

    await held(500, one)


async def hoard(attacker: Attacker) -> None:
    """Opens more connections than the gateway takes, and sends nothing."""
    kept: list[Connection] = []
    try:
        while True:
            kept = [connection for connection in kept if not connection.reader.at_eof()]
            for _ in range(min(100, HOARD - len(kept))):
                with contextlib.suppress(*DEFENCES):
                    kept.append(await connect(attacker.address))
            await asyncio.sleep(0.05)
    finally:
        for connection in kept:
            connection.close()


def _guess() -> str:
    """Returns a text in the form of a key."""
    return f"vs_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


async def guesses(attacker: Attacker) -> None:
    """Tries 300 keys a second."""
    await at_rate(300, lambda n: ask(attacker, post(_guess(), chat_body(f"guess {n}"))))


async def large_guesses(attacker: Attacker) -> None:
    """Tries keys with bodies of 19 MB."""
    body = chat_body("x" * BODY_BYTES)
    await at_rate(10, lambda _: ask(attacker, post(_guess(), body)))


async def trailers(attacker: Attacker) -> None:
    """Sends trailers without an end behind a chunked body."""
    start = head(attacker.key, lines="transfer-encoding: chunked\r\n") + b"2\r\n{}\r\n0\r\nx-more: "
    await held(3, lambda _: _endless(attacker, start, b"a" * 65536, 40 * 2**20))


async def tiny_chunks(attacker: Attacker) -> None:
    """Sends a body in chunks of one byte, with extensions."""
    start = head(attacker.key, lines="transfer-encoding: chunked\r\n")
    await held(5, lambda _: _endless(attacker, start, b"1;a=b\r\nx\r\n" * 6000, 60 * 2**20))


async def _endless(attacker: Attacker, start: bytes, piece: bytes, most_bytes: int) -> None:
    async with connected(attacker.address) as connection:
        connection.writer.write(start)
        for _ in range(most_bytes // len(piece)):
            connection.writer.write(piece)
            await connection.writer.drain()
            await asyncio.sleep(0)


async def pipelined_bodies(attacker: Attacker) -> None:
    """Sends sixteen requests of 18 MB behind one another, ten times at once."""
    request = post(attacker.key, chat_body("x" * 18_000_000))
    await held(10, lambda _: _endless(attacker, b"", request, 16 * len(request)))


async def pipelined_upgrades(attacker: Attacker) -> None:
    """Sends thousands of requests with offers of another protocol in one piece."""
    one = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    await held(20, lambda _: _endless(attacker, b"", one * 2000, 20 * 2000 * len(one)))


async def pages(attacker: Attacker) -> None:
    """Requests what the gateway has to make: health, metrics, the API's description."""
    paths = ("/health", "/metrics", "/performance", "/openapi.json", "/v1/models")
    await at_rate(300, lambda n: ask(attacker, get(paths[n % len(paths)])))


STRANGERS: dict[str, Attack] = {
    "unfinished bodies": unfinished_bodies,
    "slow heads": slow_heads,
    "a hoard of idle connections": hoard,
    "guessed keys": guesses,
    "guessed keys with bodies of 19 MB": large_guesses,
    "trailers without an end": trailers,
    "chunks of one byte": tiny_chunks,
    "pipelined bodies of 18 MB": pipelined_bodies,
    "pipelined upgrades": pipelined_upgrades,
    "health and metrics without a key": pages,
}
