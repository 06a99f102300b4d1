"""The client's overhead: its calls against raw AsyncOpenAI in one run, and its import against `import openai`.

    python -m benchmarks.client [--json] [--quick] [--rounds N] [--concurrent N]

calls: a closed loop at a server without a model, client and raw rounds in turn, medians. The server answers at once, in
a process of its own, so that the two differ only in their own CPU time. Bar: the client's throughput is at least 0.97
of the raw one. import: fresh processes in turn, medians. Bar: at most 1.3 times.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from benchmarks.load import Call, closed_loop, median
from benchmarks.paced_upstream import MODEL
from benchmarks.worker_stack import ROOT, free_port
from vllm_service import RunPodVLLMService

TOKENS = 32
QUESTION = "What is continuous batching?"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
THROUGHPUT_BAR = 0.97
IMPORT_BAR = 1.3
IMPORTS = {
    "openai": "import openai",
    "vllm_service": "import vllm_service",
    "RunPodVLLMService": "from vllm_service import RunPodVLLMService",
}
Figures = dict[str, float]
Making = Callable[[], Awaitable[Call]]


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """Starts the server in a process of its own. Yields its URL with /v1."""
    port = free_port()
    command = ("-m", "benchmarks.paced_upstream", "--port", str(port), "--tokens", str(TOKENS), "--interval-ms", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await asyncio.to_thread(_until_up, f"{url}/health")
        yield f"{url}/v1"
    finally:
        process.terminate()
        await process.wait()


def _until_up(url: str) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), urllib.request.urlopen(url):  # noqa: S310  our own server
            return
        time.sleep(0.05)
    raise RuntimeError("the upstream does not start")


def raw_calls(sdk: AsyncOpenAI) -> dict[str, Making]:
    """Makes the calls of an application that uses the SDK alone, up to the text."""

    async def chat() -> str | None:
        made = await sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=500, temperature=0.7)
        return made.choices[0].message.content

    async def stream() -> str:
        pieces = await sdk.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=500, temperature=0.7, stream=True
        )
        return "".join([piece.choices[0].delta.content or "" async for piece in pieces if piece.choices])

    return {"chat": _timed(chat), "stream": _timed(stream)}


def our_calls(service: RunPodVLLMService) -> dict[str, Making]:
    """Returns the same calls with the client."""

    async def chat() -> str:
        return (await service.chat(MESSAGES)).text

    async def stream() -> str:
        return "".join([piece async for piece in service.stream_chat(MESSAGES)])

    return {"chat": _timed(chat), "stream": _timed(stream)}


def _timed(ask: Callable[[], Awaitable[str | None]]) -> Making:
    async def call() -> Call:
        start = time.perf_counter()
        if not await ask():
            raise RuntimeError("an answer without text")
        seconds = time.perf_counter() - start
        return Call(seconds, seconds)

    return call


async def calls(rounds: int, concurrent: int, number: int) -> Figures:
    """Measures the calls a second of both, and their ratio, for whole and streamed answers."""
    async with (
        upstream() as url,
        AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as sdk,
        RunPodVLLMService(base_url=url, default_model=MODEL) as service,
    ):
        raw = raw_calls(sdk)
        ours = our_calls(service)
        figures: Figures = {}
        for kind in raw:
            rates: dict[str, list[float]] = {"raw": [], "client": []}
            for number_of_round in range(rounds + 1):
                for name, made in (("raw", raw), ("client", ours)):
                    done = await closed_loop(made[kind], concurrent, number)
                    if number_of_round:  # the first warms up
                        rates[name].append(done.calls_per_second)
            pairs = zip(rates["client"], rates["raw"], strict=True)
            figures[f"{kind}_raw_calls_per_second"] = round(median(rates["raw"]), 1)
            figures[f"{kind}_client_calls_per_second"] = round(median(rates["client"]), 1)
            figures[f"{kind}_throughput_ratio"] = round(median([ours / raw for ours, raw in pairs]), 3)
    return figures


def imports(rounds: int) -> Figures:
    """Measures milliseconds from the start of a process to its end, less those of an empty one."""
    milliseconds: dict[str, list[float]] = {name: [] for name in ("nothing", *IMPORTS)}
    for number_of_round in range(rounds + 1):
        for name, taken in milliseconds.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", IMPORTS.get(name, "")], cwd=ROOT, check=True)
            if number_of_round:
                taken.append((time.perf_counter() - start) * 1000)
    empty = statistics.median(milliseconds.pop("nothing"))
    figures = {f"import_{name}_ms": round(median(times) - empty, 1) for name, times in milliseconds.items()}
    for name in ("vllm_service", "RunPodVLLMService"):
        figures[f"import_{name}_ratio"] = round(figures[f"import_{name}_ms"] / figures["import_openai_ms"], 3)
    return figures


def main() -> None:
    """Measures and prints. Exits with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.client",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--quick", action="store_true", help="few calls, to see that it runs; no bar")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--concurrent", type=int, default=64, metavar="N", help="callers (default: %(default)s)")
    options = parser.parse_args()
    rounds, number = (1, 200) if options.quick else (options.rounds, 600)
    figures = asyncio.run(calls(rounds, options.concurrent, number)) | imports(rounds)
    lines = json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items())
    sys.stdout.write(lines + "\n")
    ratios = {name: value for name, value in figures.items() if name.endswith("_ratio")}
    missed = [name for name, value in ratios.items() if _misses(name, value)]
    if missed and not options.quick:
        sys.exit(f"missed: {', '.join(missed)}")


def _misses(name: str, ratio: float) -> bool:
    return ratio > IMPORT_BAR if name.startswith("import") else ratio < THROUGHPUT_BAR


if __name__ == "__main__":
    main()
