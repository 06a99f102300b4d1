"""No key, provider key or prompt in what this side of the gateway answers or logs, however it was sent."""

from __future__ import annotations

from dataclasses import replace

import httpx
from msgspec import structs

from tests.vllm_service.api.service import CATALOG, REQUEST, dependencies, served
from tests.vllm_service.canary import Canaries, everything_logged
from vllm_service.catalog.model import Catalog
from vllm_service.domain.keys import ApiKey

PATHS = ["/health", "/v1/models", "/performance", "/v1/performance/latency", "/metrics", "/openapi.json", "/nowhere"]


class CanaryKey:
    """Knows the canary, and breaks on a certain key with a message that holds what it was asked for."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    async def find(self, secret: str) -> ApiKey | None:
        if secret.endswith("-broken"):
            raise RuntimeError(f"cannot look up {secret}")
        return ApiKey("k1", "acme") if secret == self._secret else None


def configured(canaries: Canaries) -> Catalog:
    """The provider's key also where it does not belong: in its address."""
    url = f"https://user:{canaries.provider_key}@api.hosted.test/v1?key={canaries.provider_key}"
    hosted = replace(CATALOG.providers["hosted"], api_key=canaries.provider_key, base_url=url)
    return Catalog({**CATALOG.providers, "hosted": hosted}, CATALOG.models)


def test_nothing_that_is_answered_or_logged_holds_a_canary() -> None:
    canaries = Canaries()
    catalog = configured(canaries)
    service = dependencies(catalog=lambda: catalog, keys=CanaryKey(canaries.key))
    service.measurements.record(structs.replace(REQUEST, model=canaries.prompt, error_code=canaries.prompt, status=400))
    keys = [canaries.key, canaries.key + "-wrong", canaries.key + "-broken"]
    with everything_logged() as lines, served(service) as address:
        outputs = [repr(service.measurements)]
        for path in PATHS:
            for key in keys:
                answer = httpx.get(
                    address + path,
                    params={"prompt": canaries.prompt, "api_key": canaries.key},
                    headers={"Authorization": f"Bearer {key}", "X-Request-ID": f"{canaries.prompt} {canaries.key}"},
                )
                outputs += [answer.text, str(answer.headers)]
            answer = httpx.request("PUT", address + path, content=canaries.prompt)
            outputs += [answer.text, str(answer.headers)]
    assert any("500" in output for output in outputs), "the broken key did not break anything"
    # httpx logs the addresses that the test itself asks for.
    canaries.assert_unseen(*outputs, *(line for line in lines if not line.split()[1].startswith("http")))
    assert any("RuntimeError" in line for line in lines), "the failure was not logged at all"
