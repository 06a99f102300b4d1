"""Reads this process's memory, CPU and files with psutil, which is imported at the first reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_service.domain.status import ProcessState

if TYPE_CHECKING:
    import psutil


class ProcessReader:
    """Reads the state of this process. CPU is measured between two readings, so the first has None."""

    def __init__(self) -> None:
        self._process: psutil.Process | None = None

    def status(self) -> ProcessState:
        """Returns the present state. It takes a few hundred microseconds."""
        import psutil  # noqa: PLC0415 - a gateway without metrics and health need not load it

        is_first = self._process is None
        process = self._process = self._process or psutil.Process()
        percentage = process.cpu_percent(interval=None)
        times = process.cpu_times()
        machine = psutil.virtual_memory()
        return ProcessState(
            memory_bytes=process.memory_info().rss,
            cpu_percentage=None if is_first else percentage,
            cpu_seconds=times.user + times.system,
            open_files=process.num_fds() if hasattr(process, "num_fds") else None,
            machine_available_bytes=machine.available,
            machine_cached_bytes=getattr(machine, "cached", None),
            machine_used_percentage=machine.percent,
        )
