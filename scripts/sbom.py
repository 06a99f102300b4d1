"""Writes a bill of materials (CycloneDX, JSON) of each lock file, with cyclonedx-py. Run by `make sbom`.

The images hold one of their own, of everything that is installed in them (`scripts/image/write_sbom.py`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
SPECIFICATION = "1.6"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes `LOCK.cdx.json` for each lock file into a directory."""
    parser = argparse.ArgumentParser(prog="python -m scripts.sbom", description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="where requirements/tools.lock is installed")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    for lock in sorted(REQUIREMENTS.glob("*.lock")):
        target = options.directory / f"{lock.stem}.cdx.json"
        write(lock, target, options.tools)
        sys.stdout.write(f"{target}\n")
    return 0


def write(lock: Path, target: Path, tools: Path) -> None:
    """Writes one lock file's bill, equal for equal lock files; raises CalledProcessError."""
    command = (sys.executable, "-m", "cyclonedx_py", "requirements", str(lock), "--output-reproducible")
    output = ("--spec-version", SPECIFICATION, "--output-format", "JSON", "--output-file", str(target))
    subprocess.run([*command, *output], env=dict(os.environ) | {"PYTHONPATH": str(tools)}, check=True)


if __name__ == "__main__":
    sys.exit(main())
