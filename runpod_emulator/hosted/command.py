"""`python -m runpod_emulator hosted --config providers.json`: hosted providers that run until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from runpod_emulator.hosted.server import HostedProviders
from runpod_emulator.hosted.settings import HostedModel, HostedSettings, read_config
from runpod_emulator.line_writer import is_read, never_wait_for_stderr


def main(arguments: Sequence[str]) -> None:
    """Runs until SIGINT or SIGTERM, then prints the bills. Exits with 2 for wrong arguments.

    Raises CannotListen.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = read_config(options.config) if options.config else (_single_provider(options),)
        providers = HostedProviders(settings, host=options.host, port=options.port)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    never_wait_for_stderr()
    asyncio.run(serve(providers, Console()))


async def serve(hosted: HostedProviders, console: Console) -> None:
    """Prints the addresses, serves until a signal comes, and prints the bills."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with hosted:
        for name in hosted.providers:
            console.print(f"{name:<14} {hosted.base_url(name)}", soft_wrap=True, highlight=False)
        await stop.wait()
    table = Table("provider", "requests", "USD", title="Hosted providers' bills")
    for name, provider in hosted.providers.items():
        bill = provider.meter.bill()
        table.add_row(name, str(bill["requests"]), bill["usd"])
    if is_read(sys.stdout):
        console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runpod_emulator hosted",
        description="Serves emulated hosted providers until Ctrl-C, then prints their bills.",
    )
    providers = parser.add_mutually_exclusive_group(required=True)
    providers.add_argument("--config", type=Path, metavar="FILE", help="serve these (JSON, see docs/emulator.md)")
    providers.add_argument("--name", help="serve one provider with one model, set by the options below")
    parser.add_argument("--model", default="emulated-model", help="the model's id (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="the key that clients must send (default: none)")
    parser.add_argument("--ttft", type=float, default=0, metavar="SECONDS", help="time to first token (default: 0)")
    parser.add_argument("--tokens-per-second", type=float, metavar="N", help="speed from then on (default: unlimited)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8001, help="0 takes any free port (default: %(default)s)")
    return parser


def _single_provider(options: argparse.Namespace) -> HostedSettings:
    return HostedSettings(
        name=options.name,
        models=(HostedModel(id=options.model),),
        api_key=options.api_key,
        ttft_seconds=options.ttft,
        tokens_per_second=options.tokens_per_second,
    )
