"""/v2/registries: lists, creates, shows and deletes credentials of container registries."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from runpod_emulator.account.account import Account
from runpod_emulator.account.registries import RegistryCredentials
from runpod_emulator.api.rest import door
from runpod_emulator.api.rest.endpoint_bodies import Name

GROUP = "registries"


class CreateRegistryBody(door.StrictBody):
    """New credentials. Username and password are checked, and kept nowhere."""

    name: Name
    username: Annotated[str, Field(min_length=1, repr=False)]
    password: Annotated[str, Field(min_length=1, repr=False)]


class RegistriesApi:
    """The registries of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._registries = account.registries

    def add_routes(self, router: web.UrlDispatcher, rest: door.RestDoor) -> None:
        """Adds everything under /v2/registries."""
        base = f"/v2/{GROUP}"
        router.add_get(base, rest.guarded(GROUP, self.list))
        router.add_post(base, rest.guarded(GROUP, self.create))
        router.add_get(base + "/{id}", rest.guarded(GROUP, self.show))
        router.add_delete(base + "/{id}", rest.guarded(GROUP, self.delete))
        rest.refuse_the_rest(router, GROUP)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Answers a page of registries, the oldest first."""
        return door.page(request, "registries", self._registries.existing, registry_document)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Adds credentials."""
        body = await door.read(request, CreateRegistryBody)
        return web.json_response(registry_document(self._registries.create(body.name)), status=201)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Answers one registry, without its secrets."""
        return web.json_response(registry_document(self._registries.get(request.match_info["id"])))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Deletes credentials; templates that name them lose the reference, as on RunPod."""
        self._account.delete_registry(self._registries.get(request.match_info["id"]))
        return web.Response(status=204)


def registry_document(registry: RegistryCredentials) -> dict[str, Any]:
    """Returns what is shown of credentials."""
    return {"id": registry.id, "name": registry.name}
