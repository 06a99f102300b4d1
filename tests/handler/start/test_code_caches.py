"""Libraries keep code on the worker's own disk, and follow no planted link with the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.start.code_caches import CODE_DIRECTORIES, keep_code_here


def variables_of(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    told: dict[str, str] = {}
    keep_code_here(tmp_path / "disk", environment, told.update)
    return told


def test_where_no_variable_places_caches_nothing_is_changed(tmp_path: Path) -> None:
    assert variables_of({"XDG_CACHE_HOME": ""}, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_python_files_of_models_and_compiled_extensions_stay_off_the_volume(tmp_path: Path) -> None:
    told = variables_of({"HF_HOME": str(tmp_path / "volume")}, tmp_path)
    assert set(told) == set(CODE_DIRECTORIES)
    assert all(Path(value).is_relative_to(tmp_path / "disk") for value in told.values())
    assert "HF_MODULES_CACHE" not in variables_of({"HF_HOME": "/x", "HF_MODULES_CACHE": "/mine"}, tmp_path)


@pytest.mark.parametrize(
    ("variable", "planted"),
    [("XDG_CACHE_HOME", "."), ("XDG_CACHE_HOME", "vllm"), ("XDG_CACHE_HOME", "vllm/modelinfos"), ("HF_HOME", "hub")],
)
def test_a_planted_link_below_a_cache_moves_the_cache_to_the_workers_own_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, variable: str, planted: str
) -> None:
    cache, outside = tmp_path / "volume" / "cache", tmp_path / "outside"
    outside.mkdir()
    link = cache / planted
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    told = variables_of({variable: str(cache)}, tmp_path)
    assert Path(told[variable]).is_relative_to(tmp_path / "disk")
    assert f"{variable}={cache} is not used" in caplog.text
    assert "is a link" in caplog.text


def test_a_cache_without_links_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "volume" / "vllm" / "modelinfos").mkdir(parents=True)
    assert "XDG_CACHE_HOME" not in variables_of({"XDG_CACHE_HOME": str(tmp_path / "volume")}, tmp_path)
