"""The bounds on what one connection may hold, and the pauses of its reading."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod

from vllm_service.errors import Overloaded, ServiceError
from vllm_service.http.body_blocks import BodyBlocks
from vllm_service.http.byte_budget import SMALL_BYTES, ByteBudget
from vllm_service.http.head_check import HeadCheck
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.messages import Request
from vllm_service.http.request_reader import RequestReader
from vllm_service.http.write_buffer import WriteBuffer
from vllm_service.logs import source_location

_log = logging.getLogger(__name__)


def _weight(request: Request, body_size: int) -> int:
    """Returns the memory of a request that waits, in bytes: its texts, and a thousand for the objects around them."""
    return body_size + sum(len(name) + len(value) + 100 for name, value in request.headers) + 1_000


class BoundedReader(RequestReader):
    """A RequestReader that pauses, and that counts its bytes in the budget of all connections.

    It does not read while a key is looked up, nor while enough requests wait for their turn.
    """

    __slots__ = (
        "_answered_bytes", "_budget", "_is_counted", "_joined", "_look_up", "_stalled_bytes", "_waiting_bytes",
    )  # fmt: skip

    def __init__(
        self,
        limits: ConnectionLimits,
        loop: asyncio.AbstractEventLoop,
        write_buffer: WriteBuffer,
        head_check: HeadCheck,
        budget: ByteBudget,
    ) -> None:
        super().__init__(limits, loop, write_buffer, head_check)
        self._budget = budget
        #: The look-up of the key of a request whose body waits for it.
        self._look_up: asyncio.Task[None] | None = None
        #: The request whose body is being joined. At most one is: nothing is read meanwhile.
        self._joined: Request | None = None
        #: Bytes of the request that is being answered, of those that wait, and of an answer that is not read.
        self._answered_bytes = self._waiting_bytes = self._stalled_bytes = 0
        #: The budget has counted something of this connection.
        self._is_counted = False

    def queue(self, request: Request, keeps_alive: bool, body_size: int | None = None) -> None:
        """Keeps a request until those before it are answered. body_size: of a body that is not joined yet."""
        weight = _weight(request, len(request.body) if body_size is None else body_size)
        self._requests.append((request, keeps_alive, weight))
        self._waiting_bytes += weight

    def unqueue(self) -> tuple[Request, bool] | None:
        """Returns the first request that waits; None where there is none whose body is whole."""
        if not self._requests or self._requests[0][0] is self._joined:
            return None
        request, keeps_alive, weight = self._requests.popleft()
        self._waiting_bytes -= weight
        return request, keeps_alive

    def join(self, request: Request, blocks: BodyBlocks, keeps_alive: bool) -> None:
        """Implements RequestReader: joins the body in a thread, since copying so much would stop all others."""
        self.queue(request, keeps_alive, blocks.size)
        self._joined = request
        self._loop.run_in_executor(None, blocks.joined).add_done_callback(self._has_joined)
        self.pace_reading()

    def _has_joined(self, joining: asyncio.Future[bytes]) -> None:
        request, self._joined = self._joined, None
        if request is not None and self._transport is not None:
            request.body = joining.result()
            self.begin_next()

    @abstractmethod
    def begin_next(self) -> None:
        """Begins with the first request that waits, and reads on."""

    @property
    def is_waiting(self) -> bool:
        """True if nothing would be lost but an idle connection, or a request that is not complete."""
        return not self.is_busy and self._transport is not None and not self._transport.is_closing()

    @property
    def is_to_be_answered(self) -> bool:
        """True if a stop waits for it: a whole request waits, or one that has a key is being received."""
        if self._is_discarding:
            return False
        caller = self._caller if self.is_receiving and self._has_head else None
        return bool(self._requests) or (caller is not None and caller.key is not None)

    @property
    def is_refused(self) -> bool:
        """True if it has been refused and is only open so that the refusal arrives."""
        return self._is_discarding

    @property
    def last_active(self) -> float:
        """The loop's time of the last byte."""
        return self._last_data

    def after_reading(self) -> None:
        """Implements RequestReader: counts what is held, and pauses reading where more may not come yet."""
        if self._is_discarding or self._transport is None:
            return
        if not self.count():
            self.refuse_for_bytes()
            return
        caller = self._caller
        if self.is_receiving and self._has_head and caller is not None and caller.secret and self._look_up is None:
            self._look_up = look_up = self._loop.create_task(self._head_check.identify(caller))
            look_up.add_done_callback(self._looked_up)
        self.pace_reading()

    def pace_reading(self) -> None:
        """Pauses reading while a key is looked up, and while enough requests wait: more waits in the caller's host."""
        if self._transport is None or self._is_discarding:
            return
        limits = self._limits
        is_full = len(self._requests) >= limits.pipelined or self._waiting_bytes > limits.pipelined_bytes
        must_pause = is_full or self._look_up is not None or self._joined is not None
        if must_pause == self._is_reading_paused:
            return
        self._is_reading_paused = must_pause
        if must_pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            self.read_on()

    def _looked_up(self, look_up: asyncio.Task[None]) -> None:
        """Reads the body on once its key has been found; refuses it otherwise."""
        self._look_up = None
        if look_up.cancelled():
            return
        error = look_up.exception()
        if error is None:
            self.pay_continue()
            self.pace_reading()
            return
        if not isinstance(error, ServiceError):
            _log.error("a key could not be looked up: %s", source_location(error))
            error = ServiceError("The gateway failed on this request.")
        self.refuse(error)

    # Bytes

    def count(self) -> bool:
        """Counts what this connection holds in the budget of all. Returns False where there is no room for it."""
        size = len(self._unread) + self.body_size() + self._answered_bytes + self._waiting_bytes + self._stalled_bytes
        if size <= SMALL_BYTES:
            self.release()
            return True
        self._is_counted = True
        caller = self._caller
        if caller is not None and caller.key is not None:
            return self._budget.hold(self, f"organisation {caller.key.organisation}", size)
        record = self.record if caller is None else caller.record
        return self._budget.hold(self, "no address" if record is None else f"address {record.name}", size)

    def refuse_for_bytes(self) -> None:
        """Implements byte_budget.Holder."""
        message = "The gateway holds as many bytes of requests as it may (MAX_BUFFERED_BYTES); try again later."
        self.refuse(Overloaded(message, retry_after_seconds=1))

    def forget_unread(self) -> None:
        """Frees what has come of a request that is not complete, and the requests that wait."""
        self._unread = self._body = b""
        self._blocks = None
        self.is_receiving = False
        self._requests.clear()
        self._waiting_bytes = 0
        if self._look_up is not None:
            self._look_up.cancel()
        if self._is_counted:
            self.count()

    def release(self) -> None:
        """Counts that this connection holds nothing any more."""
        if self._is_counted:
            self._is_counted = False
            self._budget.release(self)
