"""PostConnections against servers that answer in every way HTTP allows, and in some that it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from handler.queue.post_connections import NeverSent, PostConnections
from tests.waiting import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers each post with the next of `answers`; None hangs up instead. Remembers posts and connections."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)
        self.posts: list[tuple[bytes, bytes]] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.posts.append((head, await reader.readexactly(length)))
                if not self._answers:
                    await reader.read()  # until the client leaves
                    break
                if (answer := self._answers.pop(0)) is None:
                    break
                writer.write(answer)
                if b"close" in answer or (b"Content-Length" not in answer and b"chunked" not in answer):
                    break
        writer.close()
        self.hung_up.set()


@asynccontextmanager
async def served(*answers: bytes | None) -> AsyncIterator[tuple[Server, PostConnections]]:
    server = Server(*answers)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        posts = PostConnections(f"http://127.0.0.1:{port}/any", {"Authorization": "Bearer key"})
        try:
            yield server, posts
        finally:
            posts.close()
            for connection in server.connections:
                connection.close()


async def test_a_post_arrives_as_it_was_meant() -> None:
    async with served(OK) as (server, posts):
        assert await posts.post("/v2/ep/job-stream/w/j?isStream=false", "grüße".encode(), "X-Request-ID: j\r\n") == 200
        head, body = server.posts[0]
        assert head.startswith(b"POST /v2/ep/job-stream/w/j?isStream=false HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nAuthorization: Bearer key\r\n" in head
        assert b"\r\nX-Request-ID: j\r\n" in head
        assert body.decode() == "grüße"


async def test_a_connection_is_used_again_and_only_by_one_post_at_a_time() -> None:
    async with served(OK, OK, OK, OK) as (server, posts):
        await posts.post("/", b"1")
        await posts.post("/", b"2")
        assert len(server.connections) == 1
        await asyncio.gather(posts.post("/", b"3"), posts.post("/", b"4"))
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200),
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 413),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200),
        (b"HTTP/1.0 500 Oops\r\n\r\n", 500),
    ],
)
async def test_every_form_of_an_answer_is_understood_and_the_next_post_works(answer: bytes, status: int) -> None:
    async with served(answer, OK) as (_, posts):
        assert await posts.post("/", b"x") == status
        assert await posts.post("/", b"y") == 200


@pytest.mark.parametrize("answer", [None, b"SSH-2.0 hello\r\nContent-Length: close", b"HTTP/1.1 200"])
async def test_what_is_no_answer_is_a_connection_error(answer: bytes | None) -> None:
    async with served(answer, OK) as (_, posts):
        with pytest.raises(ConnectionError) as raised:
            await posts.post("/", b"x")
        assert not isinstance(raised.value, NeverSent), "it may have arrived"
        assert await posts.post("/", b"y") == 200


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    async with served(OK, OK) as (server, posts):
        await posts.post("/", b"x")
        server.connections[0].close()
        await until(lambda: not posts._idle[0].is_open)  # until the news has come
        assert await posts.post("/", b"y") == 200


async def test_where_nobody_listens_nothing_was_sent() -> None:
    async with served() as (_, posts):
        pass
    with pytest.raises(NeverSent, match="no connection to"):
        await posts.post("/", b"x")


async def test_a_post_that_is_given_up_closes_its_connection() -> None:
    async with served() as (server, posts):
        post = asyncio.create_task(posts.post("/", b"x"))
        await until(lambda: server.posts)
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await post
        await asyncio.wait_for(server.hung_up.wait(), 5)
