"""The gateway as it is measured: keys, quotas and ledger on SQLite, annotations and measurements on, one provider.

`python -m benchmarks.gateway_process --upstream URL --port N --data-dir DIR`; the callers' keys are in DIR's database.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvloop

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.pricing import TokenPrice
from vllm_service.routing.from_catalog import make_router
from vllm_service.server.run import run_service
from vllm_service.settings import ServiceSettings


def catalog_of(upstream: str) -> Catalog:
    """Returns a catalog with one model, `small`, at one provider."""
    offer = Offer("fake", "fake", TokenPrice.per_million("0.02", "0.02"))
    model = PublicModel("small", (offer,), baseline_price=TokenPrice.per_million("0.15", "0.60"))
    provider = Provider("fake", ProviderKind.HOSTED, f"{upstream}/v1", "sk-of-the-provider")
    return Catalog({"fake": provider}, {"small": model})


def main() -> int:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_process", description=__doc__)
    parser.add_argument("--upstream", required=True, metavar="URL", help="the provider, without /v1")
    parser.add_argument("--port", type=int, required=True, help="the port to listen on")
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="where keys and ledger are")
    options = parser.parse_args()
    settings = ServiceSettings(
        port=options.port, data_dir=options.data_dir, require_keys=True, requests_per_second_per_ip=10_000_000
    )
    return uvloop.run(run_service(settings, lambda: catalog_of(options.upstream), make_router))


if __name__ == "__main__":
    sys.exit(main())
