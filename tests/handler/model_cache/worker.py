"""A worker as far as its model: prepares it and prints its path. Run by tests and benchmarks, to be killed at will.

    python -m tests.handler.model_cache.worker ROOT HUB_URL [--gate FILE] [--crash-at N | --crash-everywhere]

--crash-everywhere forks children that kill themselves at the first, second, third, ... change that they make to the
disk, until one lives to its end; after each, a healthy child has to succeed in the same directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import huggingface_hub.file_download  # noqa: F401 - imported before the fork, and before the gate opens

from handler.model_cache.lease import Pace
from handler.model_cache.locate import ModelRequest
from handler.model_cache.prepare import PreparedModel
from tests.handler.model_cache.support import NAME, cache, hashes

CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
FAST = Pace(heartbeat_seconds=0.02, stale_seconds=0.2, poll_seconds=0.01)


def main() -> None:
    """Prepares, or forks children that do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("url")
    parser.add_argument("--gate", type=Path, help="wait until this file exists, so that many workers start at once")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--crash-everywhere", action="store_true")
    options = parser.parse_args()
    if options.crash_everywhere:
        print(json.dumps(crash_everywhere(options.root, options.url)))  # noqa: T201
        return
    while options.gate and not options.gate.exists():
        if not options.gate.parent.exists():
            sys.exit("whoever started this has gone")
        time.sleep(0.001)
    print(prepare(options.root, options.url, verify=options.verify).path)  # noqa: T201


def prepare(root: Path, url: str, *, verify: bool = False, pace: Pace | None = None) -> PreparedModel:
    """As the worker does before its engine starts."""
    worker = cache(root, url, verify=verify, pace=pace) if pace else cache(root, url, verify=verify)
    return worker.prepare(ModelRequest(NAME), lambda progress: None)


def prepare_at(gate: Barrier, root: Path, url: str, output: Path) -> None:
    """Waits until all are there, prepares, and writes the path of the model."""
    gate.wait()
    output.write_text(prepare(root, url).path)


def crash_everywhere(root: Path, url: str) -> list[dict[str, Any]]:
    """One entry for each point of death: what a healthy worker found afterwards."""
    outcomes: list[dict[str, Any]] = []
    while True:
        at = len(outcomes) + 1
        directory = root / str(at)
        killed = _status(partial(_die_at, directory, url, at))
        if not os.WIFSIGNALED(killed):
            return outcomes
        seen = _published(directory)
        healthy = _status(partial(prepare, directory, url, pace=FAST))
        after = _published(directory)
        outcomes.append({"seen_before": seen, "status": healthy, "seen_after": after})
        shutil.rmtree(directory)


def _published(directory: Path) -> list[dict[str, str]]:
    return [hashes(snapshot) for snapshot in directory.glob("models--*/snapshots/*")]


def _die_at(directory: Path, url: str, at: int) -> None:
    changes = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        # The cache names what it changes from inside an open directory, by one step.
        if (writes or event in CHANGES) and not str(arguments[0]).startswith("/"):
            changes += 1
            if changes == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    prepare(directory, url, pace=FAST)


def _status(work: Any) -> int:
    """Forks a child for it; the wait status that it ended with."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    main()
