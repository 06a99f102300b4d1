"""Several real workers on one volume, killed, paused, and started at once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from pathlib import Path

from handler.model_cache.layout import RepositoryDirectory
from tests.handler.model_cache import support
from tests.handler.model_cache.hub_server import HubServer
from tests.handler.model_cache.support import NAME, contents, left_behind, path_of, start_worker

FILES = support.model_files(size_bytes=600_000)
NEEDED = support.needed(FILES)
WEIGHTS = [path for path in NEEDED if path.endswith("of-00002.safetensors")]


def expect_one_model(root: Path, paths: list[Path]) -> None:
    assert len(set(paths)) == 1
    assert contents(paths[0]) == NEEDED
    assert [path.name for path in paths[0].parent.iterdir()] == [paths[0].name]
    assert left_behind(root) == []


def test_eight_workers_at_once_make_one_download(tmp_path: Path) -> None:
    hub = HubServer()
    hub.add(NAME, FILES)
    with hub.running():
        workers = [start_worker(tmp_path / "volume", hub.url, "--gate", str(tmp_path / "gate")) for _ in range(8)]
        (tmp_path / "gate").touch()
        paths = [path_of(worker) for worker in workers]
    expect_one_model(tmp_path / "volume", paths)
    assert hub.sent_bytes == {path: len(content) for path, content in NEEDED.items()}
    assert len([path for _, path in hub.asked if path.startswith("/api/")]) == 1


def test_after_kill_9_at_every_change_of_the_disk_the_next_worker_succeeds(tmp_path: Path) -> None:
    """A reader never sees a part of a model: what is published is whole, or there is nothing."""
    hub = HubServer()
    hub.add(NAME, FILES)
    with hub.running():
        worker = start_worker(tmp_path, hub.url, "--crash-everywhere")
        stdout, stderr = worker.communicate(timeout=300)
    outcomes = json.loads(stdout)
    whole = [{path: hashlib.sha256(content).hexdigest() for path, content in NEEDED.items()}]
    assert len(outcomes) > 20, stderr
    assert [outcome["status"] for outcome in outcomes] == [0] * len(outcomes), stderr
    assert all(outcome["seen_before"] in ([], whole) for outcome in outcomes)
    assert all(outcome["seen_after"] == whole for outcome in outcomes)


def holder_of(root: Path) -> int:
    """The process that holds the newest lease."""
    leases = RepositoryDirectory.of(root, NAME).leases("main")
    newest = max(path for path in leases.path.iterdir() if path.name.isdigit())
    return int(json.loads(newest.read_text())["process"])


def signal_once_at(hub: HubServer, root: Path, path: str, number: int) -> list[int]:
    """Sends the signal to the worker that asks for such a path; the list will hold its process."""
    hit: list[int] = []

    def act(asked: str) -> None:
        if asked.endswith(path) and not hit:
            hit.append(holder_of(root))
            os.kill(hit[0], number)

    hub.on_request = act
    return hit


def test_a_download_goes_on_where_a_killed_worker_left_it(tmp_path: Path) -> None:
    """The hub's client writes 10 MB at a time, so that much is on the disk when a partial file has a size."""
    files = support.model_files(size_bytes=30_000_000, shards=1)
    (weights,) = [path for path in files if path.endswith("of-00001.safetensors")]
    root, hub = tmp_path / "volume", HubServer(bytes_per_second=20_000_000)
    hub.add(NAME, files)
    with hub.running():
        first = start_worker(root, hub.url)
        while not any(path.stat().st_size for path in root.rglob(weights + ".partial")):
            assert first.poll() is None
            threading.Event().wait(0.01)
        first.kill()
        first.communicate()
        (left,) = [path.stat().st_size for path in root.rglob(weights + ".partial")]
        hub.sent_bytes.clear()
        path = path_of(start_worker(root, hub.url))
    assert contents(path) == support.needed(files)
    assert left > 0
    assert hub.sent_bytes == {weights: len(files[weights]) - left}


def test_a_holder_killed_while_it_asks_the_hub_is_followed_by_one_of_seven(tmp_path: Path) -> None:
    root, hub = tmp_path / "volume", HubServer()
    hub.add(NAME, FILES)
    with hub.running():
        killed = signal_once_at(hub, root, "/revision/main", signal.SIGKILL)
        workers = [start_worker(root, hub.url) for _ in range(8)]
        alive = [worker for worker in workers if worker.wait(60) == 0]
        paths = [path_of(worker) for worker in alive]
    for worker in workers:
        worker.communicate()
    assert [worker.pid for worker in workers if worker not in alive] == killed
    expect_one_model(root, paths)


def test_a_paused_holder_that_wakes_up_after_the_takeover_ends_with_the_same_model(tmp_path: Path) -> None:
    root, hub = tmp_path / "volume", HubServer()
    hub.add(NAME, FILES)
    with hub.running():
        paused = signal_once_at(hub, root, WEIGHTS[0], signal.SIGSTOP)
        first = start_worker(root, hub.url)
        while not paused:
            threading.Event().wait(0.01)
        second = path_of(start_worker(root, hub.url))
        before = contents(second)
        os.kill(first.pid, signal.SIGCONT)
        expect_one_model(root, [second, path_of(first)])
    assert before == NEEDED


def test_workers_that_all_find_a_flipped_bit_mend_it_once(tmp_path: Path) -> None:
    root, hub = tmp_path / "volume", HubServer()
    hub.add(NAME, FILES)
    with hub.running():
        path = path_of(start_worker(root, hub.url))
        weights = bytearray((path / WEIGHTS[0]).read_bytes())
        weights[-1] ^= 1
        (path / WEIGHTS[0]).write_bytes(weights)
        hub.sent_bytes.clear()
        paths = [path_of(worker) for worker in [start_worker(root, hub.url, "--verify") for _ in range(3)]]
    expect_one_model(root, paths)
    assert hub.sent_bytes == {WEIGHTS[0]: len(NEEDED[WEIGHTS[0]])}
