"""Draws the two synthetic traces that travel in the wheel. The same seed gives the same bytes.

    .venv/bin/python -m scripts.make_traces [--output vllm_service/data/traces] [--seed 0]

bursty: an hour of a coding assistant. Calm and busy spells follow one another, prompts are long, answers short.
diurnal: a day of chat. The rate rises and falls smoothly with the hour, answers are longer than prompts.
They contain no real requests; rates and lengths are of the size that published traces have.
"""

from __future__ import annotations

import argparse
import gzip
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TRACES = Path(__file__).resolve().parent.parent / "vllm_service" / "data" / "traces"
HEADER = "arrival_s,prompt_tokens,completion_tokens"
HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class Lengths:
    """A lognormal distribution of token counts, cut off at `most`."""

    median: float
    #: The standard deviation of the logarithm.
    sigma: float
    most: int

    def draw(self, source: random.Random) -> int:
        """Returns at least one token."""
        drawn = self.median * math.exp(source.gauss(0.0, self.sigma))
        return min(max(round(drawn), 1), self.most)


@dataclass(frozen=True)
class Kind:
    """A kind of trace: the arrivals of its requests and the lengths of their prompts and completions."""

    arrivals: Callable[[random.Random], Iterator[float]]
    prompt: Lengths
    completion: Lengths


def bursty_arrivals(source: random.Random) -> Iterator[float]:
    """Yields an hour of arrivals: calm spells of about 90 s at 0.3 requests a second, busy ones of about 40 s at 5."""
    now = 0.0
    is_busy = False
    while now < HOUR_SECONDS:
        ends = min(now + source.expovariate(1 / 40.0 if is_busy else 1 / 90.0), HOUR_SECONDS)
        yield from _poisson(source, now, ends, 5.0 if is_busy else 0.3)
        now = ends
        is_busy = not is_busy


def diurnal_arrivals(source: random.Random) -> Iterator[float]:
    """Yields a day of arrivals: 0.02 requests a second at four in the morning, 0.16 at four in the afternoon."""
    highest = 0.16
    for at in _poisson(source, 0.0, 24 * HOUR_SECONDS, highest):
        of_day = 0.5 - 0.5 * math.cos(2 * math.pi * (at / HOUR_SECONDS - 4.0) / 24.0)
        # Thinning: a candidate stays with the share that the rate at its time has of the highest rate.
        if source.random() < (0.02 + (highest - 0.02) * of_day) / highest:
            yield at


def _poisson(source: random.Random, begins: float, ends: float, per_second: float) -> Iterator[float]:
    at = begins + source.expovariate(per_second)
    while at < ends:
        yield at
        at += source.expovariate(per_second)


KINDS = {
    "bursty": Kind(bursty_arrivals, Lengths(1400.0, 0.9, 8000), Lengths(22.0, 0.8, 600)),
    "diurnal": Kind(diurnal_arrivals, Lengths(220.0, 1.0, 8000), Lengths(280.0, 0.8, 2000)),
}


def csv_of(kind: Kind, seed: int) -> str:
    """Returns the trace as CSV; its first request comes at 0."""
    source = random.Random(seed)
    arrivals = list(kind.arrivals(source))
    rows = (f"{at - arrivals[0]:.3f},{kind.prompt.draw(source)},{kind.completion.draw(source)}" for at in arrivals)
    return "\n".join([HEADER, *rows]) + "\n"


def compressed(text: str) -> bytes:
    """Returns gzip without a time stamp, which would differ from run to run."""
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes NAME.csv.gz for each kind."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.make_traces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=TRACES, help="the folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, kind in KINDS.items():
        (options.output / f"{name}.csv.gz").write_bytes(compressed(csv_of(kind, options.seed)))


if __name__ == "__main__":
    main()
