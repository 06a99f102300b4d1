"""`python -m vllm_service`: the service's command line. Its commands arrive with the gateway and the router."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vllm_service import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers `--version` and `--help`; there is nothing to serve yet, and it says so."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_service",
        description="The cost-aware gateway in front of your endpoint and hosted providers. "
        f"Version {__version__} holds no commands yet; the worker is `python handler.py --help`.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.parse_args(arguments)
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
