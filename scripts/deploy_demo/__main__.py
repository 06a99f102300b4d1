"""`python -m scripts.deploy_demo`: starts the emulator, runs each command of `deploy` and shows it, and stops."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape

import scripts.deploy_demo as package
from handler.settings import DEMO_MODEL_DIR
from scripts.try_gateway.configuration import worker_variables
from scripts.try_gateway.processes import ROOT, Processes, free_port

START_SECONDS = 60
LOOK_SECONDS = 0.1
#: What a user would write. The image is only named: the emulator runs the worker of this folder.
SPEC = f"""\
# Written by `make deploy-demo`.
name: demo
model: {DEMO_MODEL_DIR}
image: you/vllm-worker:0.1.0
context_length: 2048
concurrency: 4
workers_max: 1
idle_timeout_seconds: 30
network_volume_gb: 10
data_center: EU-RO-1
"""
#: What is typed, and what it is for.
COMMANDS = (
    ("What does the model need, which GPUs hold it, and what would they cost?", ("plan",)),
    ("Make it, wait for a worker, and ask one question.", ("apply", "--write")),
    ("Again: nothing has to be changed, and the worker is warm.", ("apply",)),
    ("What is there now, and what does it cost an hour?", ("status",)),
    ("Delete all of it, the network volume too.", ("destroy", "--volumes", "--yes")),
)


def main() -> int:
    """Returns 0 when every command did what it says, else 1. Ctrl-C ends all of it."""
    options = _parser().parse_args()
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    directory = options.directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "deploy.yaml").write_text(SPEC, encoding="utf-8")
        (directory / "providers.yaml").unlink(missing_ok=True)  # of an endpoint that was deleted
        with ExitStack() as stack:
            return _run(Processes(directory, stack), directory, console)
    except KeyboardInterrupt:
        return 1
    except OSError as error:
        sys.stderr.write(f"{directory}: {error.strerror or error}. Choose a folder that can be written: --directory.\n")
        return 1


def _run(processes: Processes, directory: Path, console: Console) -> int:
    key, port = f"demo-{secrets.token_hex(8)}", free_port()
    origin = f"http://127.0.0.1:{port}"
    arguments = ("--port", str(port), "--api-key", key, "--worker-logs", str(directory / "worker-logs"))
    processes.start(
        "emulator",
        *("-m", "runpod_emulator", "--worker", f"{sys.executable} handler.py", *arguments),
        variables={name: value for name, value in worker_variables().items() if name != "MODEL_NAME"},
    )
    if complaint := _why_not_up(processes, f"{origin}/v2/local/health"):
        sys.stderr.write(f"{complaint}\n")
        return 1
    console.print(f"An emulated RunPod at {origin}; its workers are real processes with the demo model.")
    console.print(f"{directory / 'deploy.yaml'}:\n\n{SPEC}")
    variables = {
        **os.environ,
        "RUNPOD_API_KEY": key,
        "RUNPOD_REST_URL": origin,
        "CONFIG_DIR": str(directory),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    for title, command in COMMANDS:
        console.print(f"[bold]{escape(title)}[/bold]\n[cyan]$ python -m vllm_service deploy {' '.join(command)}[/cyan]")
        code = subprocess.run(
            [sys.executable, "-m", "vllm_service", "deploy", *command], cwd=directory, env=variables, check=False
        ).returncode
        if code:
            console.print(f"[red]ended with {code}; logs are in {escape(str(directory))}[/red]")
            return 1
        console.print()
    console.print(
        "Nothing is left. On RunPod itself it is the same: set RUNPOD_API_KEY, leave RUNPOD_REST_URL out, and name an "
        "image that you have pushed (docs/deploy.md)."
    )
    return 0


def _why_not_up(processes: Processes, address: str) -> str | None:
    """Waits until the address answers, in whatever way; returns what is wrong if it does not."""
    ends_at = time.monotonic() + START_SECONDS
    while not (complaint := processes.ended()):
        with suppress(httpx.HTTPError):
            httpx.get(address, timeout=5, trust_env=False)  # 401, without the key, is an answer too
            return None
        if time.monotonic() > ends_at:
            return f"the emulator did not answer within {START_SECONDS} s"
        time.sleep(LOOK_SECONDS)
    return complaint


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.deploy_demo",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=ROOT / "build" / "deploy-demo",
        help="where deploy.yaml, providers.yaml and logs go (default: build/deploy-demo)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
