"""The share of cached prompt tokens at a load-balancing endpoint: conversations kept on their workers, against not.

    python -m benchmarks.affinity [--json] [--rounds 3] [--workers 3] [--conversations 60] [--turns 4]

Real vLLM workers with the demo model are behind the emulator's load balancer; one gateway process has their endpoint as
two providers, with `keep_conversations` on and off. The conversations of both go on turn by turn; no two are alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import quantile_of
from benchmarks.worker_stack import ROOT
from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.endpoint.registry import READY

ARMS = {"pinned": True, "not pinned": False}
WORKER = {
    "MODEL_NAME": str(ROOT / "demo_model"),
    "SERVED_MODEL_NAME": "demo",
    "KV_CACHE_MEMORY_BYTES": "256M",
    "ENABLE_PREFIX_CACHING": "true",
    "ENABLE_PROMPT_TOKENS_DETAILS": "true",
    "BLOCK_SIZE": "32",  # the least on CPUs, where the default of 128 is more than a turn has
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
START_SECONDS = 300
#: Words of a turn of the caller, and tokens of an answer.
TURN_WORDS, ANSWER_TOKENS = 60, 4
WORDS = (
    "rivers",
    "bridges",
    "markets",
    "people",
    "say",
    "the",
    "old",
    "capital",
    "of",
    "a",
    "country",
    "meets",
    "where",
)


@dataclass(frozen=True)
class Load:
    """The conversations of one round."""

    conversations: int
    turns: int
    concurrent: int


@dataclass
class Round:
    """The measurements of one round of one arm."""

    arm: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, usage: dict[str, Any], seconds: float) -> None:
        """Takes one answer's usage, and how long it took."""
        self.prompt_tokens += usage["prompt_tokens"]
        self.cached_tokens += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.seconds.append(seconds)


@dataclass(frozen=True)
class Row:
    """One arm, over all rounds."""

    arm: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    cached_share: float
    lowest_round: float
    highest_round: float
    answer_p50_ms: float


def main() -> int:
    """Measures and prints; progress goes to stderr."""
    options = _parse()
    load = Load(options.conversations, options.turns, options.concurrent)
    with tempfile.TemporaryDirectory() as folder:
        rounds = asyncio.run(_measure(Path(folder), options.workers, options.rounds, load))
    rows = [_row(arm, [each for each in rounds if each.arm == arm]) for arm in ARMS]
    if options.json:
        setting = {"workers": options.workers, "rounds": options.rounds, **asdict(load)}
        sys.stdout.write(json.dumps({"setting": setting, "rows": [asdict(row) for row in rows]}) + "\n")
    else:
        Console(width=120).print(_table(rows))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.affinity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    numbers = {"rounds": 3, "workers": 3, "conversations": 60, "turns": 4, "concurrent": 6}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help="(default: %(default)s)")
    return parser.parse_args()


async def _measure(folder: Path, workers: int, rounds: int, load: Load) -> list[Round]:
    settings = EndpointSettings(
        endpoint_id="ep",
        type="load_balancer",
        scaling="request_count",
        requests_per_worker=load.concurrent,
        min_workers=workers,
        max_workers=workers,
        health_check_timeout_seconds=30,  # a busy machine is no sick worker
    )
    command = WorkerCommand(
        (sys.executable, "handler.py"), variables=WORKER, directory=ROOT, log_directory=folder / "workers"
    )
    measured = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("workers start", total=rounds * len(ARMS) * load.conversations * load.turns)
        async with Emulator(settings, command, rest_quotas={}) as emulator:
            await _until_ready(emulator, workers)
            async with _gateway(folder, emulator.origin, workers) as url, aiohttp.ClientSession() as session:
                progress.update(task, description="conversations")
                for number in range(rounds):
                    arms = [_Arm(session, url, arm, number, load) for arm in ARMS]
                    for turn in range(load.turns):
                        for arm in arms if turn % 2 == 0 else reversed(arms):
                            await arm.take_a_turn(lambda: progress.advance(task))
                    measured += [arm.result for arm in arms]
    return measured


