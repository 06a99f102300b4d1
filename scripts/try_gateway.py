"""`make serve`: an emulated RunPod with the demo model, an emulated hosted provider, and the gateway in front of both.

Everything runs on this machine until Ctrl-C. Nothing is sent elsewhere, and nothing is billed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from handler.settings import DEMO_FLAGS

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 180
STOP_SECONDS = 60
HOSTED = {
    "providers": [
        {
            "name": "hosted",
            "models": [{"id": "demo-hosted", "input_usd": "0.15", "output_usd": "0.60"}],
            "ttft_seconds": 0.3,
            "tokens_per_second": 80,
        }
    ]
}
PROVIDERS = """# Written by `make serve`.
providers:
  own:
    endpoint_id: emulated
    api_url: {emulator}
    usd_per_second: 0.00031
    as_of: 2026-11-21
  hosted:
    base_url: {emulator}/hosted/hosted/v1
    prices:
      demo-hosted: {{ input: 0.15, output: 0.60, as_of: 2026-11-21 }}
"""
MODELS = """# Written by `make serve`.
baseline: openai/gpt-4o-mini
models:
  demo-model:
    description: The bundled demo model, on the emulated endpoint
    offers: [{ provider: own, model: demo-model }]
    context_length: 2048
  demo-hosted:
    description: An emulated hosted provider with random words as answers
    offers: [{ provider: hosted, model: demo-hosted }]
    context_length: 131072
"""


def main() -> int:
    """Starts all three, prints their addresses, and stops them on Ctrl-C. Returns 1 if one of them ends by itself."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.try_gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8090, help="the gateway's port (default: %(default)s)")
    parser.add_argument(
        "--directory",
        type=Path,
        default=ROOT / "build" / "serve",
        help="where configuration, ledger and logs go (default: build/serve)",
    )
    options = parser.parse_args()
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # A process that a shell starts in the background inherits an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        return _serve(options.port, options.directory.absolute(), console, stack)
    console.print("stopped")
    return 0


def _serve(port: int, directory: Path, console: Console, stack: ExitStack) -> int:
    emulator_url = f"http://127.0.0.1:{_free_port()}"
    _configure(directory, emulator_url)
    emulator = _start(
        stack,
        directory / "emulator.log",
        *("-m", "runpod_emulator", "--worker", f"{sys.executable} handler.py", "--endpoint-id", "emulated"),
        *("--port", emulator_url.rpartition(":")[2], "--min-workers", "1", "--max-workers", "1"),
        *("--hosted", str(directory / "hosted.json"), "--worker-logs", str(directory / "worker-logs")),
        variables=_worker_variables(),
    )
    gateway = _start(
        stack,
        directory / "gateway.log",
        *("-m", "vllm_service", "serve"),
        variables={
            "SERVICE_PORT": str(port),
            "CONFIG_DIR": str(directory),
            "DATA_DIR": str(directory / "data"),
            "BASELINE_MODEL": "",
        },
    )
    processes = {"emulator": emulator, "gateway": gateway}
    with console.status("starting the emulator, the gateway, and a worker with the demo model (about 15 s) ..."):
        url = f"http://127.0.0.1:{port}"
        _until(lambda: _json(f"{url}/health/live") is not None, processes, directory)
        _until(lambda: _has_a_worker(emulator_url), processes, directory)
    console.print(_welcome(url, directory))
    console.print(_call(url), soft_wrap=True, highlight=False, markup=False)
    while all(process.poll() is None for process in processes.values()):
        time.sleep(0.2)
    return _ended(processes, directory)


def _worker_variables() -> dict[str, str]:
    """Returns the worker's variables for the demo model with adapter and tools; MODEL_NAME is vLLM's `model`."""
    flags = {name.upper(): value for name, value in DEMO_FLAGS.items() if name != "model"}
    return flags | {"MODEL_NAME": DEMO_FLAGS["model"], "HF_HUB_OFFLINE": "1"}


def _configure(directory: Path, emulator_url: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosted.json").write_text(json.dumps(HOSTED))
    (directory / "providers.yaml").write_text(PROVIDERS.format(emulator=emulator_url))
    (directory / "models.yaml").write_text(MODELS)


def _start(stack: ExitStack, log: Path, *arguments: str, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a Python process whose output goes to a file. It is stopped when the stack closes."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A terminal sends Ctrl-C to its foreground process group; the emulator must stop its worker, not that.
            start_new_session=True,
        )
    stack.callback(_stop, process, log.stem)
    return process


def _stop(process: subprocess.Popen[bytes], name: str) -> None:
    """Sends SIGTERM, and SIGKILL if the process does not end."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"the {name} did not stop within {STOP_SECONDS} s of SIGTERM: killed\n")
        process.kill()
        process.wait()


def _until(condition: Callable[[], bool], processes: Mapping[str, subprocess.Popen[bytes]], directory: Path) -> None:
    """Waits for the condition. Raises SystemExit if a process has ended, or it takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if any(process.poll() is not None for process in processes.values()):
            raise SystemExit(_ended(processes, directory))
        if time.monotonic() > deadline:
            raise SystemExit(
                f"no worker became ready within {START_SECONDS} s; its log is in {directory / 'worker-logs'}"
            )
        time.sleep(0.2)


def _ended(processes: Mapping[str, subprocess.Popen[bytes]], directory: Path) -> int:
    for name, process in processes.items():
        if process.poll() is not None:
            log = (directory / f"{name}.log").read_text(errors="replace")
            sys.stderr.write(f"the {name} ended with {process.returncode}:\n{log[-2000:]}\n")
    return 1


def _has_a_worker(emulator_url: str) -> bool:
    workers = (_json(f"{emulator_url}/v2/emulated/health") or {}).get("workers", {})
    return bool(workers.get("idle") or workers.get("ready") or workers.get("running"))


def _json(url: str) -> dict[str, dict[str, int]] | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own loopback address
            document: dict[str, dict[str, int]] = json.load(response)
            return document
    except (OSError, urllib.error.URLError, ValueError):
        return None


def _welcome(url: str, directory: Path) -> Panel:
    text = (
        f"[bold]Try it:        {url}/[/bold]\n"
        f"Base URL:      {url}/v1   (no key is needed on this machine)\n"
        f"OpenAPI:       {url}/openapi.json\n"
        f"Metrics:       {url}/metrics\n"
        f"Ledger, logs:  {directory}\n\nCtrl-C stops everything."
    )
    return Panel(text, title="gateway", expand=False)


def _call(url: str) -> str:
    message = {"role": "user", "content": "What is the capital of France?"}
    body = json.dumps({"model": "demo-model", "messages": [message]})
    return f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main())
