"""The steps from what RunPod has to what a deployment wants: a pure function of both, so that it can be asked anew.

There is one order: network volume, template, endpoint. Each step needs the ids of those before it, so the first step is
carried out, and the list is made again from what there is then. An empty list is the end. An interrupted run is resumed
by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vllm_service.deployment.desired import endpoint_body, template_body, volume_body
from vllm_service.deployment.difference import Difference, differences
from vllm_service.deployment.existing import Existing, Json, Kind, Names, id_of
from vllm_service.deployment.spec import ContainerForm, DeploymentSpec
from vllm_service.errors import ConfigurationError

#: Fields of an endpoint that RunPod changes one by one; another field is sent whole.
_MERGED = frozenset({"workers", "gpu"})
#: RunPod takes these two together only: they are one selection (REST v2's schema of 2026-08).
_SELECTION = ("pools", "excludedTypes")


class Action(StrEnum):
    """The effect of a step."""

    CREATE = "create"
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Step:
    """One request that creates or changes something."""

    action: Action
    kind: Kind
    name: str
    #: Of what is changed; None for what is created.
    id: str | None
    #: It may hold secrets.
    body: Mapping[str, Any] = field(repr=False)
    #: What is different; empty for what is created.
    differences: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        what = ", ".join(difference.field for difference in self.differences)
        return f"{self.action} {self.kind} {self.name}{f' ({what})' if what else ''}"


@dataclass(frozen=True, slots=True)
class Target:
    """The wanted deployment, with everything resolved."""

    spec: DeploymentSpec
    #: The GPU pools, in the order of preference.
    pools: tuple[str, ...]
    #: The worker's whole environment, with the values of secrets.
    environment: Mapping[str, str] = field(repr=False)

    @property
    def names(self) -> Names:
        """The names by which it is found at RunPod."""
        volume = self.spec.volume
        return Names(self.spec.name, volume.name if volume else None, self.spec.data_center)


def steps(target: Target, existing: Existing) -> list[Step]:
    """Returns what is to be done, in its order. Raises ConfigurationError for what RunPod cannot change."""
    return [*_volume(target, existing.volume), *_template(target, existing.template), *_endpoint(target, existing)]


def _volume(target: Target, found: Json | None) -> Iterator[Step]:
    if target.spec.volume is None:
        return
    name, wanted = target.spec.volume.name, target.spec.volume.size_gb
    if found is None:
        yield Step(Action.CREATE, Kind.VOLUME, name, None, volume_body(target.spec))
        return
    size = found.get("size")
    if not isinstance(size, int) or size == wanted:
        return
    if size > wanted:
        raise ConfigurationError(
            f"The network volume {name} ({id_of(found)}) has {size} GB, and RunPod cannot make it smaller: write "
            f"network_volume_gb: {size}, or another name for a new volume.",
            param="network_volume_gb",
        )
    yield Step(Action.CHANGE, Kind.VOLUME, name, id_of(found), {"size": wanted}, (Difference("size", size, wanted),))


def _template(target: Target, found: Json | None) -> Iterator[Step]:
    if target.spec.container is not ContainerForm.TEMPLATE:
        return
    body = template_body(target.spec, target.environment)
    if found is None:
        yield Step(Action.CREATE, Kind.TEMPLATE, target.spec.name, None, body)
    elif changed := differences(body, found):
        yield Step(Action.CHANGE, Kind.TEMPLATE, target.spec.name, id_of(found), _patch(body, found, changed), changed)


def _endpoint(target: Target, existing: Existing) -> Iterator[Step]:
    volume_id = id_of(existing.volume) if existing.volume else None
    template_id = id_of(existing.template) if existing.template else None
    if target.spec.container is not ContainerForm.TEMPLATE:
        template_id = None

    def body(template: str | None) -> Mapping[str, Any]:
        return endpoint_body(target.spec, target.pools, target.environment, volume_id=volume_id, template_id=template)

    if existing.endpoint is None:
        yield Step(Action.CREATE, Kind.ENDPOINT, target.spec.name, None, body(template_id))
        return
    # RunPod copies a template into the endpoint when that is created, so the endpoint's own fields are compared.
    wanted = body(None)
    # It was found by its name, behind which RunPod may have put a mark of its own.
    wanted = {name: value for name, value in wanted.items() if name != "name"}
    if changed := differences(wanted, existing.endpoint):
        patch = _patch(wanted, existing.endpoint, changed)
        yield Step(Action.CHANGE, Kind.ENDPOINT, target.spec.name, id_of(existing.endpoint), patch, changed)


def _patch(wanted: Mapping[str, Any], found: Json, changed: Sequence[Difference]) -> dict[str, Any]:
    """Returns the body that changes these fields and no other. Raises ConfigurationError for the endpoint's type."""
    patch: dict[str, Any] = {}
    for top in dict.fromkeys(difference.field.partition(".")[0] for difference in changed):
        if top == "type":
            raise ConfigurationError(
                f"The endpoint {id_of(found)} is of type {found.get('type')}, which RunPod cannot change: run "
                "`deploy destroy` first, or choose another name.",
                param="endpoint_type",
            )
        inner = [difference.field.partition(".")[2] for difference in changed if _is_in(difference.field, top)]
        patch[top] = _inner_patch(wanted[top], inner) if top in _MERGED else wanted[top]
    return patch


def _is_in(field_path: str, top: str) -> bool:
    return field_path.partition(".")[0] == top


def _inner_patch(wanted: Mapping[str, Any], changed: Sequence[str]) -> dict[str, Any]:
    keys = {name.partition(".")[0] for name in changed}
    if keys & {*_SELECTION}:
        keys |= {name for name in _SELECTION if name in wanted}
    return {name: wanted[name] for name in wanted if name in keys or not any(keys)}
