"""Asks the vulnerability database about every pin in requirements/*.lock, with pip-audit. Run by `make audit` and CI.

pip-audit by itself says "No known vulnerabilities found" when it could look up nothing at all. Here what was not looked
up is counted and named, and is a failure of its own (exit code 3) unless it is tolerated, which is said loudly.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 3


@dataclass(frozen=True)
class Report:
    """What one lock file came to. `skipped` are packages that the database was not, or could not be, asked about."""

    lock: str
    audited: int
    skipped: tuple[str, ...]
    vulnerabilities: tuple[str, ...]
    failure: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the database has answered for every pin."""
        return self.failure is None and not self.skipped


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every pin was looked up and none is known to be vulnerable. 1: one is. 3: not every pin could be looked up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="the database to ask")
    parser.add_argument("--tolerate-unaudited", action="store_true", help="exit 0 where the database cannot be reached")
    options = parser.parse_args(arguments)
    reports = [audit(path, options.service) for path in sorted(REQUIREMENTS.glob("*.lock"))]
    for report in reports:
        _print(report)
    code = verdict(reports)
    if code == NOT_AUDITED:
        _warn("NOT AUDITED", "the vulnerability database did not answer for every package above: this proves nothing")
        return CLEAN if options.tolerate_unaudited else NOT_AUDITED
    if code == VULNERABLE:
        _warn("VULNERABLE", "upgrade what is named above: change pyproject.toml, then make lock")
    return code


def audit(lock: Path, service: str) -> Report:
    """One lock file's report. A local version (torch's +cpu) is asked about as the release that it was built from."""
    pins = [line.split("+")[0] for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(pins))
        requirements.flush()
        command = [
            *(
                sys.executable,
                "-m",
                "pip_audit",
                "--requirement",
                requirements.name,
                "--vulnerability-service",
                service,
            ),
            *("--no-deps", "--disable-pip", "--format", "json", "--desc", "off", "--progress-spinner", "off"),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return read_report(lock.name, ended.stdout, ended.stderr)


def read_report(lock: str, output: str, errors: str) -> Report:
    """From pip-audit's JSON; without any, its last words are the failure."""
    try:
        dependencies = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        return Report(lock, 0, (), (), failure=(errors.strip().splitlines() or ["no output"])[-1])
    skipped = tuple(one["name"] for one in dependencies if "skip_reason" in one)
    vulnerabilities = tuple(
        f"{one['name']} {one['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for one in dependencies
        for found in one.get("vulns", ())
    )
    return Report(lock, len(dependencies) - len(skipped), skipped, vulnerabilities)


def verdict(reports: Sequence[Report]) -> int:
    """A known vulnerability outweighs what could not be looked up."""
    if any(report.vulnerabilities for report in reports):
        return VULNERABLE
    return CLEAN if all(report.is_complete for report in reports) else NOT_AUDITED


def _print(report: Report) -> None:
    sys.stdout.write(f"{report.lock}: {report.audited} looked up, {len(report.skipped)} not\n")
    if report.skipped:
        sys.stdout.write(f"  not looked up: {', '.join(report.skipped[:8])}{' ...' * (len(report.skipped) > 8)}\n")
    if report.failure:
        sys.stdout.write(f"  pip-audit failed: {report.failure}\n")
    for line in report.vulnerabilities:
        sys.stdout.write(f"  {line}\n")


def _warn(title: str, text: str) -> None:
    line = "=" * 100
    sys.stdout.write(f"{line}\n== {title}: {text}\n{line}\n")


if __name__ == "__main__":
    sys.exit(main())
