"""Looks up every pin in requirements/*.lock in a vulnerability database, with pip-audit. Run by `make audit` and CI.

pip-audit alone prints "No known vulnerabilities found" even if it could look up nothing at all. This script counts and
names the packages that were not looked up. They are a failure of their own (exit code 3) unless AUDIT_OFFLINE=ok.
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

from scripts.image.install_on_base import pins

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
# Exit codes; 2 is argparse's for wrong arguments.
CLEAN = 0
VULNERABLE = 1
NOT_AUDITED = 3


@dataclass(frozen=True)
class Report:
    """The result for one lock file."""

    lock: str
    #: How many packages were looked up.
    audited: int
    #: The packages that were not, or could not be, looked up.
    skipped: tuple[str, ...]
    vulnerabilities: tuple[str, ...]
    #: The last line of pip-audit's errors if it printed no report.
    failure: str | None = None

    @property
    def is_complete(self) -> bool:
        """Returns whether every pin was looked up."""
        return self.failure is None and not self.skipped


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every pin was looked up and none is known to be vulnerable, 1 if one is, 3 if some were not."""
    parser = argparse.ArgumentParser(prog="python -m scripts.audit", description=__doc__)
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="the database (default: pypi)")
    parser.add_argument(
        "--offline", metavar="ok", default="", help="`ok` exits 0 if the database cannot be reached (AUDIT_OFFLINE)"
    )
    options = parser.parse_args(arguments)
    reports = [audit(path, options.service) for path in sorted(REQUIREMENTS.glob("*.lock"))]
    for report in reports:
        _print(report)
    code = verdict(reports)
    if code == NOT_AUDITED:
        tolerated = options.offline == "ok"
        advice = "tolerated, because AUDIT_OFFLINE=ok" if tolerated else "AUDIT_OFFLINE=ok makes that no failure"
        _warn("NOT AUDITED", f"not every package was looked up, so this proves nothing; {advice}")
        return CLEAN if tolerated else NOT_AUDITED
    if code == VULNERABLE:
        _warn("VULNERABLE", "upgrade the packages above: change pyproject.toml, then run make lock")
    return code


def audit(lock: Path, service: str) -> Report:
    """Returns one lock file's report."""
    # Databases have no local versions (torch's +cpu): the release that it was built from is looked up.
    found = pins(lock.read_text(encoding="utf-8"))
    lines = [f"{name}=={version.split('+')[0]}" for name, version in found.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(lines))
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
    """Returns the report from pip-audit's JSON. If there is none, the last line of `errors` is the failure."""
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
    """Returns the exit code for all reports. A known vulnerability outweighs packages that were not looked up."""
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
