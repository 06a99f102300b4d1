"""What concerns the start: dollars per second, read-ahead, and where compiled kernels are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from handler.errors import ConfigurationError

TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
RUNPOD_VOLUME = Path("/runpod-volume")  # where RunPod mounts a network volume (FACTS, 2026-11)


@dataclass(frozen=True)
class StartSettings:
    """usd_per_second: what the GPU costs, for the cost of a start; None leaves its dollars unknown.

    read_ahead: read the weights into the page cache while vLLM is imported.
    compile_cache_dir: where compilations are kept for the next start; None compiles anew each time.
    """

    usd_per_second: Decimal | None = None
    read_ahead: bool = True
    compile_cache_dir: Path | None = None

    @classmethod
    def read(cls, given: Mapping[str, str]) -> StartSettings:
        """From the variables that are set; raises ConfigurationError naming the wrong one."""
        default_dir = RUNPOD_VOLUME / "compile-cache" if os.access(RUNPOD_VOLUME, os.W_OK) else None
        cache_dir = given.get("COMPILE_CACHE_DIR")
        return cls(
            usd_per_second=_usd(given, "GPU_USD_PER_SECOND"),
            read_ahead=switch(given, "READ_AHEAD", cls.read_ahead),
            compile_cache_dir=Path(cache_dir).expanduser() if cache_dir else default_dir,
        )


def switch(given: Mapping[str, str], name: str, default: bool) -> bool:
    """A variable that is true or false; raises ConfigurationError."""
    word = given.get(name, str(default)).lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ConfigurationError(f"{name}={given[name]!r}: expected true or false", param=name)
    return word in TRUE_WORDS


def _usd(given: Mapping[str, str], name: str) -> Decimal | None:
    if name not in given:
        return None
    try:
        usd = Decimal(given[name])
    except InvalidOperation:
        usd = Decimal(-1)
    if not usd.is_finite() or usd < 0:
        raise ConfigurationError(f"{name}={given[name]!r}: expected dollars, such as 0.00031", param=name)
    return usd
