"""Plans and makes the InferenceSession of an .onnx file; imports onnxruntime only then.

A session is planned when the predictor is loaded, and is the same in whatever process it is made.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obworker import onnx_options
from obworker.errors import BootError, LoadError
from obworker.onnx_options import ATTRIBUTES, AUTO, pairs_of, session_options, short_name
from obworker.predictor import prepacked
from obworker.predictor.faults import diagnose, kind_of
from obworker.predictor.traces import summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from onnxruntime import InferenceSession, SessionOptions

CPU = "CPUExecutionProvider"
# onnxruntime_session_options_config_keys.h
SPINNING = "session.intra_op.allow_spinning"
# Providers that are used by default, with the variables that hide their devices if they are empty.
# Others have to be asked for: TensorRT compiles for minutes at the first request, OpenVINO has
# threads of its own.
ACCELERATORS = {
    "CUDAExecutionProvider": ("CUDA_VISIBLE_DEVICES",),
    "MIGraphXExecutionProvider": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "ROCMExecutionProvider": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "CANNExecutionProvider": ("ASCEND_RT_VISIBLE_DEVICES",),
}
GPU_PACKAGES = {"cuda", "tensorrt"}

log = logging.getLogger("obworker.predictor")


@dataclass(frozen=True)
class SessionPlan:
    """How the session of a model is made; `providers` are in order of preference."""

    model: Path
    providers: tuple[str, ...]
    threads: int = 1
    options: tuple[tuple[str, str], ...] = ()

    @property
    def may_be_forked(self) -> bool:
        """Whether workers can use a session that was made before the fork.

        That is so if it has no threads, which a fork does not copy, and no device.
        """
        options = dict(self.options)
        return (
            self.providers == (CPU,)
            and self.threads == 1
            and options.get("inter_op_num_threads", "1") == "1"
            and options.get("execution_mode", "sequential") == "sequential"
        )

    @property
    def description(self) -> str:
        """Where it runs, and how."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        options = [f"{key}={value}" for key, value in self.options]
        return ", ".join([*map(short_name, self.providers), threads, *options])


def plan_session(
    model: Path,
    *,
    threads: int = 1,
    providers: str = AUTO,
    options: str | None = None,
    on_device: bool = True,
    may_spin: bool = True,
) -> SessionPlan:
    """Plan the session of `model` with what this machine's onnxruntime offers.

    `on_device` says whether workers have a GPU, if the machine has any. `may_spin` says whether
    there is a core for every thread; if not, idle threads must not spin. The others are the values
    of ``--onnx-threads``, ``--onnx-providers`` and ``--onnx-option``, or of `create`.

    Raises:
        LoadError: there is no onnxruntime, it does not have what is asked for, or a value is wrong.
    """
    threads = _checked("--onnx-threads", onnx_options.thread_count, str(threads))
    names = _checked("--onnx-providers", onnx_options.providers, providers)
    wanted = dict(pairs_of(options and _checked("--onnx-option", session_options, options)))
    offered = import_onnxruntime().get_available_providers()
    if names != AUTO:
        chosen = find_providers(names.split(","), offered)
    else:
        chosen = default_providers(offered, os.environ) if on_device else [CPU]
    if threads > 1 and not may_spin:
        wanted.setdefault(SPINNING, "0")
    return SessionPlan(model, tuple(chosen), threads, tuple(wanted.items()))