async def _until_ready(emulator: Emulator, workers: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while sum(worker.state in READY for worker in emulator.workers.values()) < workers:
            await emulator.endpoint.changed.wait(0.2)


@asynccontextmanager
async def _gateway(folder: Path, origin: str, workers: int) -> AsyncIterator[str]:
    """Starts a gateway with the endpoint as one provider for each arm, and yields its URL with /v1."""
    expected = {"always_on_workers": workers, "max_workers": workers, "idle_timeout_seconds": 600}
    own: dict[str, Any] = {"type": "load_balancer", "endpoint_id": "ep", "api_url": origin, "expected": expected}
    own |= {"usd_per_second": 0.00019, "as_of": "2026-11-29"}
    providers = {_name(arm): own | {"keep_conversations": keeps} for arm, keeps in ARMS.items()}
    models = {name: {"offers": [{"provider": name, "model": "demo"}]} for name in providers}
    (folder / "providers.yaml").write_text(json.dumps({"providers": providers}))
    (folder / "models.yaml").write_text(json.dumps({"models": models}))
    variables = {"SERVICE_PORT": "0", "CONFIG_DIR": str(folder), "DATA_DIR": str(folder / "data")}
    variables |= {"REQUESTS_PER_SECOND_PER_IP": "100000", "LOG_LEVEL": "ERROR"}
    with (folder / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("env", *(f"{name}={value}" for name, value in variables.items())),
            *(sys.executable, "-m", "vllm_service", "serve"),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                url = (await process.stdout.readline()).decode().strip()
            if not url:
                raise RuntimeError((folder / "gateway.log").read_text())
            await asyncio.sleep(3)  # it looks at its workers
            yield url
        finally:
            process.terminate()
            await process.wait()


class _Arm:
    """One arm of a round: its conversations, and what they have measured."""

    def __init__(self, session: aiohttp.ClientSession, url: str, arm: str, number: int, load: Load) -> None:
        self.result = Round(arm)
        self._session = session
        self._url = url
        self._free = asyncio.Semaphore(load.concurrent)
        self._histories: list[list[dict[str, str]]] = [[] for _ in range(load.conversations)]
        self._draws = [random.Random(f"{arm} {number} {each}") for each in range(load.conversations)]  # noqa: S311

    async def take_a_turn(self, advance: Callable[[], None]) -> None:
        """Sends one turn of every conversation, so many at once, in an order that changes with each turn."""
        order = list(range(len(self._histories)))
        self._draws[0].shuffle(order)
        await asyncio.gather(*(self._ask(each, advance) for each in order))

    async def _ask(self, each: int, advance: Callable[[], None]) -> None:
        messages = self._histories[each]
        messages.append({"role": "user", "content": " ".join(self._draws[each].choices(WORDS, k=TURN_WORDS))})
        body = {"model": _name(self.result.arm), "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
        async with self._free:
            began = time.perf_counter()
            async with self._session.post(f"{self._url}/chat/completions", json=body) as answer:
                document = await answer.json()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {document}")
            self.result.add(document["usage"], time.perf_counter() - began)
        messages.append({"role": "assistant", "content": document["choices"][0]["message"]["content"]})
        advance()


def _name(arm: str) -> str:
    return arm.replace(" ", "-")


def _row(arm: str, rounds: list[Round]) -> Row:
    shares = [each.cached_tokens / each.prompt_tokens for each in rounds]
    seconds = [second for each in rounds for second in each.seconds]
    prompt, cached = sum(each.prompt_tokens for each in rounds), sum(each.cached_tokens for each in rounds)
    return Row(
        arm=arm,
        requests=len(seconds),
        prompt_tokens=prompt,
        cached_tokens=cached,
        cached_share=round(cached / prompt, 3),
        lowest_round=round(min(shares), 3),
        highest_round=round(max(shares), 3),
        answer_p50_ms=round(quantile_of(seconds, 0.5) * 1000, 1),
    )


def _table(rows: list[Row]) -> Table:
    table = Table(title="cached prompt tokens at a load-balancing endpoint")
    for column in ("", "requests", "prompt tokens", "cached", "share", "by round", "answer p50 ms"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        between = f"{row.lowest_round:.3f}-{row.highest_round:.3f}"
        table.add_row(
            *(row.arm, str(row.requests), str(row.prompt_tokens), str(row.cached_tokens)),
            *(f"{row.cached_share:.3f}", between, f"{row.answer_p50_ms:.1f}"),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
