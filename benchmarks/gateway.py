"""`python -m benchmarks.gateway [--json] [--quick] [--only NAMES]`: the cost of a request in this gateway and others.

Each gateway is pinned to one core; the load and the provider have the other. The gateways take turns in every round, so
that other load on the machine affects all alike. Medians are printed, and in the table the spread of the CPU per
request. `python -m benchmarks.gateway soak --requests N`: the gateway's memory over time (benchmarks/gateway_soak.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.gateway_load import Load, closed_loop, requests_of
from benchmarks.gateway_peers import Peer, Started, litellm, nginx, ours, vllm_router

GATEWAY_CORE = 0
LOAD_CORE = 1
#: The port of the first gateway; each further one has the next.
PORTS = 18301
CALLERS = 32
STREAMS = 32
MESSAGES = [{"role": "system", "content": "s" * 300}, {"role": "user", "content": "word " * 120}]
CHAT = json.dumps({"model": "small", "messages": MESSAGES, "temperature": 0.7, "max_tokens": 200}).encode()
ASK_STREAM = {"model": "small", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
STREAM = json.dumps(ASK_STREAM).encode()
SHORT_STREAM = json.dumps(ASK_STREAM | {"max_tokens": 1}).encode()


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    #: The length of the closed loop in a round.
    seconds: float
    #: Calls of one caller in a round, for the added latency.
    calls: int


FULL = Size(5, 3.0, 600)
QUICK = Size(2, 1.5, 200)


@dataclass
class Measured:
    """One gateway's figures, one value for each round."""

    cpu_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    added_p50_us: list[float] = field(default_factory=list)
    added_ttft_us: list[float] = field(default_factory=list)
    burst_ttft_us: list[float] = field(default_factory=list)
    cpu_seconds_per_1000_chunks: list[float] = field(default_factory=list)

    async def round(self, started: Started, direct: str, size: Size) -> None:
        """Measures one round of every figure. `direct`: the provider's URL."""
        peer = started.peer
        chat = requests_of(peer.url, CHAT, peer.keys)
        stream = requests_of(peer.url, STREAM, peer.keys)
        await closed_loop(peer.url, chat, callers=CALLERS, calls=3)

        before = started.cpu_seconds
        load = await closed_loop(peer.url, chat, callers=CALLERS, seconds=size.seconds)
        self.cpu_us.append((started.cpu_seconds - before) / len(load.totals) * 1e6)
        self.per_second.append(len(load.totals) / size.seconds)

        at_once = await closed_loop(direct, requests_of(direct, SHORT_STREAM, peer.keys), callers=STREAMS, calls=1)
        before = started.cpu_seconds
        load = await closed_loop(peer.url, stream, callers=STREAMS, calls=1)
        self.burst_ttft_us.append((statistics.median(load.ttfts) - statistics.median(at_once.ttfts)) * 1e6)
        self.cpu_seconds_per_1000_chunks.append((started.cpu_seconds - before) / load.chunks * 1000)

        # LiteLLM takes much longer per call: fewer calls keep the round short.
        calls = max(20, size.calls // 4) if peer.name == "litellm" else size.calls
        self.added_p50_us.append(await _added(peer, direct, CHAT, calls, lambda load: load.totals))
        self.added_ttft_us.append(await _added(peer, direct, SHORT_STREAM, calls // 2, lambda load: load.ttfts))

    def row(self, started: Started) -> dict[str, Any]:
        """Returns the medians."""
        middle = statistics.median
        return {
            "name": started.peer.name,
            "version": started.peer.version,
            "cpu_us_per_request": round(middle(self.cpu_us), 1),
            "requests_per_second": round(middle(self.per_second)),
            "added_p50_us": round(middle(self.added_p50_us)),
            "added_ttft_us": round(middle(self.added_ttft_us)),
            "added_ttft_us_of_32_at_once": round(middle(self.burst_ttft_us)),
            "cpu_seconds_per_1000_chunks": round(middle(self.cpu_seconds_per_1000_chunks), 4),
            "rss_mb": round(started.rss_mb, 1),
            "start_seconds": round(started.start_seconds, 2),
        }


async def _added(peer: Peer, direct: str, body: bytes, calls: int, times: Callable[[Load], list[float]]) -> float:
    """Returns how many microseconds longer the median call takes than the same call without a gateway."""
    # Blocks of both take turns, so that other load on the machine affects both alike.
    through: list[float] = []
    without: list[float] = []
    block = max(1, calls // 10)
    for _ in range(10):
        for url, taken in ((direct, without), (peer.url, through)):
            load = await closed_loop(url, requests_of(url, body, peer.keys[:1]), callers=1, calls=block)
            taken.extend(times(load))
    return (statistics.median(through) - statistics.median(without)) * 1e6


async def start(peer: Peer, directory: Path) -> Started:
    """Starts a gateway on its core. Returns once it has answered."""
    started = Started(peer, GATEWAY_CORE, directory / f"{peer.name}.log")
    one = requests_of(peer.url, CHAT, peer.keys[:1])
    await started.until_answering(lambda: asyncio.ensure_future(closed_loop(peer.url, one, callers=1, calls=1)))
    return started


async def measure(names: list[str], size: Size) -> tuple[list[dict[str, Any]], dict[str, Measured]]:
    """Measures the named gateways. Returns a row for each, and every value."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as name, Upstream() as (upstream, _):
        directory = Path(name)
        makers: dict[str, Callable[[str, int, Path], Peer | Coroutine[Any, Any, Peer]]] = {
            "gateway": ours, "vllm-router": vllm_router, "nginx": nginx, "litellm": litellm,
        }  # fmt: skip
        running: list[Started] = []
        try:
            for number, peer_name in enumerate(names):
                made = makers[peer_name](upstream, PORTS + number, directory)
                running.append(await start(made if isinstance(made, Peer) else await made, directory))
            measured = {peer_name: Measured() for peer_name in names}
            for _ in range(size.rounds):
                for started in running:
                    await measured[started.peer.name].round(started, upstream, size)
            return [measured[started.peer.name].row(started) for started in running], measured
        finally:
            for started in running:
                started.stop()


class Upstream:
    """The provider, in a process of its own on the load's core. Entering gives its URL and process id."""

    def __enter__(self) -> tuple[str, int]:
        command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "benchmarks.gateway_upstream"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip(), self._process.pid

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()


def table(rows: list[dict[str, Any]], measured: dict[str, Measured]) -> str:
    """Returns the rows as a table, with the range of the CPU per request."""
    names = list(rows[0])
    lines = ["  ".join(f"{name:>{max(len(name), 11)}}" for name in [*names, "cpu_us_spread"])]
    for row in rows:
        cpu = measured[row["name"]].cpu_us
        cells = [*row.values(), f"{min(cpu):.0f}-{max(cpu):.0f}"]
        heads = [*names, "cpu_us_spread"]
        lines.append("  ".join(f"{cell!s:>{max(len(head), 11)}}" for head, cell in zip(heads, cells, strict=True)))
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:2] == ["soak"]:
        from benchmarks import gateway_soak  # noqa: PLC0415  it needs this module

        gateway_soak.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help=f"(default: {FULL.rounds}, with --quick {QUICK.rounds})"
    )
    parser.add_argument(
        "--only",
        default="gateway,vllm-router,nginx,litellm",
        metavar="NAMES",
        help="gateways, separated by commas (default: %(default)s)",
    )
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    size = replace(size, rounds=options.rounds or size.rounds)
    rows, measured = uvloop.run(measure(options.only.split(","), size))
    print(json.dumps({"rows": rows}) if options.json else table(rows, measured))  # noqa: T201


if __name__ == "__main__":
    main()
