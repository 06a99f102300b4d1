"""What both images promise of their supply: a bill of all that is in them, and a release on no base but a named one."""

from __future__ import annotations

import json

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.image.base_image import ROOT
from tests.image.podman import Podman

BILL = "/app/sbom.cdx.json"
#: With those that another directory of the path has in another version: they are in the image as well.
EVERY_DISTRIBUTION = """
import json
from importlib.metadata import distributions
print(json.dumps([[found.name, found.version] for found in distributions()]))
"""
PIP_LIST = ("python3", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")


def packages(podman: Podman, image: str) -> dict[str, str]:
    """Returns the versions of an image's Python packages."""
    listed = podman.run("run", "--rm", "--entrypoint", "", image, *PIP_LIST).stdout
    return {_canonical(entry["name"]): entry["version"] for entry in json.loads(listed)}


def assert_bill_is_complete(podman: Podman, image: str) -> None:
    """Asserts that the bill is valid and has each package in its version, and no other."""
    text = podman.run("run", "--rm", image, "cat", BILL).stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = {(_canonical(one["name"]), one["version"]) for one in json.loads(text)["components"]}
    installed = json.loads(podman.run("run", "--rm", image, "python", "-c", EVERY_DISTRIBUTION).stdout)
    assert listed == {(_canonical(name), version) for name, version in installed}


def build_release(podman: Podman, file: str, base: str) -> None:
    """Builds as for a release, on a base that is named by its tag."""
    arguments = ("--build-arg", f"BASE_IMAGE={base}", "--build-arg", "REQUIRE_DIGEST=true")
    podman.build(ROOT / file, ROOT, "localhost/release-test", *arguments)


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
