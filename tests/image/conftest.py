"""The images that these tests run: built once a session, on a base that podman keeps between sessions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.image import base_image, hub
from tests.image.package_source import pip_options
from tests.image.podman import Podman

ROOT = base_image.ROOT
WORKER, UNPRIVILEGED, BAKED = (
    "localhost/worker-test",
    "localhost/worker-test:unprivileged",
    "localhost/worker-test:baked",
)
SERVICE = "localhost/service-test"
TOKEN = "hf_" + "never-in-a-layer"
Build = Callable[..., str]


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    directory = tmp_path_factory.mktemp("podman")
    return Podman(directory, pip_options(directory))


@pytest.fixture(scope="session")
def cpu_base(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    started = time.monotonic()
    image = base_image.make_cpu_base(podman, tmp_path_factory.mktemp("base"))
    _tell(podman, image, started)
    return image


@pytest.fixture(scope="session")
def build(podman: Podman, cpu_base: str) -> Build:
    """Builds worker.Dockerfile as it is, on the CPU base; returns the image's name."""

    def build_worker(tag: str, *options: str) -> str:
        started = time.monotonic()
        arguments = ("--build-arg", f"BASE_IMAGE={cpu_base}")
        podman.build(ROOT / "worker.Dockerfile", ROOT, tag, *arguments, *options)
        _tell(podman, tag, started)
        return tag

    return build_worker


@pytest.fixture(scope="session")
def worker_image(build: Build) -> str:
    return build(WORKER)


@pytest.fixture(scope="session")
def unprivileged_image(build: Build, worker_image: str) -> str:
    return build(UNPRIVILEGED, "--build-arg", "RUN_AS=worker")


@pytest.fixture(scope="session")
def baked_image(build: Build, worker_image: str, podman: Podman) -> str:
    """With the demo model baked in from a hub that asks for a token; runs as `worker`."""
    secret = podman.directory / "token"
    secret.write_text(TOKEN)
    with hub.serving(ROOT / "demo_model", TOKEN) as url:
        arguments = (f"MODEL_NAME={hub.NAME}", f"HF_ENDPOINT={url}", "RUN_AS=worker")
        options = [option for argument in arguments for option in ("--build-arg", argument)]
        return build(BAKED, *options, "--secret", f"id=HF_TOKEN,src={secret}")


@pytest.fixture(scope="session")
def service_image(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    """service.Dockerfile as it is, on Debian's Python."""
    base = base_image.make_python_base(podman, tmp_path_factory.mktemp("base"))
    started = time.monotonic()
    podman.build(ROOT / "service.Dockerfile", ROOT, SERVICE, "--build-arg", f"BASE_IMAGE={base}")
    _tell(podman, SERVICE, started)
    return SERVICE


@pytest.fixture
def container(podman: Podman) -> Iterator[str]:
    """A container's name, which is free, and free again afterwards."""
    name = "image-under-test"
    podman.run("rm", "--force", "--ignore", name)
    yield name
    podman.run("rm", "--force", "--ignore", name)


def _tell(podman: Podman, image: str, started: float) -> None:
    size_bytes = int(podman.inspect(image, "{{.Size}}"))
    sys.stderr.write(f"\n{image}: {size_bytes / 1e9:.2f} GB, {time.monotonic() - started:.0f} s\n")
