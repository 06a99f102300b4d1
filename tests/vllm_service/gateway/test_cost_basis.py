"""Each row says what its cost rests on, and those that wait to be booked are found by it."""

from __future__ import annotations

from tests.vllm_service.gateway.asking import HEADERS
from tests.vllm_service.gateway.running import catalog_of, running
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.pricing import SecondPrice
from vllm_service.testing import ReceivedRequest, Reply, ScriptedProvider, chat, whole

BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}


def own(url: str) -> Catalog:
    provider = Provider("own", ProviderKind.RUNPOD, url, "k", control_url=url, second_price=SecondPrice(310))
    return Catalog({"own": provider}, {"small": PublicModel("small", (Offer("own", "m"),))})


async def test_a_request_to_an_own_endpoint_waits_to_be_booked_whatever_becomes_of_it() -> None:
    def answers(request: ReceivedRequest) -> Reply:
        return chat("Hello") if "temperature" in request.json else whole({"error": {"message": "no"}}, 400)

    async with ScriptedProvider(answers) as upstream, running(own(upstream.url), router_costs=True) as gateway:
        answered = await gateway.http.post(
            f"{gateway.url}/chat/completions", headers=HEADERS, json=BODY | {"temperature": 1}
        )
        refused = await gateway.http.post(f"{gateway.url}/chat/completions", headers=HEADERS, json=BODY)
        unknown = await gateway.http.post(
            f"{gateway.url}/chat/completions", headers=HEADERS, json=BODY | {"model": "other"}
        )
        rows = [await gateway.books.row(number) for number in range(3)]
    assert [answer.status_code for answer in (answered, refused, unknown)] == [200, 400, 404]
    assert [row.cost_basis for row in rows] == [CostBasis.EXPECTED, CostBasis.EXPECTED, None]
    assert rows[0].cost_picousd is not None
    assert [row.cost_picousd for row in rows[1:]] == [None, None]
    assert gateway.gateway._in_flight == {}


async def test_a_hosted_providers_row_is_booked_where_tokens_are_counted_and_nothing_where_it_failed() -> None:
    def answers(request: ReceivedRequest) -> Reply:
        return chat("Hello") if "temperature" in request.json else whole({"error": {"message": "no"}}, 400)

    async with ScriptedProvider(answers) as upstream, running(catalog_of(upstream.url)) as gateway:
        await gateway.http.post(f"{gateway.url}/chat/completions", headers=HEADERS, json=BODY | {"temperature": 1})
        await gateway.http.post(f"{gateway.url}/chat/completions", headers=HEADERS, json=BODY)
        rows = [await gateway.books.row(number) for number in range(2)]
    assert [row.cost_basis for row in rows] == [CostBasis.BOOKED, None]
