"""A template: container settings that endpoints can be made from."""

from __future__ import annotations

from dataclasses import dataclass

from runpod_emulator.account.configuration import ContainerConfig


@dataclass(frozen=True, kw_only=True)
class Template:
    """One template. An endpoint made from it keeps no link to it."""

    id: str
    name: str
    container: ContainerConfig
    #: False: a template for pods, from which no endpoint can be made.
    serverless: bool = True
    allowed_cuda_versions: tuple[str, ...] = ()
