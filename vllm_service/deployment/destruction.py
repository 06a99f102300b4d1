"""Deletes what a deployment has at RunPod: endpoint, template, and its volume where that is asked for.

What is gone already counts as done, so a run that ended half-way can be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from vllm_service.deployment.existing import Existing, Json, Kind, Names, find_existing, id_of
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError

#: Something that is still in use is tried again: RunPod stops an endpoint's workers after it has deleted it.
_PAUSES_SECONDS = (2.0, 5.0, 10.0)
_IN_USE = (400, 409, 422)
OnDeleted = Callable[[Kind, str], None]


@dataclass(frozen=True, slots=True)
class Doomed:
    """The things that go, in their order, and those that stay, with the reason."""

    going: tuple[tuple[Kind, Json], ...]
    staying: tuple[tuple[Json, str], ...]


async def find_doomed(api: RestApi, names: Names, *, with_volumes: bool) -> tuple[Existing, Doomed]:
    """Returns what exists and what of it goes. Raises RestError and ConfigurationError.

    A volume that another endpoint mounts stays, and one of several of a name: names.data_center tells them apart.
    """
    existing = await find_existing(api, names)
    others = [
        document
        async for document in api.pages(Kind.ENDPOINT.path, Kind.ENDPOINT.list_name)
        if id_of(document) not in {id_of(own) for own in existing.endpoints}
    ]
    return existing, doomed_of(existing, others, with_volumes=with_volumes)


def doomed_of(existing: Existing, other_endpoints: Sequence[Json], *, with_volumes: bool) -> Doomed:
    """Returns what goes: endpoints first, since RunPod deletes neither a template nor a volume that is in use."""
    going = [(kind, document) for kind in (Kind.ENDPOINT, Kind.TEMPLATE) for document in existing.of(kind)]
    staying = []
    for volume in existing.volumes:
        users = [id_of(other) for other in other_endpoints if id_of(volume) in _volumes_of(other)]
        if users:
            staying.append((volume, f"used by the endpoint {', '.join(users)}"))
        elif with_volumes and len(existing.volumes) > 1:
            staying.append((volume, f"one of {len(existing.volumes)} of this name: choose with --data-center"))
        elif with_volumes:
            going.append((Kind.VOLUME, volume))
        else:
            staying.append((volume, "kept without --volumes"))
    return Doomed(tuple(going), tuple(staying))


async def destroy(
    api: RestApi,
    doomed: Doomed,
    on_deleted: OnDeleted,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Deletes all of it. Raises RestError; what was deleted before stays deleted."""
    for kind, document in doomed.going:
        await _delete(api, f"{kind.path}/{id_of(document)}", sleep)
        on_deleted(kind, id_of(document))


async def _delete(api: RestApi, path: str, sleep: Callable[[float], Awaitable[None]]) -> None:
    for pause in (*_PAUSES_SECONDS, None):
        try:
            await api.delete(path)
        except RestError as error:
            if error.status == 404:  # a template goes with its endpoint
                return
            if pause is None or error.status not in _IN_USE:
                raise
            await sleep(pause)
        else:
            return


def _volumes_of(endpoint: Json) -> list[object]:
    volumes = endpoint.get("networkVolumes")
    return volumes if isinstance(volumes, list) else []
