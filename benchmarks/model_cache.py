"""Starts eight workers at once on an empty volume and kills the one that downloads at a random moment, many times.

    python -m benchmarks.model_cache [--json] [--rounds 50] [--workers 8] [--seed N]

The processes and the hub client are real; the hub is on this machine and counts the bytes that it sends. There are as
many rounds without a kill. A round is good if every surviving worker has the same whole model, published once, and
nothing is left over.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from rich.console import Console
from rich.progress import track

from handler.model_cache.layout import RepositoryDirectory
from tests.handler.model_cache import support
from tests.handler.model_cache.hub_server import HubServer
from tests.handler.model_cache.support import NAME
from tests.handler.model_cache.worker import prepare_at

# The forked processes have already imported the client, so that all of them really start at once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.handler.model_cache.worker"])
MODEL_BYTES = 40_000_000
SHARDS = 4
LATEST_KILL_SECONDS = 1.2
#: Of each connection: slow enough that a download lasts longer than the latest kill.
BYTES_PER_SECOND = 12_000_000.0


@dataclass(frozen=True)
class Round:
    """The result of one round."""

    killed_after_seconds: float | None
    killed: bool
    #: The bytes that the hub sent, divided by the bytes of the model.
    downloads: float
    asked_for_the_list: int
    seconds: float
    failures: tuple[str, ...]


def run_round(workers: int, kill_after_seconds: float | None) -> Round:
    """Runs one round on a new volume."""
    files = support.model_files(MODEL_BYTES // SHARDS, SHARDS)
    needed = support.needed(files)
    hub = HubServer(bytes_per_second=BYTES_PER_SECOND)
    hub.add(NAME, files)
    with tempfile.TemporaryDirectory() as folder, hub.running():
        root = Path(folder) / "volume"
        gate = PROCESSES.Barrier(workers + 1)
        outputs = [Path(folder) / f"path-{number}" for number in range(workers)]
        started = [PROCESSES.Process(target=prepare_at, args=(gate, root, hub.url, output)) for output in outputs]
        for worker in started:
            worker.start()
        gate.wait()
        start = time.monotonic()
        victim = None if kill_after_seconds is None else _kill_holder(root, started, kill_after_seconds)
        for worker in started:
            worker.join(120)
        seconds = time.monotonic() - start
        failures = [f"a worker ended with {one.exitcode}" for one in started if one.exitcode and one is not victim]
        failures += _differences(root, {output.read_text() for output in outputs if output.exists()}, needed)
    sent = sum(hub.sent_bytes.values()) / sum(map(len, needed.values()))
    lists = sum(path.startswith("/api/") for _, path in hub.asked)
    killed = victim is not None and victim.exitcode == -signal.SIGKILL
    return Round(kill_after_seconds, killed, sent, lists, seconds, tuple(failures))


def _kill_holder(root: Path, workers: list[ForkServerProcess], after_seconds: float) -> ForkServerProcess:
    """Kills the worker that holds the lease, `after_seconds` after the lease was taken."""
    leases = RepositoryDirectory.of(root, NAME).leases("main").path
    while not (found := sorted(leases.glob("[0-9]" * 6))):
        time.sleep(0.001)
    process = json.loads(found[-1].read_text())["process"]
    time.sleep(after_seconds)
    victim = next(worker for worker in workers if worker.pid == process)
    victim.kill()
    return victim


def _differences(root: Path, paths: set[str], needed: dict[str, bytes]) -> list[str]:
    if len(paths) != 1:
        return [f"the workers ended with {len(paths)} models"]
    (path,) = map(Path, paths)
    found = []
    if support.contents(path) != needed:
        found.append("the files are not those of the hub")
    if len(list(path.parent.iterdir())) != 1:
        found.append("more than one model was published")
    if left := support.left_behind(root):
        found.append(f"left over: {left}")
    return found


def summary(rounds: list[Round]) -> dict[str, object]:
    """Returns the figures of the rounds, with and without a kill."""
    killed = [one for one in rounds if one.killed]
    calm = [one for one in rounds if not one.killed]
    return {
        "rounds": len(rounds),
        "rounds_with_a_killed_downloader": len(killed),
        "failed_rounds": sum(bool(one.failures) for one in rounds),
        "failures": [failure for one in rounds for failure in one.failures],
        "downloads_without_a_kill": sorted({round(one.downloads, 3) for one in calm}),
        "downloads_with_a_kill_median_and_max": [
            round(statistics.median(one.downloads for one in killed), 3) if killed else None,
            round(max((one.downloads for one in killed), default=0), 3),
        ],
        "seconds_median_without_and_with_a_kill": [
            round(statistics.median(one.seconds for one in some), 2) if some else None for some in (calm, killed)
        ],
    }


def main() -> int:
    """Measures and prints. Returns 1 if a round failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model_cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="with a kill (default: %(default)s)")
    parser.add_argument("--calm-rounds", type=int, metavar="N", help="without a kill (default: as many)")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the moments (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print every round too")
    options = parser.parse_args()
    moments = random.Random(options.seed)  # noqa: S311
    calm = options.rounds if options.calm_rounds is None else options.calm_rounds
    plan = [moments.uniform(0, LATEST_KILL_SECONDS) for _ in range(options.rounds)] + [None] * calm
    console = Console(stderr=True)
    rounds = [run_round(options.workers, kill) for kill in track(plan, console=console, description="rounds")]
    result = summary(rounds)
    if options.json:
        result["each"] = [asdict(one) for one in rounds]
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 1 if result["failed_rounds"] else 0


if __name__ == "__main__":
    sys.exit(main())
