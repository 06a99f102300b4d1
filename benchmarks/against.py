"""`python -m benchmarks.against BASE [--json] [--rounds N] [--quick] [--only NAMES]`: the CPU of this tree and another.

request  gateway, microseconds of CPU for one non-streaming chat request, 32 callers in a closed loop
chunks   gateway, CPU seconds for 1,000 chunks of 32 streams at once, 5 ms between two chunks of one
call     LLMRouter.generate, microseconds for one call, 32 callers in a closed loop
job      worker, microseconds for one streaming job of 32 tokens, 8 at once, with a paced upstream as its engine

CPU is user and system time of the whole process. Both trees run at once, on the same core, with the same upstream. A
round consists of short blocks of both in turn, so that other load on the machine affects both alike. A ratio is the
figure of this tree divided by that of the other in the same round; medians and ranges are printed. Only public commands
of either tree are used (benchmarks/checkouts.py). Exits with 1 if a median ratio is above the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import aiohttp
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.checkouts import Gateway, Router, gateway, router, upstream
from benchmarks.gateway import CALLERS, CHAT, GATEWAY_CORE, LOAD_CORE, STREAM, STREAMS
from benchmarks.gateway_load import closed_loop, requests_of
from benchmarks.load import chat
from benchmarks.load import closed_loop as jobs_loop
from benchmarks.paced_upstream import CHAT as CHAT_PATH
from benchmarks.worker_stack import QUESTION, ROOT, EmulatedWorker, emulated_worker, free_port, process

#: The highest ratio that passes.
BAR = 1.03
JOBS_AT_ONCE = 8
#: For each figure the unit that is printed, and the factor from CPU seconds per request, chunk, call or job to it.
UNITS = {"request": ("us", 1e6), "chunks": ("s per 1,000", 1e3), "call": ("us", 1e6), "job": ("us", 1e6)}


@dataclass(frozen=True)
class Block:
    """The CPU seconds of a block, and the number of requests, chunks, calls or jobs that they were spent on."""

    cpu_seconds: float
    units: int


Measure = Callable[[], Awaitable[Block]]
#: By the figure's name: the measure of this tree and that of the base.
Measures = dict[str, list[Measure]]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    #: Blocks of each tree in a round.
    blocks: int
    #: The length of a block: seconds of chat requests, calls of LLMRouter, or jobs.
    seconds: float
    calls: int
    jobs: int
    #: The keys that the callers share. There are so many because a key may make 10,000 requests a minute.
    keys: int


FULL = Size(5, 12, 0.35, 192, 48, 128)
QUICK = Size(1, 1, 0.3, 64, 16, 8)


@dataclass(frozen=True)
class Compared:
    """One figure of both trees, a value for each round."""

    #: Of this tree.
    here: list[float]
    base: list[float]

    @property
    def ratios(self) -> list[float]:
        """Returns this tree's value divided by the other's, for each round."""
        return [here / base for here, base in zip(self.here, self.base, strict=True)]

    @property
    def is_met(self) -> bool:
        """Returns whether the median ratio is within the bar."""
        return statistics.median(self.ratios) <= BAR

    def to_json(self, unit: str) -> dict[str, object]:
        """Returns the medians, the range, and every round."""
        return {
            "unit": unit,
            "here": statistics.median(self.here),
            "base": statistics.median(self.base),
            "ratio": statistics.median(self.ratios),
            "lowest_ratio": min(self.ratios),
            "highest_ratio": max(self.ratios),
            "rounds": {"here": self.here, "base": self.base},
        }


def cpu_seconds(pid: int) -> float:
    """Returns the user and system time of a process so far, from its CPU clock."""
    # /proc and psutil count in hundredths of a second. This is what clock_getcpuclockid(3) computes on Linux.
    return time.clock_gettime((~pid << 3) | 2)


async def requests_made(served: Gateway, size: Size) -> Block:
    """Measures chat requests, one after the other for each caller."""
    requests = requests_of(served.url, CHAT, served.keys)
    before = cpu_seconds(served.pid)
    load = await closed_loop(served.url, requests, callers=CALLERS, seconds=size.seconds)
    return Block(cpu_seconds(served.pid) - before, len(load.totals))


async def chunks_relayed(served: Gateway, size: Size) -> Block:
    """Measures streams that begin at once."""
    requests = requests_of(served.url, STREAM, served.keys)
    before = cpu_seconds(served.pid)
    load = await closed_loop(served.url, requests, callers=STREAMS, calls=1)
    return Block(cpu_seconds(served.pid) - before, load.chunks)


async def calls_made(asked: Router, size: Size) -> Block:
    """Measures calls of LLMRouter.generate."""
    measured = await asked.calls(size.calls)
    return Block(measured["cpu_seconds"], measured["calls"])


async def jobs_run(worker: EmulatedWorker, size: Size) -> Block:
    """Measures streaming jobs of 32 tokens."""
    fields = {"model": "paced", "messages": QUESTION, "max_tokens": 32, "stream": True}
    async with aiohttp.ClientSession() as session:
        call = chat(session, f"{worker.endpoint_url}/openai{CHAT_PATH}", json.dumps(fields).encode())
        before = cpu_seconds(worker.pid)
        await jobs_loop(call, JOBS_AT_ONCE, size.jobs)
    return Block(cpu_seconds(worker.pid) - before, size.jobs)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Pins this process, and those that it starts in the context, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def gateways(trees: list[Path], size: Size) -> AsyncIterator[Measures]:
    """Starts a gateway of each tree, with one upstream."""
    async with AsyncExitStack() as stack:
        stack.enter_context(on_core(LOAD_CORE))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(upstream())
        with on_core(GATEWAY_CORE):
            serving = [
                gateway(tree, url, directory / str(number), keys=size.keys, limited=False)
                for number, tree in enumerate(trees)
            ]
            served = [await stack.enter_async_context(one) for one in serving]
        yield {
            "request": [partial(requests_made, one, size) for one in served],
            "chunks": [partial(chunks_relayed, one, size) for one in served],
        }


@asynccontextmanager
async def routers(trees: list[Path], size: Size) -> AsyncIterator[Measures]:
    """Starts an LLMRouter of each tree, in a process of its own."""
    async with AsyncExitStack() as stack:
        stack.enter_context(on_core(LOAD_CORE))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(upstream())
        with on_core(GATEWAY_CORE):
            asked = [await stack.enter_async_context(router(tree, url, directory, callers=CALLERS)) for tree in trees]
        yield {"call": [partial(calls_made, one, size) for one in asked]}


@asynccontextmanager
async def workers(trees: list[Path], size: Size) -> AsyncIterator[Measures]:
    """Starts a worker of each tree behind an emulator of this tree, with one upstream of a token each millisecond."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    paced = ("-m", "benchmarks.paced_upstream", "--port", str(port), "--interval-ms", "1")
    async with AsyncExitStack() as stack:
        stack.enter_context(on_core(LOAD_CORE))
        await stack.enter_async_context(process(*paced, wait_for=f"{url}/health"))
        started = [
            await stack.enter_async_context(emulated_worker({"VLLM_BASE_URL": url}, directory=tree)) for tree in trees
        ]
        for one in started:
            os.sched_setaffinity(one.pid, {GATEWAY_CORE})
        yield {"job": [partial(jobs_run, one, size) for one in started]}


