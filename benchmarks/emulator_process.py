"""The emulator for benchmarks: without rate limits, and with no workers of its own.

python -m benchmarks.emulator_process --port 8000 [--latency 0.025]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal

import uvloop

from runpod_emulator.emulator import Emulator
from runpod_emulator.endpoint.faults import Faults
from runpod_emulator.settings import NO_RATE_LIMITS, EndpointSettings


async def serve(port: int, latency_seconds: float) -> None:
    """Serves until SIGTERM."""
    settings = EndpointSettings(endpoint_id="bench", port=port, rate_limits=NO_RATE_LIMITS)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gc.freeze()
    async with Emulator(settings) as emulator:
        if latency_seconds:
            emulator.inject(Faults(post_latency_seconds=latency_seconds))
        await stop.wait()


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.emulator_process",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, required=True, help="the port to listen on")
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="SECONDS", help="added to every worker's post (default: 0)"
    )
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.latency))


if __name__ == "__main__":
    main()
