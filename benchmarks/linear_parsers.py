"""What reads or passes on bytes that others send: each with messages of any size, for benchmarks.linear and its test.

Every message is of one kind, so that a parser which works more than its bytes are worth shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import httpx2

from handler.streaming import checked, coalesce, whole_events
from vllm_service.client.event_stream import EventStream
from vllm_service.domain.answers import Form
from vllm_service.domain.event_stream import EventSplitter, StreamBeginning
from vllm_service.gateway.answer_text import AnswerText
from vllm_service.gateway.event_relay import EventRelay
from vllm_service.gateway.operations import CHAT
from vllm_service.http.client_connection import Connection, ProviderAnswer
from vllm_service.http.write_buffer import WriteBuffer

Read = Callable[[Sequence[bytes]], Coroutine[None, None, None]]
Message = Callable[[int], bytes]


@dataclass(frozen=True)
class Parser:
    """One parser or relay, with one kind of message. read: takes the pieces one by one."""

    name: str
    kind: str
    message: Message
    read: Read


CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"a word"},"finish_reason":null}]}\n\n'
)
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}\n\n'


def _times(part: bytes) -> Message:
    return lambda size: part * (size // len(part))


def _one_event(size: int) -> bytes:
    before, after = CHUNK.split(b"a word")
    return CHUNK + before + b"x" * (size - len(CHUNK) - len(before) - len(after)) + after


def _many_data_lines(size: int) -> bytes:
    # A short message has lines of 100 bytes, and a long one not so many of them that it would be refused.
    line = b"data: " + b" " * max(93, size // 10_000) + b"\n"
    return b'data: {"choices":\ndata: [\n' + line * (size // len(line)) + b"data: ]}\n\n"


def _unfinished(size: int) -> bytes:
    return CHUNK + b"data: " + b"x" * (size - len(CHUNK) - 6)


#: The messages of a stream, by their kind.
STREAMS: dict[str, Message] = {
    "chunks": _times(CHUNK),
    "one event": _one_event,
    "an event of many lines": _many_data_lines,
    "an event without an end": _unfinished,
    "comments": _times(b": ping\n\n"),
    "comments without an empty line": _times(b": ping\n"),
    "empty lines": _times(b"\n"),
    "usage in every event": _times(USAGE),
    "chunks with CRLF": _times(CHUNK.replace(b"\n", b"\r\n")),
    "chunks with CR": _times(CHUNK.replace(b"\n", b"\r")),
    "one event with CRLF": lambda size: _one_event(size).replace(b"\n", b"\r\n"),
}


async def _relayed(pieces: Sequence[bytes]) -> None:
    relay = EventRelay(CHAT, _drop, lambda relay, event, is_only_usage: event)
    for piece in pieces:
        relay.receive(piece)
    relay.end()


async def _text_kept(pieces: Sequence[bytes]) -> None:
    text = AnswerText()
    keep = text.around(_drop)
    for piece in pieces:
        keep(piece)
    text.ended()


async def _split(pieces: Sequence[bytes]) -> None:
    splitter = EventSplitter()
    for piece in pieces:
        for _ in splitter.feed(piece):
            pass


async def _begun(pieces: Sequence[bytes]) -> None:
    beginning = StreamBeginning(Form.CHAT)
    for piece in pieces:
        if beginning.feed(piece):
            return


async def _in_the_client(pieces: Sequence[bytes]) -> None:
    response = SimpleNamespace(aiter_bytes=lambda: _each(pieces), headers=httpx2.Headers(), aclose=_closed)
    stream = EventStream.__new__(EventStream)
    stream.response = cast("httpx2.Response", response)
    try:
        async for _ in stream.__stream__():
            pass
    except Exception:  # noqa: S110 - most of these messages are no whole answer: it is about the time
        pass


async def _in_the_worker(pieces: Sequence[bytes]) -> None:
    async for _ in coalesce(checked(_whole_only(pieces))):
        pass


async def _whole_only(pieces: Sequence[bytes]) -> AsyncIterator[str]:
    try:
        async for event in whole_events(_each(pieces)):
            yield event
    except Exception:
        return


async def _each(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _closed() -> None:
    pass


def _drop(data: bytes) -> None:
    pass


# Whole messages of HTTP, as a provider sends them.
def _plain(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, b"x" * size)


def _chunked(chunk: bytes) -> Message:
    head, end = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"0\r\n\r\n"
    return lambda size: head + chunk * (size // len(chunk)) + end


def _chunked_trailer(line: bytes) -> Message:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    return lambda size: head + line * (size // len(line)) + b"\r\n"


def _one_header(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nx: " + b"y" * size


ANSWERS: dict[str, Message] = {
    "a body": _plain,
    "chunks of a byte": _chunked(b"1\r\nx\r\n"),
    "chunks with extensions": _chunked(b"1;" + b"e" * 300 + b"\r\nx\r\n"),
    "trailers": _chunked_trailer(b"t: t\r\n"),
    "one trailer": lambda size: _chunked_trailer(b"t: " + b"t" * size + b"\r\n")(size + 5),
    "one header": _one_header,
    "interim answers": _times(b"HTTP/1.1 102 Processing\r\n\r\n"),
    "a status line without an end": lambda size: b"HTTP/1.1 200 " + b"O" * size,
}


class SilentTransport(asyncio.Transport):
    """Takes what is written, and is closed by the one who writes."""

    is_closed = False

    def write(self, data: object) -> None:
        """Implements asyncio.Transport."""

    def is_closing(self) -> bool:
        """Implements asyncio.Transport."""
        return self.is_closed

    def abort(self) -> None:
        """Implements asyncio.Transport."""
        self.is_closed = True


async def _answered(pieces: Sequence[bytes]) -> None:
    await _over_a_connection(pieces, None)


async def _streamed(pieces: Sequence[bytes]) -> None:
    await _over_a_connection(pieces, StreamBeginning(Form.CHAT))


async def _over_a_connection(pieces: Sequence[bytes], beginning: StreamBeginning | None) -> None:
    """Feeds a connection until it has had enough, as a transport does. Its stream is relayed once it has begun."""
    loop = asyncio.get_running_loop()
    connection = Connection(loop, WriteBuffer(loop), lambda _: None)
    transport = SilentTransport()
    connection.connection_made(transport)
    waiting = connection.request(b"", 1.0, 1.0, is_alone=True, beginning=beginning)
    relayed = None
    for piece in pieces:
        if transport.is_closed:
            break
        connection.data_received(piece)
        if relayed is None and waiting.done() and waiting.exception() is None:
            relayed = _relayed_from(waiting.result())
    if waiting.done():
        waiting.exception()


def _relayed_from(answer: ProviderAnswer) -> asyncio.Future[None]:
    relay = EventRelay(CHAT, _drop, lambda relay, event, is_only_usage: event)
    return answer.relay(relay.receive)


def _as_answer(stream: Message) -> Message:
    """Returns the stream as one chunked answer, with a chunk of HTTP for about each event."""

    def message(size: int) -> bytes:
        body = stream(size)
        step = len(CHUNK)
        parts = (body[start : start + step] for start in range(0, len(body), step))
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    return message


def parsers() -> Iterator[Parser]:
    """Yields every parser and relay with every kind of message that it may get."""
    readers = {
        "gateway: relay": _relayed,
        "gateway: answer's text": _text_kept,
        "gateway: stream's beginning": _begun,
        "events": _split,
        "client: stream": _in_the_client,
        "worker: stream": _in_the_worker,
    }
    for name, read in readers.items():
        for kind, message in STREAMS.items():
            yield Parser(name, kind, message, read)
    for kind, message in ANSWERS.items():
        yield Parser("gateway: connection", kind, message, _answered)
    for kind in ("chunks", "one event", "comments", "empty lines"):
        yield Parser("gateway: connection and relay", kind, _as_answer(STREAMS[kind]), _streamed)


def pieces_of(message: bytes, piece_bytes: int) -> list[bytes]:
    """Returns the message, cut into pieces of this size."""
    return [message[start : start + piece_bytes] for start in range(0, len(message), piece_bytes)]
