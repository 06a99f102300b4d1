"""/lb/{endpoint}/*: requests for the workers of a load-balancing endpoint, and nothing else of RunPod in between.

RunPod gives each such endpoint a host of its own, https://ENDPOINT_ID.api.runpod.ai, with the same paths below it.
"""

from __future__ import annotations

from aiohttp import web

from runpod_emulator.account.account import Account
from runpod_emulator.api.client import ClientApi
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.errors import NotFound


class BalancedApi:
    """The load balancers of all endpoints."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def add_routes(self, router: web.UrlDispatcher, client_api: ClientApi) -> None:
        """Adds the route for all methods and paths."""
        router.add_route("*", "/lb/{endpoint}/{path:.*}", client_api.guarded("balance", self.answer))

    async def answer(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Passes the request to a worker, which gets the path after the endpoint's id and the query."""
        endpoint_id = endpoint.settings.endpoint_id
        balancer = self._account.endpoint(endpoint_id).balancer
        if balancer is None:
            raise NotFound(
                f"endpoint {endpoint_id} has a queue: send jobs to {self._account.origin}/v2/{endpoint_id}/run"
            )
        # As it was sent: a worker is to see what the client has encoded.
        path = request.rel_url.raw_path.split("/", 3)[3]
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        return await balancer.answer(request, f"/{path}{query}")
