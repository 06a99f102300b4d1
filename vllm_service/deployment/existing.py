"""Finds what RunPod has of a deployment. There is no file of state: names at RunPod are the state.

An endpoint and a template belong to the deployment if they have its name and, in their environment, its tag: names at
RunPod are not unique, and nothing that somebody else made is ever changed or deleted. A volume has no environment; it
is found by its name alone, and in its data centre.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from vllm_service.deployment.desired import TAG
from vllm_service.errors import ConfigurationError
from vllm_service.runpod.rest_api import RestApi

Json = Mapping[str, Any]
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
#: What the console puts behind the names of endpoints with FlashBoot (seen with REST v1, 2026-11).
_FLASHBOOT_SUFFIX = " -fb"


class Kind(StrEnum):
    """The things that a deployment consists of, in the order in which they are made."""

    VOLUME = "network volume"
    TEMPLATE = "template"
    ENDPOINT = "endpoint"

    @property
    def path(self) -> str:
        """The path of the collection in RunPod's REST API v2."""
        return {"network volume": "/v2/network-volumes", "template": "/v2/templates", "endpoint": "/v2/serverless"}[
            self
        ]

    @property
    def list_name(self) -> str:
        """The name of the list in an answer."""
        return {"network volume": "networkVolumes", "template": "templates", "endpoint": "endpoints"}[self]


@dataclass(frozen=True, slots=True)
class Names:
    """The names by which a deployment is found."""

    #: Of the deployment, its endpoint and its template.
    deployment: str
    #: Of its network volume; None without one.
    volume: str | None = None
    #: Where the volume lies; None finds it in any data centre.
    data_center: str | None = None


@dataclass(frozen=True, slots=True)
class Existing:
    """RunPod's own documents of what a deployment has, the oldest first. They hold the worker's environment."""

    volumes: tuple[Json, ...] = field(default=(), repr=False)
    templates: tuple[Json, ...] = field(default=(), repr=False)
    endpoints: tuple[Json, ...] = field(default=(), repr=False)

    @property
    def volume(self) -> Json | None:
        """The deployment's volume."""
        return self.volumes[0] if self.volumes else None

    @property
    def template(self) -> Json | None:
        """The deployment's template."""
        return self.templates[0] if self.templates else None

    @property
    def endpoint(self) -> Json | None:
        """The deployment's endpoint."""
        return self.endpoints[0] if self.endpoints else None

    def of(self, kind: Kind) -> tuple[Json, ...]:
        """Returns the documents of this kind."""
        return {Kind.VOLUME: self.volumes, Kind.TEMPLATE: self.templates, Kind.ENDPOINT: self.endpoints}[kind]

    def having(self, kind: Kind, documents: tuple[Json, ...]) -> Existing:
        """Returns the same with other documents of this kind."""
        if kind is Kind.VOLUME:
            return replace(self, volumes=documents)
        return replace(self, templates=documents) if kind is Kind.TEMPLATE else replace(self, endpoints=documents)


async def find_existing(api: RestApi, names: Names) -> Existing:
    """Returns what there is. Raises RestError, and ConfigurationError for an endpoint that is not the deployment's."""
    existing = Existing()
    for kind in Kind:
        if kind is not Kind.VOLUME or names.volume is not None:
            existing = existing.having(kind, await find(api, kind, names))
    return existing


async def find(api: RestApi, kind: Kind, names: Names) -> tuple[Json, ...]:
    """Returns the documents of one kind, the oldest first. Raises as find_existing does."""
    found = [document async for document in api.pages(kind.path, kind.list_name) if _has_name(document, kind, names)]
    if kind is not Kind.VOLUME:
        for document in found:
            _require_own(document, kind, names)
    return tuple(sorted(found, key=sort_key))


def sort_key(document: Json) -> tuple[str, str]:
    """Returns the time of creation, which only endpoints have, and the id: the lowest of several is the oldest."""
    return str(document.get("createdAt", "")), id_of(document)


def id_of(document: Json) -> str:
    """Returns the id of one of RunPod's documents; an empty text if it has none that a URL could carry."""
    found = document.get("id")
    return found if isinstance(found, str) and _ID.fullmatch(found) else ""


def tag_of(document: Json) -> str | None:
    """Returns the deployment's name that an endpoint's or template's environment carries; None without one."""
    environment = document.get("env")
    tag = environment.get(TAG) if isinstance(environment, Mapping) else None
    return tag if isinstance(tag, str) else None


def _has_name(document: Json, kind: Kind, names: Names) -> bool:
    name = document.get("name")
    if not id_of(document):
        return False
    if kind is not Kind.VOLUME:
        return name in (names.deployment, names.deployment + _FLASHBOOT_SUFFIX)
    return name == names.volume and names.data_center in (None, document.get("dataCenter"))


def _require_own(document: Json, kind: Kind, names: Names) -> None:
    if tag_of(document) != names.deployment:
        raise ConfigurationError(
            f"RunPod has a {kind} {names.deployment!r} ({id_of(document)}) that this command did not make; nothing of "
            f"it is changed. Choose another name for the deployment, or hand it over: set its variable "
            f"{TAG}={names.deployment} in RunPod's console.",
            param="name",
        )