def _checked(name: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise LoadError(f"{name}: {error}") from None


def default_providers(offered: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the providers whose devices `environ` does not hide, and the CPU."""
    found = [
        name
        for name, variables in ACCELERATORS.items()
        if name in offered and all(environ.get(variable) != "" for variable in variables)
    ]
    return [*found, CPU]


def find_providers(names: Sequence[str], offered: Sequence[str]) -> list[str]:
    """Return the providers with these short names, or full ones.

    Raises:
        LoadError: onnxruntime does not offer one of them.
    """
    known = {short_name(provider): provider for provider in offered}
    shorts = list(map(short_name, names))
    for name in shorts:
        if name not in known:
            raise LoadError(
                f"--onnx-providers: this onnxruntime has no {name!r}; it has {', '.join(known)}",
                "pip install onnxruntime-gpu instead" if name in GPU_PACKAGES else None,
            )
    return [known[name] for name in shorts]


def open_session(plan: SessionPlan) -> InferenceSession:
    """Make the session that was planned.

    Raises:
        BootError: the model cannot be loaded, or not with the providers of the plan.
        DeviceError: the GPU is lost.
    """
    onnxruntime = import_onnxruntime()
    name = plan.model.name
    options = options_of(plan, onnxruntime)
    create = partial(_without_fallback(onnxruntime.InferenceSession), str(plan.model), options)
    try:
        session = _start(create, plan)
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        kind = kind_of(error, BootError)
        raise kind(f"{name} cannot be loaded: {summarise(error)}") from error
    prepacked.check(session, name)
    check_providers(plan, session.get_providers())
    return session


def _start(create: Callable[..., InferenceSession], plan: SessionPlan) -> InferenceSession:
    """Make the session; if the first provider cannot be started, make it with the others.

    Not if its device is lost or its memory is full.
    """
    first, *others = plan.providers
    try:
        return create(providers=[first, *others])
    except (ValueError, RuntimeError) as error:  # creating a provider raises these
        if not others or diagnose(error) is not None:
            raise
        log.warning("%s: %s: %s", plan.model.name, short_name(first), summarise(error))
    return create(providers=others)


def _without_fallback(kind: type) -> type:
    """Return a subclass of InferenceSession that does not fall back to the CPU by itself.

    onnxruntime's falls back on any error, when it is made and in a call: all later calls run on the
    CPU then, and the worker looks well. It has an argument against that only since 1.23.
    """
    never = property(lambda _: False, lambda *_: None)
    return type(kind.__name__, (kind,), {"_enable_fallback": never})


def options_of(plan: SessionPlan, onnxruntime: ModuleType) -> SessionOptions:
    """Return the SessionOptions of the plan.

    Raises:
        BootError: this onnxruntime is too old for one of them.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = 1
    for key, value in plan.options:
        if key not in ATTRIBUTES:
            options.add_session_config_entry(key, value)
        elif hasattr(options, key):
            setattr(options, key, _typed(value, type(getattr(options, key))))
        else:
            raise BootError(f"--onnx-option: this onnxruntime has no {key!r}")
    return options


def _typed(value: str, kind: Any) -> object:
    """Return the value as onnxruntime has it: a member of an enumeration, a number or a flag."""
    members = getattr(kind, "__members__", None)
    return members[f"ORT_{value.upper()}"] if members else kind(int(value))


def check_providers(plan: SessionPlan, started: Sequence[str]) -> None:
    """Log a warning if the first provider of the plan has not started.

    Raises:
        BootError: the session runs on a provider that is not in the plan.
    """
    wanted, got, model = plan.providers[0], started[0], plan.model.name
    if wanted in started:
        return
    if got not in plan.providers:
        raise BootError(
            f"{model} cannot be loaded: onnxruntime could not start {wanted}; its log says why",
            f"with --onnx-providers {short_name(wanted)},cpu it runs on the CPU then",
        )
    log.warning("%s runs on %s: onnxruntime could not start %s", model, short_name(got), wanted)


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime, such that a fork stays possible.

    Raises:
        LoadError: it is not installed.
    """
    # For other servers; the supervisor sets this for its processes. Telemetry starts a thread,
    # after which a fork is not safe any more.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise LoadError(
            f"the parameter onnx needs onnxruntime: {summarise(error)}",
            "pip install onnxruntime, or onnxruntime-gpu for a GPU",
        ) from error
    return onnxruntime  # type: ignore[no-any-return]  # it has no types of its own
