"""One good organisation at 100 requests a second beside each attacker in turn, at `python -m vllm_service serve`.

    python -m benchmarks.isolation [NAME ...] [--json FILE] [--seconds N] [--checkout PATH] [--quick]

For each attacker a new gateway with its default settings, keys and one provider: first the good organisation alone,
then beside the attacker. Bars: 99.9 % of the good requests answered, their p99 at most three times that of alone, no
circuit breaker opened, at most 300 MB more memory, /health/live below 250 ms. The exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import redis
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.isolation.attack import ATTACKS
from benchmarks.isolation.good import Answers, GoodOrganisation, Probe, probing
from benchmarks.isolation.keyed import KEYED
from benchmarks.isolation.stack import LOAD_CORE, Stack, stack
from benchmarks.isolation.strangers import STRANGERS

SLOW_REDIS = "a flood, with Redis at +200 ms"
BROKEN_COUNT = "a broken count in Redis"
UNREAD_LOG = "a log that is not read"
LEAST_ANSWERED = 0.999
MOST_P99_RATIO = 3.0
MOST_MEMORY_MB = 300.0
MOST_HEALTH_MS = 250.0
#: The attack has begun by then.
LEAD_SECONDS = 1.0


@dataclass(frozen=True)
class Row:
    """The good organisation beside one attacker."""

    attacker: str
    has_key: bool
    sent: int
    answered_percent: float
    failures: dict[str, int]
    alone_p50_ms: float | None
    alone_p99_ms: float | None
    p50_ms: float | None
    p99_ms: float | None
    breaker_openings: int
    #: The most that it took beyond what it had before the attack; None if the gateway has ended.
    memory_mb: float | None
    health_ms: float
    health_failures: int
    is_alive: bool

    @property
    def misses(self) -> list[str]:
        """Returns the bars that are missed."""
        alone, beside = self.alone_p99_ms, self.p99_ms
        bars = {
            "answered": self.answered_percent >= 100 * LEAST_ANSWERED,
            "p99": alone is not None and beside is not None and beside <= MOST_P99_RATIO * alone,
            "breaker": self.breaker_openings == 0,
            "memory": self.memory_mb is not None and self.memory_mb <= MOST_MEMORY_MB,
            "health": self.health_ms <= MOST_HEALTH_MS and self.health_failures == 0,
            "alive": self.is_alive,
        }
        return [name for name, is_kept in bars.items() if not is_kept]


class Periods(NamedTuple):
    """What was measured without and with the attacker."""

    alone: Answers
    beside: Answers
    probe: Probe


async def measure(name: str, checkout: Path, directory: Path, seconds: float) -> Row:
    """Measures one attacker."""
    delay = {SLOW_REDIS: 0.2, BROKEN_COUNT: 0.0}.get(name)
    running = stack(directory, checkout, redis_delay_seconds=delay, reads_log=name != UNREAD_LOG)
    async with running as gateway:
        good = GoodOrganisation(gateway.url, gateway.good_keys)
        await good.run(1.0)
        alone = await good.run(seconds / 2)
        _prepare(name, gateway)
        before_mb = gateway.reset_peak()
        probe = Probe(gateway.url)
        async with _attacker(name, gateway, seconds + LEAD_SECONDS), probing(probe):
            beside = await good.run(seconds)
        good.close()
        return _row(name, gateway, Periods(alone, beside, probe), before_mb)


@asynccontextmanager
async def _attacker(name: str, gateway: Stack, seconds: float) -> AsyncIterator[None]:
    """Runs the attacker, from `LEAD_SECONDS` before the body until its end."""
    quiet = asyncio.subprocess.DEVNULL
    attacker = await asyncio.create_subprocess_exec(*_command(name, gateway, seconds), stdout=quiet, stderr=quiet)
    try:
        await asyncio.sleep(LEAD_SECONDS)
        yield
    finally:
        if attacker.returncode is None:
            attacker.kill()
        await attacker.wait()


def _prepare(name: str, gateway: Stack) -> None:
    """Gives the attacker's organisation a count of the wrong type, as a fault in its own data would."""
    if name != BROKEN_COUNT or gateway.redis is None:
        return
    with redis.Redis(port=gateway.redis.port) as client:
        client.set("vllm-service:org:bad:leases", "no set")


def _command(name: str, gateway: Stack, seconds: float) -> list[str]:
    keys = [] if name in STRANGERS else gateway.bad_keys
    if name in KEYED and "three keys" not in name:
        keys = keys[:1]
    options = [argument for key in keys for argument in ("--key", key)]
    command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "benchmarks.isolation.attack", name]
    return [*command, "--url", gateway.url, "--seconds", str(seconds), *options]


def _row(name: str, gateway: Stack, periods: Periods, before_mb: float) -> Row:
    alone, answers, probe = periods
    peak_mb = gateway.peak_mb
    return Row(
        attacker=name,
        has_key=name not in STRANGERS,
        sent=answers.sent,
        answered_percent=round(100 * answers.answered_share, 3),
        failures=dict(answers.failures),
        alone_p50_ms=alone.quantile_ms(0.5),
        alone_p99_ms=alone.quantile_ms(0.99),
        p50_ms=answers.quantile_ms(0.5),
        p99_ms=answers.quantile_ms(0.99),
        breaker_openings=gateway.openings,
        memory_mb=None if peak_mb is None else round(peak_mb - before_mb, 1),
        health_ms=round(probe.slowest_seconds * 1000, 1),
        health_failures=probe.failures,
        is_alive=gateway.is_alive,
    )


async def measure_all(names: list[str], checkout: Path, seconds: float) -> list[Row]:
    """Measures the named attackers, with a bar of progress."""
    os.sched_setaffinity(0, {LOAD_CORE})
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("attackers", total=len(names))
        for name in names:
            progress.update(task, description=name)
            with tempfile.TemporaryDirectory() as directory:
                rows.append(await measure(name, checkout, Path(directory), seconds))
            progress.advance(task)
    return rows


def table(rows: list[Row]) -> Table:
    """Returns the table."""
    shown = Table("attacker", "key", "answered %", "p99 ms alone", "p99 ms", "breaker", "MB", "health ms", "missed")
    for row in rows:
        shown.add_row(
            row.attacker,
            "yes" if row.has_key else "no",
            f"{row.answered_percent:.2f}",
            _number(row.alone_p99_ms),
            _number(row.p99_ms),
            str(row.breaker_openings),
            _number(row.memory_mb),
            _number(row.health_ms),
            ", ".join(row.misses),
        )
    return shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def main() -> int:
    """Measures and prints. Returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isolation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="attackers (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--seconds", type=float, default=15.0, help="beside each attacker (default: %(default)s)")
    parser.add_argument(
        "--checkout", type=Path, default=Path(), metavar="PATH", help="another checkout's gateway (default: this one)"
    )
    parser.add_argument("--quick", action="store_true", help="3 s each, to see that it runs")
    parser.add_argument("--list", action="store_true", help="print the attackers' names")
    options = parser.parse_args()
    if options.list:
        sys.stdout.write("\n".join(ATTACKS) + "\n")
        return 0
    if unknown := [name for name in options.names if name not in ATTACKS]:
        parser.error(f"there is no attacker {unknown[0]!r}; --list shows their names")
    seconds = 3.0 if options.quick else options.seconds
    rows = uvloop.run(measure_all(options.names or list(ATTACKS), options.checkout.resolve(), seconds))
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": [asdict(row) | {"misses": row.misses} for row in rows]}, indent=2))
    Console(width=140).print(table(rows))
    return 1 if any(row.misses for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
