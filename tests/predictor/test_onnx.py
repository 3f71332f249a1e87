from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from obworker.errors import BootError, LoadError
from obworker.predictor.onnx import find_model, open_session

Model = Callable[..., Path]


def field(number: int, value: int | bytes) -> bytes:
    """Encode one field as protobuf; everything in here is shorter than 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def identity_model() -> bytes:
    """An ONNX model of one node: y = Identity(x), float32 of shape [2]."""
    shape = field(1, field(1, 2))
    floats = field(1, field(1, 1) + field(2, shape))
    x, y = (field(1, name) + field(2, floats) for name in (b"x", b"y"))
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, x) + field(12, y)
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "digits.onnx").write_bytes(identity_model())
    return tmp_path


def test_the_one_model_beside_the_predictor_is_found(directory: Path) -> None:
    assert find_model(directory, None) == directory / "digits.onnx"


def test_none_found_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    with pytest.raises(LoadError, match=r"no \.onnx file .* there is weights\.pt"):
        find_model(tmp_path, None)


def test_several_are_named_and_one_must_be_chosen(directory: Path) -> None:
    (directory / "b.onnx").touch()
    with pytest.raises(LoadError, match=r"several \.onnx files: b\.onnx, digits\.onnx") as got:
        find_model(directory, None)
    assert got.value.hint == "choose one: --model-path b.onnx"
    assert find_model(directory, Path("digits.onnx")) == directory / "digits.onnx"


def test_model_path_may_be_a_directory(directory: Path) -> None:
    (directory / "exported").mkdir()
    (directory / "exported" / "net.onnx").touch()
    assert find_model(directory, Path("exported")) == directory / "exported" / "net.onnx"


def test_model_path_may_be_relative_to_the_working_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    assert find_model(directory / "elsewhere", Path("digits.onnx")) == directory / "digits.onnx"


def test_a_model_path_that_is_not_there(directory: Path) -> None:
    with pytest.raises(LoadError, match="--model-path x: no such file"):
        find_model(directory, Path("x"))


def test_a_session_runs_with_the_threads_given(directory: Path) -> None:
    session = open_session(directory / "digits.onnx", 3)
    given = np.array([1, 2], dtype=np.float32)
    assert session.run(None, {"x": given})[0].tolist() == [1, 2]
    assert session.get_session_options().intra_op_num_threads == 3
    assert session.get_session_options().inter_op_num_threads == 1


@pytest.mark.parametrize("may_spin", [True, False])
def test_threads_of_a_session_sleep_where_they_must_not_spin(
    directory: Path, may_spin: bool
) -> None:
    options = open_session(directory / "digits.onnx", 3, may_spin=may_spin).get_session_options()
    if may_spin:
        with pytest.raises(RuntimeError, match="allow_spinning"):
            options.get_session_config_entry("session.intra_op.allow_spinning")
    else:
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_no_gpu_is_used_where_none_is_visible(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    session = open_session(directory / "digits.onnx", 1)
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_a_corrupt_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(BootError, match=r"bad\.onnx cannot be loaded: ") as got:
        open_session(tmp_path / "bad.onnx", 1)
    assert "\n" not in str(got.value)


def test_without_onnxruntime_says_what_to_install(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LoadError, match="needs onnxruntime") as got:
        open_session(directory / "digits.onnx", 1)
    assert "obworker[onnx]" in str(got.value.hint)
