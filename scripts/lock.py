"""Resolves pyproject.toml into requirements/*.lock with uv, under the documented overrides. Run by `make lock`.

torch is not in the CPU lock: requirements/torch-cpu.lock pins it by hand, because it may come from its own index.
worker-gpu.lock has only the packages that a vLLM image lacks, to be installed on top of it without dependencies.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
HEADER = (
    "# Made by `make lock`; install with `pip install --no-deps --require-hashes -r`. "
    "Change pyproject.toml, not this file.\n"
)
PIN = re.compile(r"^\S+==")
CPU_ONLY = ("--excludes", "requirements/excludes.txt", "--no-emit-package", "torch")


def main() -> None:
    """Writes every lock file."""
    _write(
        "dev.lock",
        _resolve(
            "dev.lock",
            ["worker", "cpu", "service", "plots", "tracing", "client", "emulator", "dev"],
            *CPU_ONLY,
            *_find_links(),
        ),
    )
    _write("client.lock", _resolve("client.lock", ["client"]))
    _write("service.lock", _resolve("service.lock", ["service", "tracing"], overrides="/dev/null"))
    on_image = _resolve("worker-gpu.lock", ["gpu"])
    on_worker = _resolve("worker-gpu.lock", ["worker", "gpu"])
    names_on_image = {_name(entry) for entry in on_image}
    _write("worker-gpu.lock", [entry for entry in on_worker if _name(entry) not in names_on_image])
    _write("tools.lock", _compile("tools.lock", "requirements/tools.in"))


def _resolve(lock: str, extras: list[str], *options: str, overrides: str = "requirements/overrides.txt") -> list[str]:
    """Returns the entries of a lock file for pyproject.toml with these extras.

    overrides: resolves the requirements in which vLLM and runpod conflict; the service has neither, and needs none.
    """
    wanted = (f"--extra={extra}" for extra in extras)
    return _compile(lock, "pyproject.toml", "--overrides", overrides, *options, *wanted)


def _compile(lock: str, source: str, *options: str) -> list[str]:
    """Returns entries, each `name==version` with its hashes, for Python 3.11 on x86-64 Linux.

    The pins in `lock` stay where the ranges allow it: remove a line there to upgrade that package.
    """
    with tempfile.NamedTemporaryFile(suffix=".lock") as output:
        Path(output.name).write_text((REQUIREMENTS / lock).read_text() if (REQUIREMENTS / lock).exists() else "")
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", source, "--quiet", "--no-header", "--generate-hashes"),
                *("--no-annotate", "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"),
                *("--output-file", output.name, *options),
            ],
            cwd=REQUIREMENTS.parent,
            check=True,
        )
        return entries(Path(output.name).read_text())


def entries(lock: str) -> list[str]:
    """Returns the entries of a lock file: a pin, and the lines with its hashes."""
    found: list[str] = []
    for line in lock.splitlines():
        if PIN.match(line):
            found.append(line)
        elif found and line.startswith(" "):
            found[-1] += f"\n{line}"
    return found


def _find_links() -> tuple[str, ...]:
    """Returns uv's options for finding a torch for CPUs: pip's find-links if it has some, else PyTorch's index."""
    # uv does not read pip's configuration, which may name a folder with such a torch.
    configuration = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"find-links='(.+)'", configuration)
    return ("--find-links", found.group(1)) if found else ("--extra-index-url", "https://download.pytorch.org/whl/cpu")


def _write(name: str, lines: list[str]) -> None:
    (REQUIREMENTS / name).write_text(HEADER + "\n".join(lines) + "\n")


def _name(line: str) -> str:
    return line.partition("==")[0].partition("[")[0]


if __name__ == "__main__":
    main()
