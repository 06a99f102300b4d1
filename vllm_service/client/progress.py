"""The progress of a batch: a bar on stderr, or the caller's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vllm_service.errors import ConfigurationError

#: Is called with the number of prompts that have ended, and the number of all.
Progress = Callable[[int, int], None]


@contextmanager
def progress_of(option: bool | Progress, description: str) -> Iterator[Progress]:
    """Yields the function to report to: the caller's own, one that draws a bar (True), one without effect (False)."""
    if callable(option):
        yield option
    elif option:
        with _bar(description) as report:
            yield report
    else:
        yield _ignore


@contextmanager
def _bar(description: str) -> Iterator[Progress]:
    # Imported only for a bar: a backend without one should neither need rich nor wait for its import.
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            "progress: a bar needs rich, which is not installed: pip install rich, or pass a function", param="progress"
        ) from None

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _ignore(done: int, total: int) -> None:
    return None
