"""`python -m runpod_emulator hosted --config providers.json`: hosted providers until Ctrl-C, then their bills."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from runpod_emulator.hosted.server import HostedProviders
from runpod_emulator.hosted.settings import HostedModel, HostedSettings, read_config


def main(arguments: Sequence[str]) -> None:
    """Runs until SIGINT or SIGTERM. Exits 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m runpod_emulator hosted", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="providers in JSON, see docs/emulator.md")
    what.add_argument("--name", help="one provider with one model, as the next options say")
    parser.add_argument("--model", default="emulated-model")
    parser.add_argument("--api-key", help="ask clients for this key")
    parser.add_argument("--ttft", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--tokens-per-second", type=float)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001, help="0 takes any free one (default: 8001)")
    options = parser.parse_args(arguments)
    try:
        providers = read_config(options.config) if options.config else (_one(options),)
        asyncio.run(serve(HostedProviders(providers, host=options.host, port=options.port), Console()))
    except (ValueError, OSError) as error:
        parser.error(str(error))


async def serve(hosted: HostedProviders, console: Console) -> None:
    """From the addresses to the bills."""
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
    console.print(table)


def _one(options: argparse.Namespace) -> HostedSettings:
    return HostedSettings(
        name=options.name,
        models=(HostedModel(id=options.model),),
        api_key=options.api_key,
        ttft_seconds=options.ttft,
        tokens_per_second=options.tokens_per_second,
    )
