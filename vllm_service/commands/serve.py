"""`python -m vllm_service serve`: the gateway. Configured by the environment and two files, see docs/configure.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import uvloop

from vllm_service import logs
from vllm_service.providers.files import load
from vllm_service.routing.configured_order import ConfiguredOrder
from vllm_service.service import run_service
from vllm_service.settings import ServiceSettings


def run(arguments: Sequence[str]) -> int:
    """Serves until SIGTERM; the first line on stdout is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m vllm_service serve", description=__doc__)
    parser.parse_args(arguments)
    settings = ServiceSettings.from_environment()
    logs.configure(settings.log_level, settings.log_format)
    return uvloop.run(run_service(settings, partial(load, settings), ConfiguredOrder))
