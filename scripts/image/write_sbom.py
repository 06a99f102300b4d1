"""Writes a bill of materials (CycloneDX, JSON) of all Python packages in this image. Run by both Dockerfiles.

`write_sbom.py TOOLS TARGET`: TOOLS is where requirements/tools.lock is installed, for this step only. It is put on this
process's path and not into the environment, so that the tools are no part of what they list.
"""

from __future__ import annotations

import runpy
import sys


def main(tools: str, target: str) -> None:
    """Runs cyclonedx-py on the interpreter that runs this file."""
    sys.path.insert(0, tools)
    options = ("--spec-version", "1.6", "--output-format", "JSON", "--output-file", target)
    sys.argv = ["cyclonedx-py", "environment", *options, sys.executable]
    runpy.run_module("cyclonedx_py", run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
