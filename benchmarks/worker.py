"""The cost of the worker's job loop: chat through emulator and worker, against the same upstream called directly.

    python -m benchmarks.worker [--json] [--rounds 3] [--quick] [--engine paced|slow-posts|demo|all]

paced       An upstream of 32 tokens, 10 ms apart, behind VLLM_BASE_URL: the loop alone.
slow-posts  The same with 25 ms added to every post.
demo        The demo model, embedded, against the same worker's HTTP mode, which is vLLM's app without a queue.

Direct and worker rounds take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from functools import partial

import aiohttp
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import Round, chat, closed_loop, median
from benchmarks.worker_stack import Stack, demo_stack, paced_stack

TOKENS = 32
STACKS: dict[str, Callable[[], AbstractAsyncContextManager[Stack]]] = {
    "paced": paced_stack,
    "slow-posts": partial(paced_stack, 0.025),
    "demo": demo_stack,
}
EVERY_CASE = [(streaming, concurrent) for streaming in (False, True) for concurrent in (1, 8, 32, 64)]
CASES = {"paced": EVERY_CASE, "slow-posts": [(True, 1), (True, 8)], "demo": EVERY_CASE}


@dataclass(frozen=True)
class Row:
    """One row of the table: medians over the rounds."""

    engine: str
    streaming: bool
    concurrent: int
    direct_calls_per_second: float
    worker_calls_per_second: float
    throughput_ratio: float
    direct_ttft_p50_ms: float
    added_ttft_p50_ms: float
    added_ttft_p99_ms: float
    posts_per_stream: float | None
    bytes_posted_ratio: float | None


def main() -> int:
    """Measures and prints; progress goes to stderr."""
    options = _parse()
    rows = asyncio.run(_measure(options.engine, options.rounds, options.concurrent, quick=options.quick))
    if options.json:
        sys.stdout.write(json.dumps({"rows": [asdict(row) for row in rows]}) + "\n")
    else:
        Console(width=160).print(_table(rows))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.worker",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls, to see that it runs")
    parser.add_argument("--engine", choices=[*STACKS, "all"], default="all", help="(default: %(default)s)")
    parser.add_argument(
        "--concurrent",
        type=int,
        nargs="+",
        default=[1, 8, 32, 64],
        metavar="N",
        help="the numbers of callers (default: 1 8 32 64)",
    )
    return parser.parse_args()


async def _measure(engine: str, rounds: int, concurrencies: list[int], *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        for name in STACKS if engine == "all" else [engine]:
            cases = [case for case in CASES[name] if case[1] in concurrencies]
            task = progress.add_task(name, total=len(cases) * rounds)
            # uvicorn closes idle connections after 5 s: shorter here, so that no request meets a closing one.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
            async with STACKS[name]() as stack, aiohttp.ClientSession(connector=connector) as session:
                for streaming, concurrent in cases:
                    measured = []
                    for _ in range(rounds):
                        measured.append(await _round(stack, session, streaming, concurrent, quick=quick))
                        progress.advance(task)
                    rows.append(_row(name, streaming, concurrent, measured))
    return rows


@dataclass(frozen=True)
class _Pair:
    direct: Round
    worker: Round
    posts_per_stream: float
    bytes_ratio: float


async def _round(
    stack: Stack, session: aiohttp.ClientSession, streaming: bool, concurrent: int, *, quick: bool
) -> _Pair:
    body = stack.body(TOKENS, streaming)
    calls = concurrent * (2 if quick else 20) if concurrent > 1 else (5 if quick else 30)
    direct = await closed_loop(chat(session, stack.direct_url, body), concurrent, calls)
    before = stack.posted()
    worker = await closed_loop(chat(session, stack.worker_url, body), concurrent, calls)
    posted = stack.posted() - before
    return _Pair(direct, worker, posted.stream_posts / calls, posted.total_bytes / max(1, posted.payload_bytes))


def _row(engine: str, streaming: bool, concurrent: int, pairs: list[_Pair]) -> Row:
    return Row(
        engine=engine,
        streaming=streaming,
        concurrent=concurrent,
        direct_calls_per_second=round(median([pair.direct.calls_per_second for pair in pairs]), 2),
        worker_calls_per_second=round(median([pair.worker.calls_per_second for pair in pairs]), 2),
        throughput_ratio=round(median([p.worker.calls_per_second / p.direct.calls_per_second for p in pairs]), 3),
        direct_ttft_p50_ms=round(median([pair.direct.ttft_ms(0.5) for pair in pairs]), 1),
        added_ttft_p50_ms=round(median([pair.worker.ttft_ms(0.5) - pair.direct.ttft_ms(0.5) for pair in pairs]), 1),
        added_ttft_p99_ms=round(median([pair.worker.ttft_ms(0.99) - pair.direct.ttft_ms(0.99) for pair in pairs]), 1),
        posts_per_stream=round(median([pair.posts_per_stream for pair in pairs]), 1) if streaming else None,
        bytes_posted_ratio=round(median([pair.bytes_ratio for pair in pairs]), 2) if streaming else None,
    )


def _table(rows: list[Row]) -> Table:
    table = Table(title="The worker through the emulator, against its upstream called directly")
    for name in Row.__dataclass_fields__:
        table.add_column(name.replace("_", " "), justify="left" if name == "engine" else "right")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in asdict(row).values()))
    return table


if __name__ == "__main__":
    sys.exit(main())
