"""`python -m scripts.try_gateway`: starts all parts, prints their addresses, sends traffic, and stops on Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.panel import Panel

import scripts.try_gateway as package
from handler.settings import DEMO_MODEL_NAME
from scripts.try_gateway import configuration, story, traffic
from scripts.try_gateway.processes import ROOT, Processes, free_port, why_not_free

START_SECONDS = 60
LOOK_SECONDS = 1.0


def main() -> int:
    """Runs until Ctrl-C, then returns 0; returns 1 if a part ends by itself or does not start."""
    options = _parser().parse_args()
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # A process that a shell starts in the background inherits an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    waves = traffic.Waves(total_seconds=60 * options.traffic_minutes)
    directory = options.directory.absolute()
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        demo = Demo(
            port=options.port or free_port(),
            emulator_port=free_port(),
            directory=directory,
            waves=waves,
            processes=Processes(directory, stack),
            console=console,
        )
        sys.stderr.write(f"{asyncio.run(demo.run())}\n")
        return 1
    console.print("stopped")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.try_gateway",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--port", type=_port, default=8090, help="the gateway's port, 0: any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=ROOT / "build" / "serve",
        help="where configuration, ledger and logs go (default: build/serve)",
    )
    parser.add_argument(
        "--traffic-minutes",
        type=_minutes,
        default=10.0,
        metavar="MINUTES",
        help="how long questions are sent, in waves; 0: none (default: %(default)s)",
    )
    return parser


def _port(text: str) -> int:
    with suppress(ValueError):
        if 0 <= (port := int(text)) <= 65_535:
            return port
    raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (minutes := float(text)) < math.inf:
            return minutes
    raise argparse.ArgumentTypeError(f"expected a number of minutes, 0 or more, got {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """All parts, and where they are."""

    port: int
    emulator_port: int
    directory: Path
    waves: traffic.Waves
    processes: Processes
    console: Console

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def emulator_url(self) -> str:
        """The address of the emulated RunPod and of the emulated hosted providers."""
        return f"http://127.0.0.1:{self.emulator_port}"

    async def run(self) -> str:
        """Runs until a process ends by itself or does not start; returns what is wrong."""
        # Before anything starts: whatever listens there would be taken for the gateway, and would get its traffic.
        if reason := why_not_free(self.port):
            return (
                f"port {self.port}: {reason}. Stop what listens there, or choose another port: "
                "python -m scripts.try_gateway --port 0 takes any free one."
            )
        try:
            self._start()
        except OSError as error:
            return f"{self.directory}: {error.strerror or error}. Choose a folder that can be written with --directory."
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            with self.console.status("starting the emulator and the gateway ..."):
                for address in (
                    f"{self.emulator_url}/v2/{configuration.ENDPOINT_ID}/health",
                    f"{self.url}/health/live",
                ):
                    if complaint := await self._wait_for(client, address):
                        return complaint
            self.console.print(self._welcome())
            self.console.print(_call(self.url), soft_wrap=True, highlight=False, markup=False)
            sending = asyncio.create_task(traffic.send(self.url, self.waves))
            try:
                return await self._report(client)
            finally:
                sending.cancel()
                await asyncio.wait([sending])

    def _start(self) -> None:
        configuration.write(self.directory, self.emulator_url)
        self.processes.start(
            "emulator",
            *("-m", "runpod_emulator", "--worker", f"{sys.executable} handler.py"),
            *configuration.emulator_arguments(self.directory, self.emulator_port),
            variables=configuration.worker_variables(),
        )
        self.processes.start(
            "gateway",
            *("-m", "vllm_service", "serve"),
            variables=configuration.gateway_variables(self.directory, self.port),
        )

    async def _wait_for(self, client: httpx.AsyncClient, address: str) -> str | None:
        """Waits until an address answers. Returns what is wrong if a process ends, or START_SECONDS pass."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while not (complaint := self.processes.ended()):
                    with suppress(httpx.HTTPError):
                        if (await client.get(address)).is_success:
                            return None
                    await asyncio.sleep(0.1)
                return complaint
        return f"{address} did not answer within {START_SECONDS} s; the logs are in {self.directory}"

    async def _report(self, client: httpx.AsyncClient) -> str:
        """Prints what happens until a process ends by itself; returns which one, and the end of its log."""
        events = story.Story()
        loop = asyncio.get_running_loop()
        start = loop.time()
        while not (complaint := self.processes.ended()):
            # After the traffic nothing changes but by the page, which shows it.
            if (seconds := loop.time() - start) < self.waves.total_seconds:
                with suppress(httpx.HTTPError):
                    for line in events.lines(seconds, await story.look(client, self.url, self.emulator_url)):
                        self.console.print(line, soft_wrap=True, highlight=False, markup=False)
            await asyncio.sleep(LOOK_SECONDS)
        return complaint

    def _welcome(self) -> Panel:
        text = (
            f"[bold]Try it:        {self.url}/[/bold]\n"
            f"Base URL:      {self.url}/v1   (no key is needed on this machine)\n"
            f"OpenAPI:       {self.url}/openapi.json\n"
            f"Metrics:       {self.url}/metrics\n"
            f"Ledger, logs:  {self.directory}\n\n"
            f"{DEMO_MODEL_NAME} is offered by\n"
            f"  {configuration.OWN:<10} an emulated RunPod endpoint, ${configuration.USD_PER_SECOND}/s (RTX 4090)\n"
            f"  {' and '.join(configuration.HOSTED)}, emulated, "
            f"${configuration.INPUT_USD} / ${configuration.OUTPUT_USD} per million tokens (gpt-4o)\n\n"
            "Nothing is billed. Ctrl-C stops everything."
        )
        return Panel(text, title="gateway", expand=False)


def _call(url: str) -> str:
    message = {"role": "user", "content": "What is the capital of France?"}
    body = json.dumps({"model": DEMO_MODEL_NAME, "messages": [message]})
    return f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"


if __name__ == "__main__":
    sys.exit(main())