GROUPS = {"gateway": gateways, "router": routers, "worker": workers}


async def compare(base: Path, groups: list[str], size: Size) -> dict[str, Compared]:
    """Measures every figure of the groups; progress goes to stderr."""
    compared: dict[str, Compared] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for group in groups:
            async with GROUPS[group]([ROOT, base], size) as measures:
                compared |= {name: Compared([], []) for name in measures}
                task = progress.add_task(group, total=size.rounds)
                await _warm_up(measures)
                for _ in range(size.rounds):
                    for name, pair in measures.items():
                        await _round(compared[name], pair, size.blocks, UNITS[name][1])
                    progress.advance(task)
    return compared


async def _warm_up(measures: Measures) -> None:
    for measure in chain.from_iterable(measures.values()):
        await measure()


async def _round(compared: Compared, pair: list[Measure], blocks: int, scale: float) -> None:
    totals = [Block(0.0, 0), Block(0.0, 0)]
    for number in range(blocks):
        # The order alternates, so that neither tree always runs in the state that the other left behind.
        for tree in (0, 1) if number % 2 == 0 else (1, 0):
            block = await pair[tree]()
            totals[tree] = Block(totals[tree].cpu_seconds + block.cpu_seconds, totals[tree].units + block.units)
    for values, total in zip((compared.here, compared.base), totals, strict=True):
        values.append(total.cpu_seconds / total.units * scale)


def table(compared: dict[str, Compared]) -> Table:
    """Returns a table of medians (ranges)."""
    made = Table(title="CPU of this tree beside the other's")
    for head in ("", "unit", "this tree", "base", "ratio, median of the rounds", "bar"):
        made.add_column(head, justify="left" if head in ("", "unit") else "right")
    for name, one in compared.items():
        digits = 4 if name == "chunks" else 0
        cells = [_spread(values, digits) for values in (one.here, one.base)]
        made.add_row(name, UNITS[name][0], *cells, _spread(one.ratios, 3), str(BAR))
    return made


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> int:
    """Measures and prints. Returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", metavar="BASE", type=Path, help="another checkout of this repository")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"(default: {FULL.rounds}, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs; no bar")
    parser.add_argument(
        "--only", default=",".join(GROUPS), metavar="NAMES", help="groups, separated by commas (default: %(default)s)"
    )
    options = parser.parse_args()
    if not (options.base / "vllm_service").is_dir():
        parser.error(f"{options.base} is no checkout of this repository: it has no folder vllm_service")
    groups = options.only.split(",")
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"--only: unknown: {', '.join(sorted(unknown))}; known: {', '.join(GROUPS)}")
    size = QUICK if options.quick else FULL
    size = replace(size, rounds=options.rounds or size.rounds)
    compared = uvloop.run(compare(options.base.resolve(), groups, size))
    if options.json:
        sys.stdout.write(json.dumps({name: one.to_json(UNITS[name][0]) for name, one in compared.items()}) + "\n")
    else:
        Console(width=140).print(table(compared))
    return 0 if options.quick or all(one.is_met for one in compared.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
