"""Reads traffic traces: when requests came and how long they were. CSV, gzip or not; the ledger's export is one."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vllm_service.domain.timestamps import utc_seconds
from vllm_service.errors import ConfigurationError

Floats = NDArray[np.float64]
#: The columns that may hold the arrival; the second is the ledger's.
_ARRIVALS = ("arrival_s", "started_at")


@dataclass(frozen=True)
class Trace:
    """Requests in the order of their arrival: seconds since the first one, tokens of prompt and answer."""

    arrival_seconds: Floats
    prompt_tokens: Floats
    completion_tokens: Floats

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    def scaled(self, scale: float) -> Trace:
        """Returns the same requests, arriving `scale` times as fast."""
        return Trace(self.arrival_seconds / scale, self.prompt_tokens, self.completion_tokens)

    @property
    def tokens(self) -> float:
        """The tokens of all prompts and answers."""
        return float(self.prompt_tokens.sum() + self.completion_tokens.sum())


def load_trace(path: Path) -> Trace:
    """Reads the columns arrival_s or started_at (seconds, or RFC 3339), prompt_tokens, completion_tokens.

    Other columns are ignored. Rows without tokens of prompt or answer are left out: nothing was computed for them.
    Raises ConfigurationError, naming file and line, for what is not such a table.
    """
    try:
        with _opened(path) as text:
            rows = list(_rows(csv.DictReader(text), path))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"The trace {path} cannot be read: {error}") from error
    if not rows:
        raise ConfigurationError(f"The trace {path} holds no request with prompt and completion tokens.")
    table = np.array(rows, dtype=np.float64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Trace(table[:, 0] - table[0, 0], table[:, 1].copy(), table[:, 2].copy())


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as text:
            yield text
    else:
        with path.open(encoding="utf-8") as text:
            yield text


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[float, float, float]]:
    columns = reader.fieldnames or ()
    arrival = next((name for name in _ARRIVALS if name in columns), None)
    if arrival is None or not {"prompt_tokens", "completion_tokens"} <= set(columns):
        raise ConfigurationError(
            f"The trace {path} has the columns {', '.join(columns) or 'none'}; "
            "needed: arrival_s (or started_at), prompt_tokens, completion_tokens."
        )
    for row in reader:
        try:
            prompt, completion = float(row["prompt_tokens"] or 0), float(row["completion_tokens"] or 0)
            if prompt > 0 and completion > 0:
                yield _seconds(row[arrival]), prompt, completion
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"The trace {path}, line {reader.line_num}: {error}") from error


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return utc_seconds(text)
