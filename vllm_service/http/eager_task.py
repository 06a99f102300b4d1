"""A task that runs up to its first wait within the call that begins it."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any


class EagerTask(asyncio.Future[None]):
    """Runs a coroutine, the part up to its first wait already within `begin`, at half the cost of asyncio.Task.

    Follows "Extending asyncio" in Python's documentation: the coroutine sees it as the current task, so asyncio.timeout
    works. Must not begin within another task. Python 3.12's eager tasks do the same, but 3.11 is supported.
    ended: called when the coroutine has come to its end.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[EagerTask], None],
    ) -> None:
        super().__init__(loop=loop)
        self._own_loop = loop
        self._coroutine = coroutine
        self._ended = ended
        self._context = copy_context()
        self._awaited: asyncio.Future[Any] | None = None
        self._is_to_cancel = False
        self._cancellations = 0

    def begin(self) -> None:
        """Runs the coroutine up to its first wait."""
        self._context.run(self._step)

    def cancel(self, msg: object = None) -> bool:
        """Throws CancelledError into the coroutine where it waits. msg: unused, as in asyncio since Python 3.11."""
        if self.done():
            return False
        self._cancellations += 1
        # A cancelled future calls _step; without a future that can be cancelled, the next step throws by itself.
        if self._awaited is None or not self._awaited.cancel():
            self._is_to_cancel = True
        return True

    def cancelling(self) -> int:
        """Returns the number of cancellations that are not taken back."""
        return self._cancellations

    def uncancel(self) -> int:
        """Takes one cancellation back, as asyncio.timeout does with its own."""
        self._cancellations = max(0, self._cancellations - 1)
        return self._cancellations

    def _step(self, _: asyncio.Future[Any] | None = None) -> None:
        """Runs to the next wait. The awaited future's own __await__ gives its result or error to the coroutine."""
        self._awaited = None
        loop = self._own_loop
        _enter_task(loop, self)  # type: ignore[arg-type]
        try:
            if self._is_to_cancel:
                self._is_to_cancel = False
                awaited = self._coroutine.throw(asyncio.CancelledError())
            else:
                awaited = self._coroutine.send(None)
            if awaited is None:  # asyncio.sleep(0)
                loop.call_soon(self._step, context=self._context)
                return
            awaited._asyncio_future_blocking = False  # asyncio's protocol: the yielded future is now waited for
            self._awaited = awaited
            awaited.add_done_callback(self._step, context=self._context)
            if self._is_to_cancel and awaited.cancel():
                self._is_to_cancel = False
        except StopIteration:
            self.set_result(None)
            self._ended(self)
        except asyncio.CancelledError:
            super().cancel()
            self._ended(self)
        except BaseException as error:
            self.set_exception(error)
            self._ended(self)
            if not isinstance(error, Exception):
                raise
        finally:
            _leave_task(loop, self)  # type: ignore[arg-type]
