"""The command ``obworker prepack``: writes a model such that processes share its weights."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from obworker.command import CONTEXT, invoke
from obworker.errors import CommandError, LoadError, UsageError
from obworker.onnx_options import pairs_of, session_options
from obworker.predictor import onnx, prepacked
from obworker.predictor.onnx import SessionPlan
from obworker.predictor.traces import summarise

DIRECTORY = "prepacked"
SUFFIX = ".onnx"
FIRST_VERSION = (1, 21)  # with session.save_external_prepacked_constant_initializers
LOGGED_SEVERITY = 3  # errors; a warning would say that the model is for this CPU only


def prepack(arguments: Sequence[str]) -> str | int:
    """Do what the command line says; return what to print, or the exit code after a --help.

    Raises:
        UsageError: the arguments are wrong.
        CommandError: the model cannot be read, or not written.
        LoadError: there is no onnxruntime that can do it.
    """
    printed: str | int = invoke(_command, arguments)
    return printed


@click.command("obworker prepack", context_settings=CONTEXT)
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option(
    *("-o", "--output"),
    metavar="PATH",
    type=click.Path(path_type=Path),
    help=f"File to write.  [default: {DIRECTORY}/MODEL.onnx beside the model]",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option(
    "--onnx-option",
    "texts",
    metavar="KEY=VALUE",
    multiple=True,
    help="Option of the session whose graph is written; may be repeated.",
)
def _command(model: Path, output: Path | None, *, force: bool, texts: Sequence[str]) -> str:
    """Write MODEL.onnx so that all processes that serve it share the memory of its weights.

    What is written is the graph, optimised for the CPU of this machine, and beside it a .data file
    with the weights, as they are and as onnxruntime packs them: twice the size on disk. It is for
    machines with such a CPU, and refused on others.
    """
    target = model.parent / DIRECTORY / model.name if output is None else output
    try:
        _check_paths(model, target, force=force)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    plan = _plan(model, texts)
    try:
        with _workplace(target.parent) as directory:
            written = _write(plan, directory / target.name)
            _move(directory, target.parent)
    except OSError as error:
        raise CommandError(f"{target}: cannot be written: {error.strerror}") from error
    return f"{target}  {written}"


def _check_paths(model: Path, target: Path, *, force: bool) -> None:
    if not model.is_file():
        what = "is a directory" if model.is_dir() else "there is no such file"
        raise UsageError(f"{model}: {what}", "obworker prepack MODEL.onnx")
    if target.suffix != SUFFIX:
        raise UsageError(f"--output: {str(target)!r} is not the name of an {SUFFIX} file")
    for path in (target, target.with_name(target.name + prepacked.DATA_SUFFIX)):
        if path.exists() and _is_read(path, model):
            raise UsageError(f"--output: {path} is what the model is read from")
        if path.exists() and not force:
            raise UsageError(f"{path}: exists", "--force writes over it")


def _is_read(path: Path, model: Path) -> bool:
    """Whether it is the model, or a file of weights beside it whose name is in the model."""
    if path.samefile(model):
        return True
    is_beside = path.parent.samefile(model.parent) and path.suffix == prepacked.DATA_SUFFIX
    if not is_beside or not model.stat().st_size:  # an empty file cannot be mapped
        return False
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as graph:
        return graph.find(os.fsencode(path.name)) != -1


def _plan(model: Path, texts: Sequence[str]) -> SessionPlan:
    try:
        options = session_options(",".join(texts)) if texts else None
    except ValueError as error:
        raise UsageError(f"--onnx-option: {error}") from error
    return SessionPlan(model, (onnx.CPU,), options=tuple(pairs_of(options)))


@contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """Make a temporary directory in `parent`, from which files can be moved there atomically.

    If `parent` is made for it, it is removed again if it is empty in the end.
    """
    was_there = parent.exists()
    parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=".prepack-") as name:
            yield Path(name)
    finally:
        if not was_there:
            with suppress(OSError):
                parent.rmdir()


def _write(plan: SessionPlan, target: Path) -> str:
    """Write the model and its weights side by side; return a text about their size."""
    onnxruntime = onnx.import_onnxruntime()
    version = onnxruntime.__version__
    if tuple(map(int, version.split(".")[:2])) < FIRST_VERSION:
        raise LoadError(
            f"onnxruntime {version} cannot pre-pack", "pip install --upgrade onnxruntime"
        )
    options = onnx.options_of(plan, onnxruntime)
    options.log_severity_level = LOGGED_SEVERITY
    options.optimized_model_filepath = str(target)
    data = target.name + prepacked.DATA_SUFFIX
    for key, value in {**prepacked.ENTRIES, prepacked.NAME_ENTRY: data}.items():
        options.add_session_config_entry(key, value)
    try:
        onnxruntime.InferenceSession(str(plan.model), options, providers=list(plan.providers))
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise CommandError(f"{plan.model}: cannot be pre-packed: {summarise(error)}") from error
    prepacked.mark(target, prepacked.this_cpu())
    size = sum(path.stat().st_size for path in target.parent.iterdir())
    where = f"are in {data}" if (target.parent / data).exists() else "are too small to be shared"
    return f"{size / 2**20:.1f} MiB with its weights, which {where}"


def _move(source: Path, directory: Path) -> None:
    """Move the files to their place, the weights first: a server may be reading older ones."""
    for path in sorted(source.iterdir(), key=lambda path: path.suffix == SUFFIX):
        path.replace(directory / path.name)
