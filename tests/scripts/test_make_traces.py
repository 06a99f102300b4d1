"""The synthetic traces: a seed gives always the same bytes, seed 0 ships, and each trace is what its name says."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from scripts.make_traces import KINDS, compressed, csv_of, main
from vllm_service.data import Kind, shipped
from vllm_service.simulation.trace import Trace, load_trace

LARGEST_BYTES = 100_000


def test_the_same_seed_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "again", "other")]
    for folder, seed in zip(folders, ("3", "3", "4"), strict=True):
        main(["--output", str(folder), "--seed", seed])
    for name in KINDS:
        first, again, other = ((folder / f"{name}.csv.gz").read_bytes() for folder in folders)
        assert first == again
        assert first != other


@pytest.mark.parametrize("name", KINDS)
def test_the_shipped_trace_is_the_one_of_seed_0(name: str) -> None:
    """Its rows: another zlib may pack them into other bytes."""
    packed = shipped(Kind.TRACE)[name].read_bytes()
    assert gzip.decompress(packed).decode() == csv_of(KINDS[name], 0)
    assert len(packed) < LARGEST_BYTES


def test_no_time_of_day_is_in_the_file() -> None:
    assert compressed("text")[4:8] == bytes(4)


def dispersion(trace: Trace, seconds: float) -> float:
    """Variance over mean of the requests per window: 1 for arrivals that know nothing of one another."""
    counts = np.bincount((trace.arrival_seconds // seconds).astype(np.int64))
    return float(counts.var() / counts.mean())


def test_bursty_is_bursty_within_minutes_and_diurnal_is_smooth() -> None:
    bursty, diurnal = (load_trace(shipped(Kind.TRACE)[name]) for name in ("bursty", "diurnal"))
    assert dispersion(bursty, 10.0) > 10
    assert dispersion(diurnal, 10.0) < 2


def test_diurnal_has_a_night_and_an_afternoon() -> None:
    diurnal = load_trace(shipped(Kind.TRACE)["diurnal"])
    by_hour = np.bincount((diurnal.arrival_seconds // 3600.0).astype(np.int64), minlength=24)
    assert by_hour[15:17].min() > 4 * by_hour[3:5].max()


def test_lengths_are_those_of_code_and_of_chat() -> None:
    bursty, diurnal = (load_trace(shipped(Kind.TRACE)[name]) for name in ("bursty", "diurnal"))
    assert np.median(bursty.prompt_tokens) > 40 * np.median(bursty.completion_tokens)
    assert np.median(diurnal.completion_tokens) > np.median(diurnal.prompt_tokens)
    assert min(bursty.completion_tokens.min(), diurnal.prompt_tokens.min()) >= 1
