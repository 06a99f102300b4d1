"""Reads callers' requests: HTTP/1.1 by httptools within limits of size, the client's address, the request's id."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import count

import httptools

from vllm_service.errors import BodyTooLarge, HeadTooLarge, InvalidRequest, ServiceError, Unauthorized
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.messages import Request, fault_in
from vllm_service.http.write_buffer import WriteBuffer, Writer
from vllm_service.logs import source_location

Network = IPv4Network | IPv6Network
# Some proxies write the port too: 198.51.100.1:52110, [2001:db8::1]:52110.
_WITH_PORT = re.compile(r"\[([^\]]{2,45})\](?::\d{1,5})?|([0-9.]{7,15}):\d{1,5}")
#: An IPv6 address with its port has 47; the rest is no address and need not be parsed.
_LONGEST_ADDRESS_CHARACTERS = 64
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/=+-]{1,128}")


class ClientAddresses:
    """Finds clients' addresses, which limits are counted by.

    Reads X-Forwarded-For from the right and takes the first address that is no trusted proxy's: everything to its left
    was sent by the client and may be forged. Each address has one spelling: an IPv4 client is the same client on an
    IPv6 socket (`::ffff:198.51.100.1`).
    """

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Returns the client's address, or None when the connection has none (a Unix socket)."""
        if not self._trusted and ":" not in peer:
            return peer or None
        own = _address(peer)
        if own is None or not self._is_trusted(own):
            return None if own is None else str(own)
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        for text in reversed(forwarded.decode("latin-1").split(",")):
            if not (written := text.strip()):
                continue
            address = _address(written)
            if address is None:  # nothing to the left of garbage can be trusted
                break
            if not self._is_trusted(address):
                return str(address)
        return str(own)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Returns the address in a text, an IPv4 one also where it is mapped into IPv6; None if it is no address."""
    if len(text) > _LONGEST_ADDRESS_CHARACTERS:
        return None
    if (match := _WITH_PORT.fullmatch(text)) is not None:
        text = match.group(1) or match.group(2)
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


class RequestIds:
    """Makes request ids: 64 random bits drawn once per process, then a counter.

    They are as unique as random ids, without a system call for each request.
    """

    def __init__(self) -> None:
        self._process = os.urandom(8).hex()
        self._numbers = count(1)

    def of(self, header: bytes | None) -> str:
        """Returns the caller's id if it consists of 1 to 128 plain characters, else a new one."""
        if header is not None and _REQUEST_ID.fullmatch(header):
            return header.decode("ascii")
        return f"req-{self._process}-{next(self._numbers):x}"


_log = logging.getLogger(__name__)
#: A target with scheme and host. A user name in it is a way to pass one host off as another, and is not served.
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@]+)(?=[/?]|$)", re.IGNORECASE)
#: The headers of an offer to change the protocol.
_UPGRADE_HEADERS = (b"upgrade", b"connection", b"http2-settings")


