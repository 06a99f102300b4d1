"""Progress of a batch: a bar on stderr, or whatever the caller does when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]  # done, total


@contextmanager
def progress_of(wish: bool | Progress, description: str) -> Iterator[Progress]:
    """Yields what to call with (done, total). True draws a bar."""
    if callable(wish):
        yield wish
    elif wish:
        with _bar(description) as tell:
            yield tell
    else:
        yield _ignore


@contextmanager
def _bar(description: str) -> Iterator[Progress]:
    # Imported only for a bar: a backend that draws none does not pay for it.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _ignore(done: int, total: int) -> None:
    return None
