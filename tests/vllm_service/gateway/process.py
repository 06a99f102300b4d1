"""The service as a process: `python -m tests.vllm_service.gateway.process CATALOG.json DATA_DIR`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvloop

from tests.vllm_service.configured_order import ConfiguredOrder
from tests.vllm_service.gateway.running import catalog_of
from vllm_service.catalog.model import Catalog
from vllm_service.errors import ConfigurationError
from vllm_service.server.run import run_service
from vllm_service.settings import ServiceSettings


def main() -> int:
    catalog_path, data_dir = Path(sys.argv[1]), Path(sys.argv[2])

    def load_catalog() -> Catalog:
        try:
            return catalog_of(*json.loads(catalog_path.read_text()))
        except ValueError:
            raise ConfigurationError(f"{catalog_path} is not JSON.") from None

    settings = ServiceSettings(port=0, data_dir=data_dir, grace_seconds=20, requests_per_second_per_ip=1_000_000)
    return uvloop.run(run_service(settings, load_catalog, ConfiguredOrder))


if __name__ == "__main__":
    sys.exit(main())
