"""A template: container settings that endpoints can be made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runpod_emulator.account.configuration import ContainerConfig

Category = Literal["CPU", "NVIDIA", "AMD"]


@dataclass(frozen=True)
class PersistentMount:
    """A pod's disk on its host. Endpoints have none, so it is only kept."""

    size_gb: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Template:
    """One template. An endpoint made from it keeps no link to it."""

    id: str
    name: str
    container: ContainerConfig
    #: False: a template for pods, from which no endpoint can be made.
    serverless: bool = False
    public: bool = False
    category: Category = "NVIDIA"
    mount: PersistentMount | None = None
    start_jupyter: bool = True
    start_ssh: bool = True
    allowed_cuda_versions: tuple[str, ...] = ()
