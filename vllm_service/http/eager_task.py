"""A task that begins at once: most requests are on their way to a provider before asyncio would have begun them."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any


class EagerTask(asyncio.Future[None]):
    """Runs a coroutine, up to its first wait within `begin`, as asyncio's own tasks can from Python 3.12 on.

    Within the coroutine it is the current task, by the rules of "Extending asyncio" in Python's documentation, so that
    asyncio.timeout works. It takes half of what a Task takes. Not to be begun within another task.
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
        """To the first wait."""
        self._context.run(self._step)

    def cancel(self, msg: object = None) -> bool:
        """Throws CancelledError into the coroutine where it waits. msg: not used, as in asyncio since Python 3.11."""
        if self.done():
            return False
        self._cancellations += 1
        if self._awaited is None or not self._awaited.cancel():
            self._is_to_cancel = True
        return True

    def cancelling(self) -> int:
        """How often it was asked to end."""
        return self._cancellations

    def uncancel(self) -> int:
        """One who asked has seen to it (asyncio.timeout)."""
        self._cancellations = max(0, self._cancellations - 1)
        return self._cancellations

    def _step(self, _: asyncio.Future[Any] | None = None) -> None:
        """To the next wait. A future that was awaited gives its result or error itself when the coroutine goes on."""
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
            awaited._asyncio_future_blocking = False  # what a task says to a future that it awaits
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
