"""A release: the version of an endpoint's container that a worker runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Release:
    """The container that new workers run, until the next release. Versions count from 1."""

    version: int = 1
    image: str | None = None
    #: GB of the container disk.
    disk_gb: int = 20
    #: Environment variables of the endpoint's workers. They may be secrets, so no repr has them.
    variables: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
