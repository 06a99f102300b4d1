"""EagerTask: it begins at once, and what it runs cannot tell it from a task of asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from vllm_service.http.eager_task import EagerTask

SEEN: ContextVar[str] = ContextVar("SEEN", default="nothing")


async def begun(coroutine: Coroutine[Any, Any, None], ended: list[EagerTask] | None = None) -> EagerTask:
    """Begun outside of any task, as a protocol's callback does."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[EagerTask] = loop.create_future()

    def begin() -> None:
        task = EagerTask(coroutine, loop, (ended if ended is not None else []).append)
        task.begin()
        made.set_result(task)

    loop.call_soon(begin)
    return await made


async def test_what_needs_not_wait_is_done_when_it_has_begun() -> None:
    async def work() -> None:
        pass

    ended: list[EagerTask] = []
    task = await begun(work(), ended)
    assert task.done()
    assert ended == [task]


async def test_it_waits_for_futures_and_for_a_turn_of_the_loop() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    got: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        got.append(await future)

    task = await begun(work())
    future.set_result("here")
    await task
    assert got == ["here"]


async def test_a_timeout_ends_what_waits_within_it() -> None:
    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()

    await (await begun(work()))


async def test_cancelled_it_ends_where_it_waits() -> None:
    waiting = asyncio.Event()
    reached: list[str] = []

    async def work() -> None:
        try:
            await waiting.wait()
        except asyncio.CancelledError:
            reached.append("cancelled")
            raise

    task = await begun(work())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reached == ["cancelled"]
    assert not task.cancel()


async def test_one_that_asks_for_its_own_end_ends_at_its_next_wait() -> None:
    async def work() -> None:
        own = asyncio.current_task()
        assert own is not None
        own.cancel()
        await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await (await begun(work()))


async def test_an_error_is_kept_for_who_awaits_it() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ValueError("wrong")

    ended: list[EagerTask] = []
    task = await begun(work(), ended)
    with pytest.raises(ValueError, match="wrong"):
        await task
    assert ended == [task]


async def test_context_variables_are_its_own() -> None:
    async def work() -> None:
        SEEN.set("something")
        await asyncio.sleep(0)
        assert SEEN.get() == "something"

    await (await begun(work()))
    await (await begun(asserts_unseen()))


async def asserts_unseen() -> None:
    """No other task's value is here."""
    assert SEEN.get() == "nothing"
