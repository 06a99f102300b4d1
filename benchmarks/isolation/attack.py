"""One attacker in a process of its own, with less right to the processor than the good organisation beside it.

`python -m benchmarks.isolation.attack NAME --url URL --seconds N [--key KEY ...]`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os

import uvloop

from benchmarks.isolation.keyed import KEYED, Attack, Attacker, requests
from benchmarks.isolation.strangers import STRANGERS
from benchmarks.isolation.wire import Address, chat_body

SOURCE = "127.0.3.1"
#: Below the good organisation's load, which shares the core: a late measurement is not the gateway's fault.
NICENESS = 15

ATTACKS: dict[str, Attack] = {
    **KEYED,
    **STRANGERS,
    # What is special about these is the gateway's surroundings: stack.py.
    "a flood, with Redis at +200 ms": requests(200, lambda n: chat_body(f"flood {n}")),
    "a broken count in Redis": requests(30, lambda n: chat_body(f"flood {n}")),
    "a log that is not read": requests(1.5, lambda n: chat_body(f"logged {n}")),
}


async def attack(name: str, url: str, keys: list[str], seconds: float) -> None:
    """Attacks for so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ATTACKS[name](Attacker(Address.of(url, SOURCE), tuple(keys)))


def main() -> None:
    """Attacks until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.isolation.attack", description=__doc__)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", dest="keys", action="append", default=[])
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    os.nice(NICENESS)
    uvloop.run(attack(options.name, options.url, options.keys, options.seconds))


if __name__ == "__main__":
    main()
