"""/v2/templates: lists, creates, shows, changes and deletes templates."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field, StringConstraints

from runpod_emulator.account.account import Account
from runpod_emulator.account.configuration import ContainerConfig
from runpod_emulator.account.template import Category, PersistentMount, Template
from runpod_emulator.api.rest import door
from runpod_emulator.api.rest.endpoint_bodies import ContainerBody, CudaVersion, Name
from runpod_emulator.api.rest.endpoint_changes import changed_container
from runpod_emulator.api.rest.endpoint_documents import container_document
from runpod_emulator.errors import NotFound

GROUP = "templates"


class PersistentMountBody(door.StrictBody):
    """A pod's disk."""

    size: Annotated[int, Field(ge=10, le=2**31)]
    path: Annotated[str, StringConstraints(max_length=4096)]


class MountsBody(door.StrictBody):
    """The mounts of a template; left out or empty, they stay."""

    persistent: PersistentMountBody | None = None


class UpdateTemplateBody(ContainerBody):
    """The fields to change; the others stay."""

    name: Name | None = None
    serverless: bool | None = None
    public: bool | None = None
    category: Category | None = None
    mounts: MountsBody | None = None
    start_jupyter: Annotated[bool | None, Field(alias="startJupyter")] = None
    start_ssh: Annotated[bool | None, Field(alias="startSsh")] = None
    allowed_cuda_versions: Annotated[list[CudaVersion] | None, Field(alias="allowedCudaVersions")] = None


class CreateTemplateBody(UpdateTemplateBody):
    """A new template."""

    name: Name
    image: Annotated[str, StringConstraints(min_length=1)]


class TemplatesApi:
    """The templates of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def add_routes(self, router: web.UrlDispatcher, rest: door.RestDoor) -> None:
        """Adds everything under /v2/templates."""
        base = f"/v2/{GROUP}"
        router.add_get(base, rest.guarded(GROUP, self.list))
        router.add_post(base, rest.guarded(GROUP, self.create))
        router.add_get(base + "/{id}", rest.guarded(GROUP, self.show))
        router.add_patch(base + "/{id}", rest.guarded(GROUP, self.change))
        router.add_delete(base + "/{id}", rest.guarded(GROUP, self.delete))
        rest.refuse_the_rest(router, GROUP)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Answers a page of templates, the oldest first."""
        return door.page(request, "templates", list(self._account.templates.values()), template_document)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Creates a template."""
        body = await door.read(request, CreateTemplateBody)
        new = Template(id=secrets.token_hex(5), name=body.name, container=ContainerConfig(image=body.image))
        template = self._account.templates[new.id] = changed_template(new, body)
        return web.json_response(template_document(template), status=201)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Answers one template."""
        return web.json_response(template_document(self._template(request)))

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Changes the fields in the body. Endpoints that were made from the template stay as they are."""
        self._template(request)  # an unknown one is 404, whatever the body is
        body = await door.read(request, UpdateTemplateBody)
        template = changed_template(self._template(request), body)
        self._account.templates[template.id] = template
        return web.json_response(template_document(template))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Deletes a template; refused while there is an endpoint that was made from it."""
        self._account.delete_template(self._template(request))
        return web.Response(status=204)

    def _template(self, request: web.Request) -> Template:
        template_id = request.match_info["id"]
        template = self._account.templates.get(template_id)
        if template is None:
            raise NotFound(f"template {template_id}: there is none in this account")
        return template


def changed_template(template: Template, body: UpdateTemplateBody) -> Template:
    """Returns the template with the fields of the body."""
    fields = body.values("name", "serverless", "public", "category", "start_jupyter", "start_ssh")
    if body.allowed_cuda_versions is not None:
        fields["allowed_cuda_versions"] = tuple(body.allowed_cuda_versions)
    if body.mounts and (mount := body.mounts.persistent):
        fields["mount"] = PersistentMount(mount.size, mount.path)
    return replace(template, container=changed_container(template.container, body), **fields)


def template_document(template: Template) -> dict[str, Any]:
    """Returns the whole template."""
    mount = template.mount
    return container_document(template.container) | {
        "id": template.id,
        "name": template.name,
        "serverless": template.serverless,
        "public": template.public,
        "category": template.category,
        "mounts": {} if mount is None else {"persistent": {"size": mount.size_gb, "path": mount.path}},
        "startJupyter": template.start_jupyter,
        "startSsh": template.start_ssh,
        "allowedCudaVersions": list(template.allowed_cuda_versions),
    }
