from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from obworker.errors import LoadError, UsageError
from obworker.predictor.model_files import find_onnx, find_predictor, resolve_model_path

Model = Callable[..., Path]


def test_a_directory_means_its_predictor_py(model: Model) -> None:
    directory = model("")
    assert find_predictor(directory) == directory / "predictor.py"


def test_a_python_file_means_itself(model: Model) -> None:
    file = model(None, serve__py="") / "serve.py"
    assert find_predictor(file) == file


def test_a_relative_path_becomes_absolute(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = model("")
    monkeypatch.chdir(directory)
    assert find_predictor(Path()) == directory / "predictor.py"


def test_a_model_path_is_meant_from_here_or_else_from_the_directory(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = model("", net__onnx="", only__onnx="")
    (tmp_path / "net.onnx").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve_model_path("net.onnx", directory) == tmp_path / "net.onnx"
    assert resolve_model_path("only.onnx", directory) == directory / "only.onnx"
    assert resolve_model_path(str(directory), tmp_path) == directory
    assert resolve_model_path(None, directory) is None


def test_a_model_path_that_is_not_there_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="--model-path x: no such file or directory"):
        resolve_model_path("x", model(""))


def test_a_directory_without_predictor_says_what_is_there(model: Model) -> None:
    with pytest.raises(LoadError, match=r"no predictor\.py; there is main\.py, notes\.txt") as got:
        find_predictor(model(None, main__py="", notes__txt=""))
    assert got.value.hint is not None
    assert got.value.hint.endswith("main.py")


def test_many_names_are_cut_short(model: Model) -> None:
    with pytest.raises(LoadError, match="and 4 more"):
        find_predictor(model(None, **{f"f{i:02}": "" for i in range(12)}))


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "no such file"), ("notes.txt", r"neither a directory nor a \.py file")],
)
def test_other_paths_are_refused(model: Model, name: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        find_predictor(model(None, notes__txt="") / name)


def test_a_predictor_py_that_is_no_file_is_not_advised(model: Model) -> None:
    directory = model(None)
    (directory / "predictor.py").symlink_to("nowhere")
    with pytest.raises(LoadError, match=r"predictor\.py is a directory, or a link to nothing"):
        find_predictor(directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_directory_is_named(model: Model) -> None:
    directory = model(None)
    directory.chmod(0)
    try:
        with pytest.raises(LoadError, match="Permission denied"):
            find_predictor(directory)
    finally:
        directory.chmod(0o700)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "digits.onnx").touch()
    return tmp_path


def test_the_one_model_beside_the_predictor_is_found(directory: Path) -> None:
    assert find_onnx(directory, None) == directory / "digits.onnx"


def test_a_hidden_file_is_not_meant(directory: Path) -> None:
    (directory / "._digits.onnx").touch()
    assert find_onnx(directory, None) == directory / "digits.onnx"


def test_none_found_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    with pytest.raises(LoadError, match=r"no \.onnx file .* there is weights\.pt"):
        find_onnx(tmp_path, None)


def test_several_are_named_and_one_must_be_chosen(directory: Path) -> None:
    (directory / "b.onnx").touch()
    with pytest.raises(LoadError, match=r"several \.onnx files: b\.onnx, digits\.onnx") as got:
        find_onnx(directory, None)
    assert got.value.hint == "choose one: --model-path b.onnx"
    assert find_onnx(directory, directory / "digits.onnx") == directory / "digits.onnx"


def test_model_path_may_be_a_directory(directory: Path) -> None:
    exported = directory / "exported"
    exported.mkdir()
    (exported / "net.onnx").touch()
    assert find_onnx(directory, exported) == exported / "net.onnx"
