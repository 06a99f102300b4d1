"""Read-ahead: which files, how much of them, and that it ends when it is told to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from handler.settings import StartSettings
from handler.start import read_ahead
from handler.start.read_ahead import PIECE_BYTES, Piece, ReadAhead, free_bytes, is_cached, pieces_of, weight_files
from handler.start.timeline import Timeline

MEMINFO = "MemTotal:       100000 kB\nMemAvailable:    10000 kB\n"


def weights(directory: Path, sizes: dict[str, int]) -> Path:
    """Files that are on the disk and not in the page cache."""
    for name, size in sizes.items():
        path = directory / name
        with path.open("wb") as file:
            file.write(os.urandom(size))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return directory


def test_safetensors_go_before_other_weights_in_the_order_of_their_shards(tmp_path: Path) -> None:
    weights(tmp_path, {"b.safetensors": 1, "a.safetensors": 1, "x.bin": 1, "config.json": 1})
    assert [path.name for path in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    (tmp_path / "a.safetensors").unlink()
    (tmp_path / "b.safetensors").unlink()
    assert [path.name for path in weight_files(tmp_path)] == ["x.bin"]


def test_the_pieces_cover_the_files_as_far_as_the_budget_goes(tmp_path: Path) -> None:
    weights(tmp_path, {"a.safetensors": PIECE_BYTES + 5, "b.safetensors": 10})
    a, b = weight_files(tmp_path)
    assert list(pieces_of([a, b], 10**9)) == [Piece(a, 0, PIECE_BYTES), Piece(a, PIECE_BYTES, 5), Piece(b, 0, 10)]
    assert list(pieces_of([a, b], PIECE_BYTES)) == [Piece(a, 0, PIECE_BYTES)]
    assert list(pieces_of([a, b], 0)) == []


def test_every_byte_is_read_once_and_what_is_cached_is_not_read_again(tmp_path: Path) -> None:
    weights(tmp_path, {"a.safetensors": 2 * PIECE_BYTES, "b.safetensors": PIECE_BYTES})
    expected = sum(piece.size for piece in pieces_of(weight_files(tmp_path), 10**9) if not is_cached(piece))
    first = ReadAhead(tmp_path, 10**9, readers=3)
    first.finish()
    assert first.bytes_read == expected
    assert all(is_cached(piece) for piece in pieces_of(weight_files(tmp_path), 10**9))
    second = ReadAhead(tmp_path, 10**9)
    second.finish()
    assert second.bytes_read == 0


def test_it_stops_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    os.truncate(tmp_path / "a.safetensors", 1 << 40)  # a sparse terabyte: nobody reads it to its end
    ahead = ReadAhead(tmp_path, 1 << 40, readers=2)
    ahead.stop()
    assert ahead.bytes_read < 1 << 40
    assert [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")] == []


def test_a_file_that_cannot_be_read_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with caplog.at_level("WARNING"), read_ahead.reading(tmp_path, StartSettings(), Timeline()):
        pass
    assert "read-ahead gave up: NotOurs" in caplog.text


def test_a_fifo_among_the_weights_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    weights(tmp_path, {"b.safetensors": 10})
    ahead = ReadAhead(tmp_path, 10**9)
    ahead.finish()
    assert [piece.path.name for piece in pieces_of(weight_files(tmp_path), 10**9)] == ["b.safetensors"]


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ((None, None), 0.8 * 10_240_000),
        (("max\n", "5\n"), 0.8 * 10_240_000),
        (("3000000\n", "1000000\n"), 0.8 * 2_000_000),
        (("10\n", "20\n"), 0),
    ],
)
def test_a_fifth_of_the_free_memory_stays_free_in_a_container_too(
    cgroup: tuple[str | None, str | None], expected: float
) -> None:
    assert free_bytes(MEMINFO, *cgroup) == int(expected)


def test_the_phase_is_on_the_timeline_only_where_something_is_read(tmp_path: Path) -> None:
    weights(tmp_path, {"a.safetensors": 100})
    timeline = Timeline()
    with (
        read_ahead.reading(None, StartSettings(), timeline),
        read_ahead.reading(tmp_path, StartSettings(read_ahead=False), timeline),
    ):
        pass
    assert timeline.phases == []
    with read_ahead.reading(tmp_path, StartSettings(), timeline):
        pass
    assert [phase.name for phase in timeline.phases] == ["read_ahead"]
