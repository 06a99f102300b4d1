"""What is installed and built upon is what was locked: hashes, digests, and a bill of materials of each lock file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts import lock_images, sbom
from scripts.image.install_on_base import pins, with_hashes
from scripts.lock import entries
from tests.dockerfiles import Dockerfile

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
DIGEST = "sha256:" + "1" * 64


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make` installs beside the environment."""
    directory = tmp_path_factory.mktemp("tools")
    options = ("--quiet", "--no-deps", "--require-hashes", "--target", str(directory))
    lock = ROOT / "requirements" / "tools.lock"
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "-r", str(lock)], check=True)
    return directory


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_file_has_hashes(lock: Path) -> None:
    found = entries(lock.read_text())
    assert len(found) == len(pins(lock.read_text()))
    assert [entry.splitlines()[0] for entry in found if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_a_file_of_another_content_is_not_installed(tmp_path: Path) -> None:
    entry = next(entry for entry in entries((ROOT / "requirements" / "client.lock").read_text()) if "tenacity" in entry)
    (tmp_path / "wrong.lock").write_text(re.sub(r"sha256:[0-9a-f]{64}", DIGEST, entry))
    options = ("--quiet", "--no-deps", "--require-hashes", "--target", str(tmp_path / "site"))
    command = [sys.executable, "-m", "pip", "install", *options, "-r", str(tmp_path / "wrong.lock")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode
    assert "DO NOT MATCH THE HASHES" in ended.stderr


def test_every_installation_of_make_and_ci_requires_hashes() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"pip install .*", makefile)
    assert commands
    assert [command for command in commands if "$(LOCKED)" not in command] == []
    assert re.search(r"^LOCKED := .*--require-hashes", makefile, flags=re.MULTILINE)
    assert "tolerate" not in (ROOT / ".ci" / "run").read_text()


def test_the_part_of_a_lock_file_keeps_its_hashes() -> None:
    lock = "# made\nA==1 \\\n    --hash=sha256:a\nb-c[x]==2 \\\n    --hash=sha256:b \\\n    --hash=sha256:c\n"
    assert pins(lock) == {"a": "1", "b-c": "2"}
    assert with_hashes(lock, ["b-c"]) == "b-c[x]==2 \\\n    --hash=sha256:b \\\n    --hash=sha256:c\n"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_bill_of_materials_is_valid_and_has_each_locked_package_with_its_hashes(
    lock: Path, tools: Path, tmp_path: Path
) -> None:
    sbom.write(lock, tmp_path / "bill.json", tools)
    text = (tmp_path / "bill.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {one["name"].lower().replace("_", "-"): one for one in json.loads(text)["components"]}
    assert {name: one["version"] for name, one in components.items()} == pins(lock.read_text())
    hashed = [one for one in components.values() if any(of.get("hashes") for of in one["externalReferences"])]
    assert len(hashed) == len(components)


def test_the_bill_of_an_image_lists_the_environment_and_not_the_tool(tools: Path, tmp_path: Path) -> None:
    target = tmp_path / "image.json"
    command = [sys.executable, str(ROOT / "scripts" / "image" / "write_sbom.py"), str(tools), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(target.read_text()) is None
    names = {one["name"] for one in json.loads(target.read_text())["components"]}
    assert {"pydantic", "uvloop"} <= names
    assert "cyclonedx-bom" not in names


def dockerfiles(root: Path) -> Path:
    for name in lock_images.DOCKERFILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text((ROOT / name).read_text())
    return root


def test_the_digest_of_a_base_is_written_into_every_dockerfile_and_again_when_it_moves(tmp_path: Path) -> None:
    root = dockerfiles(tmp_path)
    for digest in (DIGEST, DIGEST.replace("1", "2")):
        asked: list[str] = []

        def digest_of(image: str, digest: str = digest, asked: list[str] = asked) -> str:
            asked.append(image)
            return digest

        assert lock_images.main([], root, digest_of) == 0
        assert {image.partition(":")[0] for image in asked} == {"vllm/vllm-openai", "python"}
        assert lock_images.main(["--check"], root) == 0
        assert all(f"@{digest}\n" in (root / name).read_text() for name in lock_images.DOCKERFILES)
    assert (root / ".runpod" / "Dockerfile").read_text() == (root / "worker.Dockerfile").read_text()


def test_a_base_without_a_digest_fails_the_check_and_what_is_no_digest_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dockerfiles(tmp_path)
    for name in lock_images.DOCKERFILES:
        (root / name).write_text(re.sub(r"@sha256:\S+", "", (root / name).read_text()))
    before = (root / "worker.Dockerfile").read_text()
    assert lock_images.main(["--check"], root) == lock_images.EXIT_UNKNOWN
    assert "run make lock-images" in capsys.readouterr().err
    assert lock_images.main([], root, lambda image: "latest") == lock_images.EXIT_UNKNOWN
    assert (root / "worker.Dockerfile").read_text() == before


@pytest.mark.parametrize("name", ["worker.Dockerfile", "service.Dockerfile"])
def test_a_changed_lock_file_is_installed_anew_by_every_builder(name: str) -> None:
    """podman 4 takes a step from its cache although a file that is mounted for it has changed."""
    assert Dockerfile(name).mounted() == []


@pytest.mark.parametrize("name", ["worker.Dockerfile", "service.Dockerfile"])
@pytest.mark.parametrize(
    ("required", "image", "code"), [("false", "a:1", 0), ("true", "a:1", 1), ("true", f"a:1@{DIGEST}", 0)]
)
def test_a_release_is_not_built_on_a_tag_alone(name: str, required: str, image: str, code: int) -> None:
    found = re.search(r"^RUN (case .*?esac)$", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert found
    ended = subprocess.run(
        ["/bin/sh", "-c", found[1]],
        env={"REQUIRE_DIGEST": required, "BASE_IMAGE": image},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code
    assert ("has no digest" in ended.stderr) == bool(code)
