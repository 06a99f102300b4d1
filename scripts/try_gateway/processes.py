"""Starts the parts of `make serve` as processes whose output goes to files, and stops them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 60
#: How much of a log is shown when its process has ended by itself.
_SHOWN_CHARACTERS = 2000


class Processes:
    """Processes by name. They are stopped in the opposite order when the stack closes."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._by_name: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str, variables: Mapping[str, str]) -> None:
        """Starts Python with these arguments. Its output goes to NAME.log in the directory."""
        with self._log(name).open("wb") as output:
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
        self._by_name[name] = process
        self._stack.callback(_stop, process, name)

    def ended(self) -> str | None:
        """Returns which process has ended by itself, with the end of its log; None while all run."""
        for name, process in self._by_name.items():
            if process.poll() is not None:
                log = self._log(name).read_text(errors="replace")
                return f"the {name} ended with {process.returncode}:\n{log[-_SHOWN_CHARACTERS:]}"
        return None

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


def free_port() -> int:
    """Returns a port of this machine that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def why_not_free(port: int) -> str | None:
    """Returns why nothing can listen at this port of this machine; None if it is free."""
    with socket.socket() as probe:
        # As servers do: connections of a gateway that has just ended do not keep its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError as error:
            return error.strerror
    return None


def _stop(process: subprocess.Popen[bytes], name: str) -> None:
    """Sends SIGTERM, and SIGKILL if the process does not end."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"the {name} did not stop within {STOP_SECONDS} s of SIGTERM: killed\n")
        process.kill()
        process.wait()
