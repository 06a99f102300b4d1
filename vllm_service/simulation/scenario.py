"""Reads scenarios from YAML: the physics of one own endpoint, hosted providers in order, and the latency target.

Parameters are estimates; a scenario file holds the date when they were made (`dated`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from vllm_service.errors import ConfigurationError
from vllm_service.routing.profiles import EndpointProfile, LatencyTarget


@dataclass(frozen=True, slots=True)
class HostedPhysics:
    """A provider billed by the token: prices in USD per million tokens, and how fast it answers."""

    name: str
    input_usd_per_million: float
    output_usd_per_million: float
    ttft_seconds: float
    tokens_per_second: float

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Returns what one answer costs. A float: the simulator estimates, the ledger counts."""
        return (prompt_tokens * self.input_usd_per_million + completion_tokens * self.output_usd_per_million) / 1e6


@dataclass(frozen=True, slots=True)
class OwnPhysics:
    """The own endpoint: what a worker costs, how fast it is, and how the platform starts and reports it."""

    #: The price of one worker.
    usd_per_second: float
    profile: EndpointProfile
    #: Of the lognormal whose median is the profile's cold start.
    cold_start_sigma: float = 0.3
    #: How long the oldest job waits before the platform starts one more worker.
    queue_delay_seconds: float = 4.0
    #: How old the worker states are that the router gets to see.
    state_lag_seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything but the traffic."""

    name: str
    dated: str
    own: OwnPhysics
    hosted: tuple[HostedPhysics, ...]
    target: LatencyTarget
    #: The share of hosted attempts that end in a 429, after rejection_seconds.
    rejection_rate: float = 0.01
    rejection_seconds: float = 0.3


def load_scenario(path: Path) -> Scenario:
    """Reads a scenario. Raises ConfigurationError, naming file and field, for a missing, unknown or wrong one."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"The scenario {path} cannot be read: {error}") from error
    try:
        return parse_scenario(document)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"The scenario {path} is not valid: {error!r}; see `examples show 8b-4090`") from error


def parse_scenario(document: Mapping[str, Any]) -> Scenario:
    """Makes a scenario from YAML's mappings. Raises KeyError, TypeError or ValueError for what does not fit."""
    own = dict(document["own"])
    physics = {name: float(own.pop(name)) for name in _names(OwnPhysics) if name in own}
    profile = EndpointProfile(**own)
    hosted = tuple(HostedPhysics(**entry) for entry in document["hosted"])
    if not hosted:
        raise ValueError("hosted: must name at least one provider")
    return Scenario(
        name=str(document["name"]),
        dated=str(document["dated"]),
        own=OwnPhysics(profile=profile, **physics),
        hosted=hosted,
        target=LatencyTarget(**document.get("target", {})),
        rejection_rate=float(document.get("rejection_rate", 0.01)),
        rejection_seconds=float(document.get("rejection_seconds", 0.3)),
    )


def _names(physics: type) -> list[str]:
    return [field.name for field in fields(physics)]
