"""A server's connections without sockets: what they read, paused, wrote and hold, with a clock that a test moves."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

from vllm_service.domain.keys import ApiKey
from vllm_service.http.addresses import AddressLimits, ClientAddresses
from vllm_service.http.head_check import HeadCheck, Paths
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.messages import Request, ResponseWriter
from vllm_service.http.server import HttpServer
from vllm_service.http.server_connection import ServerConnection
from vllm_service.storage.protocol import RememberedKey

CHAT_PATH = b"/v1/chat/completions"
LIVE_PATH = b"/health/live"
SECRET = "a-key"


class Transport(asyncio.Transport):
    """Keeps what is written. `is_full` stands for a caller who does not read."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1)})
        self.written = bytearray()
        self.is_paused = self.is_full = self.has_eof = self.is_gone = False
        self.protocol: ServerConnection | None = None

    def write(self, data: Any) -> None:
        self.written += data
        if self.is_full and self.protocol is not None:
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self.is_full else 0

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def write_eof(self) -> None:
        self.has_eof = True

    def is_closing(self) -> bool:
        return self.is_gone

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            if self.protocol is not None:
                self.protocol.connection_lost(None)


@dataclass
class Wire:
    """One connection, as its caller sees it."""

    connection: ServerConnection
    transport: Transport
    sent: int = 0

    async def send(self, data: bytes, piece: int = 65_536) -> bool:
        """Sends the bytes in pieces as long as the server reads them; returns whether it has read them all.

        They arrive outside of any task, as from a socket.
        """
        arrived: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: arrived.set_result(self._arrive(data, piece)))
        return await arrived

    def _arrive(self, data: bytes, piece: int) -> bool:
        for at in range(0, len(data), piece):
            if self.transport.is_paused or self.transport.is_gone or self.transport.has_eof:
                return False
            self.connection.data_received(data[at : at + piece])
            self.sent += len(data[at : at + piece])
        return True

    def is_read(self) -> bool:
        """Whether the server reads what this caller sends."""
        return not self.transport.is_paused

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.transport.written)]

    @property
    def is_refused(self) -> bool:
        return self.transport.has_eof or self.transport.is_gone


@dataclass
class KeyStore:
    """Keys of which some are in memory. A look-up waits for `answers`."""

    known: dict[str, ApiKey] = field(default_factory=lambda: {SECRET: ApiKey("key-1", "acme")})
    in_memory: set[str] = field(default_factory=lambda: {SECRET})
    #: In memory, and to be looked up again.
    stale: set[str] = field(default_factory=set)
    looked_up: list[str] = field(default_factory=list)
    #: For how long a key in memory is used without being looked for there again, and how often one was.
    fresh_seconds: float = 0.0
    remembered_times: int = 0
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def find(self, secret: str) -> ApiKey | None:
        self.looked_up.append(secret)
        await self.answers.wait()
        return self.known.get(secret)

    def is_known(self, secret: str) -> bool:
        return secret in self.in_memory | self.stale

    def remembered(self, secret: str) -> RememberedKey | None:
        self.remembered_times += 1
        key = self.known.get(secret) if secret in self.in_memory else None
        return None if key is None else RememberedKey(key, self.fresh_seconds)


@dataclass
class Served:
    """A server that answers nothing by itself: `requests` wait, or are answered as they come."""

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    address_limits: AddressLimits = field(default_factory=AddressLimits)
    keys: KeyStore | None = field(default_factory=KeyStore)
    addresses: ClientAddresses = field(default_factory=ClientAddresses)
    answers_at_once: bool = True
    requests: list[tuple[Request, ResponseWriter]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.go_on = asyncio.Event()
        if self.answers_at_once:
            self.go_on.set()
        check = HeadCheck(
            asyncio.get_running_loop().time,
            keys=self.keys,
            addresses=self.addresses,
            limits=self.address_limits,
            paths=Paths({CHAT_PATH}, {LIVE_PATH}),
        )
        self.server = HttpServer(self._handle, self.limits, check)

    async def _handle(self, request: Request, writer: ResponseWriter) -> None:
        self.requests.append((request, writer))
        if not self.go_on.is_set():
            await self.go_on.wait()
        writer.answer(200, b"", b"{}")

    def connect(self, address: str = "198.51.100.1", *, is_full: bool = False) -> Wire:
        connection = ServerConnection(self.server)
        transport = Transport(address)
        transport.protocol = connection
        transport.is_full = is_full
        connection.connection_made(transport)
        return Wire(connection, transport)

    @property
    def bodies(self) -> list[bytes]:
        return [request.body for request, _ in self.requests]


def post(body: bytes = b"", more: bytes = b"", *, secret: str | None = SECRET, length: int | None = None) -> bytes:
    """A request to an operation. length: what it says its body has."""
    key = b"" if secret is None else b"authorization: Bearer %b\r\n" % secret.encode()
    head = b"POST %b HTTP/1.1\r\nhost: x\r\n%b%bcontent-length: %d\r\n\r\n"
    return head % (CHAT_PATH, key, more, len(body) if length is None else length) + body


def chunked(data: bytes = b"", *, path: bytes = CHAT_PATH, method: bytes = b"POST") -> bytes:
    """The head of a chunked request with the key, and this after it."""
    head = b"%b %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer a-key\r\ntransfer-encoding: chunked\r\n\r\n%b"
    return head % (method, path, data)


async def turns(count: int = 5) -> None:
    """Lets the loop go on."""
    for _ in range(count):
        await asyncio.sleep(0)
