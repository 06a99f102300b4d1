"""The time from a process's start to the first token: this worker, vLLM's own server, reading ahead, compiled kernels.

    python -m benchmarks.cold_start [start|read-ahead|compile ...] [--rounds 5] [--json]

start       The worker takes a streaming job that waits in the emulator's queue. The other side is vLLM's own server,
            polled every tenth of a second until it is healthy, and then sent the same request.
read-ahead  The worker with READ_AHEAD on and off, with 2 GB of random weights that are dropped from the page cache
            before each start: on this disk, and on a volume of its own with a network volume's speed.
compile     Without `enforce_eager`: a start with the kernels that an earlier one left on the volume, against a start
            with an empty volume.

The variants run in turn; medians and ranges are printed. On a machine with a GPU the times include what vLLM compiles
and captures there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.random_model import drop_from_page_cache, make_random_model
from benchmarks.slow_disk import slow_volume
from benchmarks.worker_stack import CHAT, QUESTION, ROOT, environment, free_port, process
from runpod_emulator.settings import EndpointSettings, worker_environment

DEMO = {"MODEL_NAME": str(ROOT / "demo_model"), "SERVED_MODEL_NAME": "demo", "KV_CACHE_MEMORY_BYTES": "512M"}
SERVE_FLAGS = ("--served-model-name", "demo", "--enforce-eager", "--kv-cache-memory-bytes", "512M")
REQUEST = {"model": "demo", "messages": QUESTION, "max_tokens": 1, "stream": True, "temperature": 0}
START_SECONDS = 600
#: About what users report of a busy network volume; one reader's share there is smaller still.
SLOW_BYTES_PER_SECOND = 250_000_000
VOLUME_BYTES = 4 * 10**9
RECORD = re.compile(r"cold_start (\{.*\})")


@dataclass
class Start:
    """One start."""

    #: From the process's start to the first token.
    seconds: float
    #: Seconds by phase, from the worker's own record.
    phases: dict[str, float] = field(default_factory=dict)


async def start_worker(variables: Mapping[str, str]) -> Start:
    """Measures the start of a worker on a queue in which a job already waits."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v2/bench"
    own = worker_environment(EndpointSettings(endpoint_id="bench"), f"http://127.0.0.1:{port}", "worker-1")
    emulator = process("-m", "benchmarks.emulator_process", "--port", str(port), wait_for=f"{url}/health")
    async with emulator, aiohttp.ClientSession() as session:
        answer = asyncio.create_task(_first_byte(session, f"{url}/openai{CHAT}"))
        await asyncio.sleep(0.5)  # the job is in the queue
        began_at = time.perf_counter()
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "handler.py"),
            cwd=ROOT,
            env=environment(own | dict(variables) | {"LOG_FORMAT": "text"}),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert worker.stderr is not None
        log = asyncio.create_task(worker.stderr.read())
        await asyncio.wait({answer, log}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise RuntimeError(f"the worker ended:\n{(await log).decode(errors='replace')[-2000:]}")
        seconds = await answer - began_at
        worker.terminate()
        await worker.wait()
    found = RECORD.search((await log).decode(errors="replace"))
    phases = json.loads(found.group(1))["phases"] if found else []
    return Start(seconds, {phase["name"]: phase["seconds"] for phase in phases})


async def start_server() -> Start:
    """Measures the start of vLLM's own server, which is polled until it is healthy."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = (
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(ROOT / "demo_model"),
        "--port",
        str(port),
        *SERVE_FLAGS,
    )
    began_at = time.perf_counter()
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, *command),
        cwd=ROOT,
        env=environment({"VLLM_NO_USAGE_STATS": "1"}),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    draining = asyncio.create_task(server.stderr.read()) if server.stderr else None
    async with aiohttp.ClientSession() as session, asyncio.timeout(START_SECONDS):
        while not await _is_healthy(session, f"{url}/health"):
            assert server.returncode is None, "vLLM's server ended"
            await asyncio.sleep(0.1)
        seconds = await _first_byte(session, f"{url}{CHAT}") - began_at
    server.terminate()
    await server.wait()
    if draining:
        await draining
    return Start(seconds)


async def _first_byte(session: aiohttp.ClientSession, url: str) -> float:
    timeout = aiohttp.ClientTimeout(total=START_SECONDS)
    async with session.post(url, json=REQUEST, timeout=timeout) as response:
        response.raise_for_status()
        await response.content.readany()
        arrived_at = time.perf_counter()
        await response.read()
        return arrived_at


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@dataclass(frozen=True)
class Row:
    """One row of the table: medians over the rounds, with the range."""

    measure: str
    variant: str
    rounds: int
    seconds: float
    fastest: float
    slowest: float
    ratio: float | None
    phases: dict[str, float]


Variants = dict[str, Callable[[], Awaitable[Start]]]


async def measure(name: str, variants: Variants, rounds: int) -> list[Row]:
    """Runs the variants in turn. The ratio is the median of each round's ratio to the last variant."""
    starts: dict[str, list[Start]] = {variant: [] for variant in variants}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=rounds * len(variants))
        for _ in range(rounds):
            for variant, begin in variants.items():
                starts[variant].append(await begin())
                progress.advance(task)
    return [_row(name, variant, starts[variant], starts[list(variants)[-1]]) for variant in variants]


