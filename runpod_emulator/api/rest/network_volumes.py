"""/v2/network-volumes: lists, creates, shows, grows and deletes network volumes."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from runpod_emulator.account.account import Account
from runpod_emulator.account.data_centers import VolumeType
from runpod_emulator.account.network_volumes import LARGEST_GB, SMALLEST_GB, NetworkVolume
from runpod_emulator.api.rest import door
from runpod_emulator.api.rest.endpoint_bodies import Name

GROUP = "network-volumes"
Size = Annotated[int, Field(ge=SMALLEST_GB, le=LARGEST_GB)]


class CreateVolumeBody(door.StrictBody):
    """A new network volume."""

    name: Name
    size: Size
    data_center: Annotated[str, Field(alias="dataCenter", min_length=1)]
    type: VolumeType | None = None


class UpdateVolumeBody(door.StrictBody):
    """The fields to change, at least one."""

    name: Name | None = None
    size: Size | None = None

    @model_validator(mode="after")
    def _need_one(self) -> UpdateVolumeBody:
        if not self.model_fields_set:
            raise PydanticCustomError("empty", "at least one of name and size is required")
        return self


class NetworkVolumesApi:
    """The network volumes of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._volumes = account.volumes

    def add_routes(self, router: web.UrlDispatcher, rest: door.RestDoor) -> None:
        """Adds everything under /v2/network-volumes."""
        base = f"/v2/{GROUP}"
        router.add_get(base, rest.guarded(GROUP, self.list))
        router.add_post(base, rest.guarded(GROUP, self.create))
        router.add_get(base + "/{id}", rest.guarded(GROUP, self.show))
        router.add_patch(base + "/{id}", rest.guarded(GROUP, self.change))
        router.add_delete(base + "/{id}", rest.guarded(GROUP, self.delete))
        rest.refuse_the_rest(router, GROUP)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Answers a page of volumes, the oldest first."""
        return door.page(request, "networkVolumes", self._volumes.existing, volume_document)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Creates a volume; it is billed from now on."""
        body = await door.read(request, CreateVolumeBody)
        volume = self._volumes.create(body.name, body.size, body.data_center, body.type)
        return web.json_response(volume_document(volume), status=201)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Answers one volume."""
        return web.json_response(volume_document(self._volume(request)))

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Renames a volume, or lets it grow."""
        self._volume(request)  # an unknown one is 404, whatever the body is
        body = await door.read(request, UpdateVolumeBody)
        volume = self._volume(request)
        self._volumes.change(volume, body.name, body.size)
        return web.json_response(volume_document(volume))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Deletes a volume with its data; refused while an endpoint has it."""
        self._account.delete_volume(self._volume(request))
        return web.Response(status=204)

    def _volume(self, request: web.Request) -> NetworkVolume:
        return self._volumes.get(request.match_info["id"])


def volume_document(volume: NetworkVolume) -> dict[str, Any]:
    """Returns the whole volume."""
    return {
        "id": volume.id,
        "name": volume.name,
        "size": volume.size_gb,
        "dataCenter": volume.data_center,
        "type": volume.type,
    }
