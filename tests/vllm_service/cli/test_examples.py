"""`examples`: shipped files are listed, shown and written, and never over a file that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_service.__main__ import main
from vllm_service.data import Kind, path_of, shipped
from vllm_service.errors import ConfigurationError

EVERY = [(kind, name) for kind in Kind for name in shipped(kind)]


def test_every_file_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [[kind.name.lower(), name, str(shipped(kind)[name])] for kind, name in EVERY]


def test_names_are_unique() -> None:
    assert len({name for _, name in EVERY}) == len(EVERY)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_file_is_shown_as_it_is(kind: Kind, name: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["examples", "show", name]) == 0
    assert capfdbinary.readouterr().out == shipped(kind)[name].read_bytes()


def test_the_configuration_is_written_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    assert main(["examples", "write", "--directory", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["models.yaml", "providers.yaml"]
    assert capsys.readouterr().out.splitlines() == [str(folder / "providers.yaml"), str(folder / "models.yaml")]


def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "models.yaml"
    mine.write_text("mine")
    where = ["--directory", str(tmp_path)]
    assert main(["examples", "write", *where]) == 1
    assert str(mine) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["models.yaml"]
    assert mine.read_text() == "mine"
    assert main(["examples", "write", *where, "--force"]) == 0
    assert mine.read_bytes() == shipped(Kind.EXAMPLE)["models"].read_bytes()


@pytest.mark.parametrize("action", ["show", "write"])
def test_an_unknown_name_is_answered_with_the_known_ones(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", action, "70b"]) == 1
    assert "70b-h200" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["examples", "write", "--directory", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_file_comes_before_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    own = tmp_path / "bursty"
    own.touch()
    assert path_of(Kind.TRACE, str(own)) == own
    assert path_of(Kind.TRACE, "bursty") == shipped(Kind.TRACE)["bursty"]
    with pytest.raises(ConfigurationError, match="bursty, diurnal"):
        path_of(Kind.TRACE, "nowhere")
