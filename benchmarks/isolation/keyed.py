"""Attackers with a small key of their own: what they put into requests, and when they leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.isolation.wire import Address, chat_body, connected, post

#: What ends a call of an attacker: the gateway defends itself.
DEFENCES = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ValueError)


@dataclass(frozen=True)
class Attacker:
    """An attacker, who has one address and, where `keys` is not empty, keys of one organisation."""

    address: Address
    keys: tuple[str, ...]

    @property
    def key(self) -> str | None:
        """Returns the first key; None for a stranger."""
        return self.keys[0] if self.keys else None


Attack = Callable[[Attacker], Awaitable[None]]


async def at_rate(per_second: float, call: Callable[[int], Awaitable[object]], most_at_once: int = 200) -> None:
    """Calls at a rate until it is cancelled; what goes wrong with a call is the attacker's own affair."""
    slots = asyncio.Semaphore(most_at_once)
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        async with slots:
            with contextlib.suppress(*DEFENCES):
                await call(number)

    number = 0
    try:
        while True:
            task = asyncio.create_task(one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            await asyncio.sleep(1 / per_second)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def held(count: int, call: Callable[[int], Awaitable[object]], pause_seconds: float = 0.2) -> None:
    """Keeps so many calls going until it is cancelled, each begun again when it ends."""

    async def again(number: int) -> None:
        await asyncio.sleep(number * 0.01)
        while True:
            with contextlib.suppress(*DEFENCES):
                await call(number)
            await asyncio.sleep(pause_seconds)

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(again(number))


async def ask(attacker: Attacker, request: bytes, seconds: float = 30.0) -> None:
    """Sends one request on a new connection and waits for the answer, at most so long."""
    async with connected(attacker.address) as connection, asyncio.timeout(seconds):
        await connection.ask(request)


def requests(per_second: float, body: Callable[[int], bytes], *, headers: str = "", seconds: float = 30.0) -> Attack:
    """Returns an attack of requests at a rate, with the attacker's keys in turn."""

    async def run(attacker: Attacker) -> None:
        await at_rate(
            per_second,
            lambda number: ask(
                attacker, post(attacker.keys[number % len(attacker.keys)], body(number), headers=headers), seconds
            ),
        )

    return run


def streams(count: int, word: str) -> Attack:
    """Returns an attack that keeps so many streams open."""

    async def run(attacker: Attacker) -> None:
        body = chat_body(f"attack:{word}", stream=True)
        await held(count, lambda number: ask(attacker, post(attacker.keys[number % len(attacker.keys)], body), 60.0))

    return run


async def slow_readers(attacker: Attacker) -> None:
    """Takes streams that are sent as fast as they are read, and reads nothing."""
    body = chat_body("attack:fast-stream", stream=True)

    async def one(_: int) -> None:
        async with connected(attacker.address, read_limit=1024) as connection:
            connection.writer.write(post(attacker.key, body))
            await asyncio.sleep(60)

    await held(30, one)


async def early_leavers(attacker: Attacker) -> None:
    """Sends requests and closes at once, a hundred a second."""

    async def one(number: int) -> None:
        async with connected(attacker.address) as connection:
            connection.writer.write(post(attacker.key, chat_body(f"attack:hang {number}", stream=True)))
            await asyncio.sleep(0.02)

    await at_rate(100, one)


def big_prompts(text: str, size: int, per_second: float) -> Attack:
    """Returns an attack of requests with large bodies, each another one."""
    return requests(per_second, lambda number: chat_body(f"{number} {text * (size // len(text))}", temperature=0))


def bomb(number: int) -> bytes:
    """Returns a body whose JSON has half a million values."""
    values = "[" + "{}," * 500_000 + "0]"
    return chat_body(f"bomb {number}", metadata=0).replace(b'"metadata":0', b'"metadata":' + values.encode())


def nested(number: int) -> bytes:
    """Returns a body of arrays in arrays."""
    deep = b"[" * 5_000_000
    return chat_body(f"nested {number}", metadata=0).replace(b'"metadata":0', b'"metadata":' + deep)


def media(number: int) -> bytes:
    """Returns a body of 100,000 tiny data URLs."""
    part = json.dumps({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})
    content = ",".join([part] * 100_000)
    return (
        f'{{"model":"small","messages":[{{"role":"user","content":[{{"type":"text","text":"{number}"}},{content}]}}]}}'
    ).encode()


KEYED: dict[str, Attack] = {
    "deadlines of 1 ms": requests(50, lambda n: chat_body(f"late {n}"), headers="x-request-timeout-ms: 1\r\n"),
    "prompts that make the provider fail": requests(30, lambda n: chat_body(f"attack:fail {n}")),
    "prompts that make the provider reset": requests(30, lambda n: chat_body(f"attack:reset {n}")),
    "prompts without an answer": requests(30, lambda n: chat_body(f"attack:hang {n}"), seconds=3.0),
    "prompts that are answered by garbage": requests(30, lambda n: chat_body(f"attack:garbage {n}")),
    "failing streams of three keys": requests(60, lambda n: chat_body(f"attack:fail {n}", stream=True)),
    "a flood of requests": requests(300, lambda n: chat_body(f"flood {n}")),
    "a flood of long streams": streams(300, "long-stream"),
    "streams that are not read": slow_readers,
    "early leavers": early_leavers,
    "bodies of 15 MB": big_prompts("word ", 15 * 10**6, 3),
    "bodies with escapes of 18 MB": big_prompts('\\"\n', 9 * 10**6, 2),
    "JSON of half a million values": requests(3, bomb),
    "JSON of five million levels": requests(3, nested),
    "100,000 data URLs": requests(2, media),
    "an event of 15 MB in small pieces": streams(3, "big-event"),
    "300 MB of response headers": requests(2, lambda n: chat_body(f"attack:headers {n}")),
    "response trailers without an end": streams(3, "trailers"),
}
