"""Writes the digest of each base image into its Dockerfile, so that the same base is built upon. `make lock-images`.

A tag can be moved to another image; a digest is the image. The registry is asked with docker or skopeo,
whichever is installed. `--check` asks nothing and fails where a base has no digest, for what builds a release.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = ("worker.Dockerfile", ".runpod/Dockerfile", "service.Dockerfile")
BASE = re.compile(r"^ARG BASE_IMAGE=(?P<name>[^@\s]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?$", re.MULTILINE)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
COMMANDS = (
    ("docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", "{image}"),
    ("skopeo", "inspect", "--format", "{{.Digest}}", "docker://{image}"),
)
EXIT_UNKNOWN = 1


class Unknown(Exception):
    """No digest could be had."""


def main(
    arguments: Sequence[str] | None = None, root: Path = ROOT, digest_of: Callable[[str], str] | None = None
) -> int:
    """Returns 0 if every base has a digest now."""
    parser = argparse.ArgumentParser(prog="python -m scripts.lock_images", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a base has no digest")
    options = parser.parse_args(arguments)
    try:
        for name in DOCKERFILES:
            path = root / name
            text = path.read_text(encoding="utf-8")
            if options.check:
                check(name, text)
            else:
                path.write_text(with_digest(text, digest_of or ask), encoding="utf-8")
            sys.stdout.write(f"{name}: {_base(path.read_text(encoding='utf-8'))}\n")
    except Unknown as reason:
        sys.stderr.write(f"{reason}\n")
        return EXIT_UNKNOWN
    return 0


def check(name: str, text: str) -> None:
    """Raises Unknown where the Dockerfile's base has no digest."""
    found = BASE.search(text)
    if found is None or not found["digest"]:
        raise Unknown(f"{name}: its base has no digest, so a moved tag changes the image; run make lock-images")


def with_digest(text: str, digest_of: Callable[[str], str]) -> str:
    """Returns the Dockerfile with the digest that the base's tag has now; raises Unknown."""
    found = BASE.search(text)
    if found is None:
        raise Unknown("no line `ARG BASE_IMAGE=NAME:TAG`")
    digest = digest_of(found["name"])
    if not DIGEST.fullmatch(digest):
        raise Unknown(f"{found['name']}: {digest!r} is no digest")
    return text[: found.start()] + f"ARG BASE_IMAGE={found['name']}@{digest}" + text[found.end() :]


def ask(image: str) -> str:
    """Returns the digest that the registry has for a tag; raises Unknown."""
    reasons = []
    for command in COMMANDS:
        words = [word.format(image=image) if word.endswith("{image}") else word for word in command]
        try:
            ended = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(f"{command[0]}: {type(error).__name__}")
            continue
        return ended.stdout.strip()
    raise Unknown(f"{image}: its registry could not be asked ({', '.join(reasons)})")


def _base(text: str) -> str:
    found = BASE.search(text)
    return found[0].partition("=")[2] if found else "no base"


if __name__ == "__main__":
    sys.exit(main())
