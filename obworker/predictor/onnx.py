"""An .onnx file becomes an InferenceSession; imports onnxruntime only when asked for one."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from obworker.errors import BootError, LoadError
from obworker.predictor.traces import summarise

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from onnxruntime import InferenceSession

CUDA = "CUDAExecutionProvider"
# onnxruntime_session_options_config_keys.h
SPINNING = "session.intra_op.allow_spinning"
CPU = "CPUExecutionProvider"

log = logging.getLogger("obworker.predictor")


def find_model(directory: Path, model_path: Path | None) -> Path:
    """Return the one .onnx file that is meant: `model_path`, or what `directory` holds.

    `model_path` is a file or a directory, absolute or relative to the working directory or to
    `directory`.
    """
    if model_path is None:
        return _only_model(directory, directory)
    for path in (model_path.absolute(), directory / model_path):
        if path.is_dir():
            return _only_model(path, directory)
        if path.exists():
            return path
    raise LoadError(f"--model-path {model_path}: no such file or directory")


def open_session(path: Path, threads: int, *, may_spin: bool = True) -> InferenceSession:
    """Load the model at `path`, on the GPU where there is one, with `threads` on the CPU.

    Threads that have nothing to do spin for a while, unless others need the core.
    """
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not may_spin:
        options.add_session_config_entry(SPINNING, "0")
    providers = _providers(onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise BootError(f"{path.name} cannot be loaded: {summarise(error)}") from error
    if session.get_providers()[0] != providers[0]:
        log.warning("%s runs on the CPU: onnxruntime could not start %s", path.name, providers[0])
    return session


def _only_model(searched: Path, directory: Path) -> Path:
    models = sorted(searched.glob("*.onnx"))
    if len(models) == 1:
        return models[0]
    if models:
        names = ", ".join(model.name for model in models)
        shown = models[0].relative_to(directory) if searched == directory else models[0]
        raise LoadError(
            f"{searched}: several .onnx files: {names}", f"choose one: --model-path {shown}"
        )
    names = ", ".join(sorted(entry.name for entry in searched.iterdir())[:8]) or "nothing"
    raise LoadError(f"{searched}: no .onnx file for the parameter onnx; there is {names}")


def _import_onnxruntime() -> ModuleType:
    # The supervisor presets this for its processes; here it is for other servers. Telemetry
    # starts a thread, and a fork after that is no longer safe.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise LoadError(
            f"the parameter onnx needs onnxruntime: {summarise(error)}",
            "pip install 'obworker[onnx]', or 'obworker[onnx-gpu]' for a GPU",
        ) from error
    return onnxruntime  # type: ignore[no-any-return]  # it has no types of its own


def _providers(available: list[str]) -> list[str]:
    # An empty CUDA_VISIBLE_DEVICES hides every GPU. TensorRT is never taken by itself: it
    # compiles for minutes at the first request.
    has_gpu = CUDA in available and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    return [CUDA, CPU] if has_gpu else [CPU]
