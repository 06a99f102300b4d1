"""/v2/serverless: lists, creates, shows, changes and deletes endpoints, and shows their workers and releases."""

from __future__ import annotations

from aiohttp import web

from runpod_emulator.account.account import Account
from runpod_emulator.account.serverless import ServerlessEndpoint
from runpod_emulator.api.rest import door
from runpod_emulator.api.rest.endpoint_bodies import CreateEndpointBody, UpdateEndpointBody
from runpod_emulator.api.rest.endpoint_changes import changed, created
from runpod_emulator.api.rest.endpoint_documents import (
    endpoint_document,
    releases_document,
    workers_document,
)
from runpod_emulator.api.rest.worker_logs import stream_logs
from runpod_emulator.errors import NotFound

GROUP = "serverless"


class EndpointsApi:
    """The endpoints of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def add_routes(self, router: web.UrlDispatcher, rest: door.RestDoor) -> None:
        """Adds everything under /v2/serverless."""
        base = f"/v2/{GROUP}"
        router.add_get(base, rest.guarded(GROUP, self.list))
        router.add_post(base, rest.guarded(GROUP, self.create))
        router.add_get(base + "/{id}", rest.guarded(GROUP, self.show))
        router.add_patch(base + "/{id}", rest.guarded(GROUP, self.change))
        router.add_delete(base + "/{id}", rest.guarded(GROUP, self.delete))
        router.add_get(base + "/{id}/workers", rest.guarded(GROUP, self.workers))
        router.add_get(base + "/{id}/releases", rest.guarded(GROUP, self.releases))
        router.add_get(base + "/{id}/workers/{worker}/logs", rest.guarded(GROUP, self.logs), allow_head=False)
        rest.refuse_the_rest(router, GROUP)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Answers a page of endpoints, the oldest first."""
        endpoints = list(self._account.endpoints.values())
        return door.page(request, "endpoints", endpoints, lambda one: endpoint_document(self._account, one))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Creates an endpoint. It takes jobs at once; its workers start by its scaling."""
        body = await door.read(request, CreateEndpointBody)
        endpoint = self._account.create(*created(body, self._account))
        return web.json_response(endpoint_document(self._account, endpoint), status=201)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Answers one endpoint."""
        return web.json_response(endpoint_document(self._account, self._endpoint(request)))

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Changes the fields in the body, and answers the whole endpoint."""
        self._endpoint(request)  # an unknown one is 404, whatever the body is
        body = await door.read(request, UpdateEndpointBody)
        endpoint = self._endpoint(request)
        config, settings = changed(body, endpoint.config, endpoint.state.settings, self._account)
        self._account.change(endpoint, config, settings)
        return web.json_response(endpoint_document(self._account, endpoint))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Deletes an endpoint: its jobs are cancelled, its workers stopped."""
        self._account.delete(self._endpoint(request))
        return web.Response(status=204)

    async def workers(self, request: web.Request) -> web.StreamResponse:
        """Answers the endpoint's workers that have not stopped."""
        return web.json_response(workers_document(self._endpoint(request)))

    async def releases(self, request: web.Request) -> web.StreamResponse:
        """Answers the endpoint's releases."""
        return web.json_response(releases_document(self._endpoint(request)))

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Streams a worker's output lines, also those of one that has ended, until it ends or the client leaves."""
        worker_id = request.match_info["worker"]
        worker = self._endpoint(request).state.registry.workers.get(worker_id)
        if worker is None:
            raise NotFound(f"worker {worker_id}: this endpoint has had none")
        return await stream_logs(request, worker.output)

    def _endpoint(self, request: web.Request) -> ServerlessEndpoint:
        return self._account.endpoint(request.match_info["id"])