def _row(name: str, variant: str, starts: list[Start], against: list[Start]) -> Row:
    seconds = [start.seconds for start in starts]
    names = dict.fromkeys(phase for start in starts for phase in start.phases)
    return Row(
        measure=name,
        variant=variant,
        rounds=len(starts),
        seconds=round(statistics.median(seconds), 2),
        fastest=round(min(seconds), 2),
        slowest=round(max(seconds), 2),
        ratio=None
        if starts is against
        else round(statistics.median([a.seconds / b.seconds for a, b in zip(starts, against, strict=True)]), 3),
        phases={
            phase: round(statistics.median([start.phases.get(phase, 0.0) for start in starts]), 2) for phase in names
        },
    )


async def compare_start(rounds: int) -> list[Row]:
    """Compares this worker with a polled server."""
    return await measure("start", {"worker": lambda: start_worker(DEMO), "vLLM server": start_server}, rounds)


async def compare_read_ahead(rounds: int) -> list[Row]:
    """Compares READ_AHEAD on and off without the page cache: on this disk, and on a slow volume if one can be made."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as directory:
        rows = await _read_ahead("read-ahead, this disk", Path(directory), rounds)
    with slow_volume(VOLUME_BYTES, SLOW_BYTES_PER_SECOND) as volume:
        if volume:
            rows += await _read_ahead(f"read-ahead, {SLOW_BYTES_PER_SECOND // 10**6} MB/s", volume, rounds)
    return rows


async def _read_ahead(name: str, directory: Path, rounds: int) -> list[Row]:
    model = make_random_model(directory / "model", ROOT / "demo_model")
    variables = DEMO | {"MODEL_NAME": str(model)}

    async def start(read_ahead: str) -> Start:
        drop_from_page_cache(model)
        return await start_worker(variables | {"READ_AHEAD": read_ahead})

    return await measure(name, {"read ahead": lambda: start("true"), "not read ahead": lambda: start("false")}, rounds)


async def compare_compile(rounds: int) -> list[Row]:
    """Compares a start with the kernels that an earlier one has compiled to a first start on an empty volume."""
    with tempfile.TemporaryDirectory() as volume:
        variables = DEMO | {"ENFORCE_EAGER": "false"}

        async def start(cache_dir: Path) -> Start:
            with tempfile.TemporaryDirectory() as local:  # another machine's disk
                return await start_worker(variables | {"COMPILE_CACHE_DIR": str(cache_dir), "TMPDIR": local})

        kept = Path(volume) / "kept"
        await start(kept)
        first = iter(Path(volume) / f"first-{number}" for number in range(rounds))
        return await measure(
            "compile", {"compiled before": lambda: start(kept), "first start": lambda: start(next(first))}, rounds
        )


MEASURES: dict[str, Callable[[int], Any]] = {
    "start": compare_start,
    "read-ahead": compare_read_ahead,
    "compile": compare_compile,
}


def main() -> None:
    """Measures and prints; progress goes to stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cold_start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"one of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if unknown := set(options.measures) - set(MEASURES):
        parser.error(f"unknown MEASURE: {', '.join(sorted(unknown))}; known: {', '.join(MEASURES)}")
    rows = [row for name in options.measures or MEASURES for row in asyncio.run(MEASURES[name](options.rounds))]
    if options.json:
        sys.stdout.write(json.dumps({"rows": [asdict(row) for row in rows]}) + "\n")
    else:
        Console(width=160).print(_table(rows))


def _table(rows: list[Row]) -> Table:
    table = Table(title="From process start to the first token, seconds")
    for name in Row.__dataclass_fields__:
        table.add_column(name)
    for row in rows:
        phases = ", ".join(f"{name} {seconds}" for name, seconds in row.phases.items())
        table.add_row(*(str(value) for value in list(asdict(row).values())[:-1]), phases)
    return table


if __name__ == "__main__":
    main()
