"""Finds the files of a model: its predictor.py, and its .onnx file."""

from __future__ import annotations

import os
from pathlib import Path

from obworker.errors import LoadError, UsageError

FILE_NAME = "predictor.py"
SUFFIX = ".py"
MOST_NAMES_SHOWN = 8


def find_predictor(path: Path) -> Path:
    """Return the absolute path of the predictor.py that `path`, a directory or a file, means."""
    try:
        file = _find_in(path) if path.is_dir() else _check_named(path)
        file.open("rb").close()
    except OSError as error:
        raise unreadable(error.filename, error) from error
    return file.absolute()


def _check_named(file: Path) -> Path:
    if not is_there(file):
        raise LoadError(f"{file}: no such file or directory")
    if file.suffix != SUFFIX:
        raise LoadError(f"{file} is neither a directory nor a {SUFFIX} file")
    return file


def _find_in(directory: Path) -> Path:
    file = directory / FILE_NAME
    if file.is_file():
        return file
    if os.path.lexists(file):
        raise LoadError(f"{file} is a directory, or a link to nothing")
    names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    scripts = [name for name in names if name.endswith(SUFFIX)]
    hint = f"name the file itself: obworker {directory / scripts[0]}" if scripts else None
    raise LoadError(f"{directory}: no {FILE_NAME}; there is {listed(names)}", hint)


def resolve_model_path(model_path: str | None, directory: Path) -> Path | None:
    """Return the absolute path of ``--model-path``, relative to here or else to `directory`.

    It must exist even if the predictor does not ask for an onnx session.
    """
    if model_path is None:
        return None
    try:
        for path in (Path(model_path).absolute(), directory / model_path):
            if is_there(path):
                return path
    except OSError as error:
        raise unreadable(model_path, error) from error
    raise UsageError(f"--model-path {model_path}: no such file or directory")


def is_there(path: Path) -> bool:
    """Return whether a path exists.

    Raises:
        OSError: it is not known, for example for want of permission. (There Path.exists returns
            False since Python 3.14.)
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def unreadable(path: object, error: OSError) -> LoadError:
    """Return the error for a path that cannot be read; if it is not permitted, say to whom."""
    hint = f"obworker runs as uid {os.geteuid()}, which must be able to read the model"
    return LoadError(
        f"{path}: {error.strerror}", hint if isinstance(error, PermissionError) else None
    )


def find_onnx(directory: Path, model_path: Path | None) -> Path:
    """Return `model_path` if it is a file, else the only .onnx file in it, or in `directory`."""
    if model_path is None:
        return _only_model(directory, directory)
    return _only_model(model_path, directory) if model_path.is_dir() else model_path


def _only_model(searched: Path, directory: Path) -> Path:
    # A dot hides a file from this, as from a shell: macOS puts a ._model.onnx beside a model.onnx.
    models = sorted(searched.glob("[!.]*.onnx"))
    if len(models) == 1:
        return models[0]
    if models:
        several = ", ".join(model.name for model in models)
        shown = models[0].relative_to(directory) if searched == directory else models[0]
        raise LoadError(
            f"{searched}: several .onnx files: {several}", f"choose one: --model-path {shown}"
        )
    names = sorted(entry.name for entry in searched.iterdir())
    raise LoadError(f"{searched}: no .onnx file for the parameter onnx; there is {listed(names)}")


def listed(names: list[str]) -> str:
    """Write names for people; of many, the first ones and the number of the rest."""
    if not names:
        return "nothing"
    shown = ", ".join(names[:MOST_NAMES_SHOWN])
    more = len(names) - MOST_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