class RequestReader(Writer):
    """The reading half of a caller's connection. Calls `received` for each whole request and `refuse` for a bad one."""

    def __init__(self, limits: ConnectionLimits, loop: asyncio.AbstractEventLoop, write_buffer: WriteBuffer) -> None:
        super().__init__(write_buffer)
        self._limits = limits
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._peer = ""
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._headers_by_name: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        #: A request has begun and is not complete.
        self._is_receiving = False
        self._has_head = False
        self._head_bytes = 0
        #: The loop's time of the current request's first byte, and of the last byte.
        self._began = self._last_data = self._loop.time()
        #: No request has come on this connection yet.
        self._is_new = True
        #: A request was refused; whatever comes after it is dropped.
        self._is_discarding = False

    @abstractmethod
    def received(self, request: Request, keeps_alive: bool) -> None:
        """Takes a whole request."""

    @abstractmethod
    def refuse(self, error: ServiceError) -> None:
        """Answers with an error and reads no further."""

    @abstractmethod
    def end_reading(self) -> None:
        """Makes the current request the connection's last."""

    def data_received(self, data: bytes) -> None:
        """Feeds the parser. Drops bytes after an error: closing with unread bytes resets and could lose the answer."""
        if self._is_discarding:
            return
        self._last_data = self._loop.time()
        if not self._has_head:
            # Counts whole reads, which may hold other bytes too: cheap, and enough to stop a head that never ends.
            # on_headers_complete measures exactly where this is over the limit.
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if (own := fault_in(error)) is None:
                self.refuse(InvalidRequest("This is not a valid HTTP/1.1 request."))
            else:  # an error of this code is not blamed on the caller
                _log.error("a request could not be read: %s", source_location(own))
                self.refuse(ServiceError("The gateway failed on this request."))
        else:
            if self._is_receiving and not self._has_head and self._head_bytes > self._limits.head_bytes:
                self.refuse(HeadTooLarge(f"The request's head is larger than {self._limits.head_bytes} bytes."))

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """Begins a request."""
        self._is_receiving = True
        self._has_head = False
        self._target = self._body = b""
        self._headers = []
        self._began = self._last_data

    def on_url(self, url: bytes) -> None:
        """Adds a part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Adds a header; drops trailers, which follow a chunked body and could contradict the head."""
        if not self._has_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Refuses what the head shows to be wrong, before the body is sent and kept."""
        self._has_head = True
        limits = self._limits
        if len(self._headers) > limits.headers or (self._head_bytes > limits.head_bytes and self._head_is_too_large()):
            self.refuse(HeadTooLarge(f"The request's head is larger than {limits.head_bytes} bytes, or too long."))
            return
        self._head_bytes = 0
        if not self._target.startswith(b"/") and not self._has_origin_form():
            self.refuse(InvalidRequest("The request's target is neither a path nor a URL that begins with http."))
            return
        headers = self._headers_by_name = dict(self._headers)
        if int(headers.get(b"content-length", 0)) > limits.body_bytes:  # digits only: llhttp has checked them
            self._refuse_body()
        elif b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and not self._is_discarding:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _has_origin_form(self) -> bool:
        """Turns a whole URL as target, which clients of proxies send, into its path; the URL's host counts, not Host's.

        RFC 9112, 3.2.2. Returns False for a target of another form; CONNECT's and OPTIONS' own stay as they are.
        """
        if (found := _ABSOLUTE_FORM.match(self._target)) is None:
            method = self._parser.get_method()
            return method == b"CONNECT" or (method == b"OPTIONS" and self._target == b"*")
        path = self._target[found.end() :]
        self._target = path if path.startswith(b"/") else b"/" + path
        self._headers = [header for header in self._headers if header[0] != b"host"] + [(b"host", found[1])]
        return True

    def on_body(self, body: bytes) -> None:
        """Adds a piece of the body. Most bodies come in one piece, which is not copied; a second makes a bytearray."""
        if self._is_discarding:
            return
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body + body)
        else:
            self._body += body
        if len(self._body) > self._limits.body_bytes:  # chunked: there was no length to check
            self._refuse_body()

    def on_message_complete(self) -> None:
        """Passes the whole request on. One that offers an upgrade is read again: see _decline_upgrade."""
        parser = self._parser
        if self._is_discarding or parser.should_upgrade():
            return
        self._is_receiving = self._has_head = self._is_new = False
        body = self._body if isinstance(self._body, bytes) else bytes(self._body)
        version = parser.get_http_version()
        headers, by_name = self._headers, self._headers_by_name
        request = Request(parser.get_method(), self._target, headers, by_name, body, self._peer, version)
        self.received(request, parser.should_keep_alive())

    def _decline_upgrade(self, rest: bytes) -> None:
        """Reads a request again without its offer of another protocol, which HTTP allows a server to ignore.

        Java's HTTP client offers HTTP/2 with its first POST. The parser takes everything after such a head for the
        other protocol, so the body would be lost. rest: the bytes after the head.
        """
        method = self._parser.get_method()
        if method == b"CONNECT" or self._is_discarding:
            self.refuse(InvalidRequest("CONNECT is not served: this is no proxy. Send requests to it directly."))
            return
        keep = [b"%b: %b\r\n" % header for header in self._headers if header[0] not in _UPGRADE_HEADERS]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self._headers):
            keep.append(b"connection: close\r\n")
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self._target, b"".join(keep), rest))

    def _head_is_too_large(self) -> bool:
        """Measures the head alone, without what came in the same reads. 4: the colon, the space and the line's end."""
        size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        return size > self._limits.head_bytes

    def _refuse_body(self) -> None:
        self.refuse(BodyTooLarge(f"The body is larger than MAX_BODY_BYTES, {self._limits.body_bytes} bytes."))


def bearer_token(headers: Mapping[bytes, bytes]) -> str:
    """Returns the caller's key. Raises errors.Unauthorized."""
    authorization = headers.get(b"authorization", b"")
    if authorization[:7].lower() != b"bearer ":
        raise Unauthorized("A key is needed: send it as `Authorization: Bearer KEY`.")
    return authorization[7:].strip().decode("latin-1")
