"""What an exception says about the GPU or about memory. Pure: no library is asked or imported.

Theory of operation. After some errors a CUDA context is dead: everything that the process asks of
the GPU from then on fails or returns wrong results, until the process ends (CUDA Runtime API,
cudaError: "the process must be terminated and relaunched"). An error is recognised by its type, or
by its code if it has one, as torch.AcceleratorError has since 2.8. Otherwise it is recognised by
its message, but only if libraries raise errors of that type: RuntimeError, or a type of their own.
The chain of an exception is searched, too: kernels run later than they are launched, and the user's
code wraps the exceptions that it catches.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from obworker.errors import DeviceError, ObworkerError
from obworker.predictor.traces import message_of

LONGEST_TEXT = 200


class Fault(enum.Enum):
    """What is wrong."""

    DEVICE_LOST = "device lost"
    """This process cannot use the GPU any more."""
    NO_MEMORY = "no memory"
    """There was not enough free memory; later there may be."""
    TOO_LARGE = "too large"
    """The machine or the GPU does not have that much."""


class Diagnosis(NamedTuple):
    """A fault, with the message of the exception that reported it."""

    fault: Fault
    text: str


class Wording(NamedTuple):
    """How an error appears in messages without its number: as CUDA_ERROR_ and a name, or a text."""

    name: str
    text: str


# By the number that CUresult, cudaError and hipError have in common.
FATAL = {
    46: Wording("DEVICE_UNAVAILABLE", "busy or unavailable"),
    214: Wording("ECC_UNCORRECTABLE", "uncorrectable ECC error"),
    220: Wording("NVLINK_UNCORRECTABLE", "uncorrectable NVLink error"),
    226: Wording("CONTAINED", "Invalid access of peer GPU memory over nvlink"),
    700: Wording("ILLEGAL_ADDRESS", "illegal memory access"),
    702: Wording("LAUNCH_TIMEOUT", "launch timed out"),
    710: Wording("ASSERT", "device-side assert triggered"),
    714: Wording("HARDWARE_STACK_ERROR", "hardware stack error"),
    715: Wording("ILLEGAL_INSTRUCTION", "illegal instruction"),
    716: Wording("MISALIGNED_ADDRESS", "misaligned address"),
    717: Wording("INVALID_ADDRESS_SPACE", "not supported on global/shared address space"),
    718: Wording("INVALID_PC", "invalid program counter"),
    719: Wording("LAUNCH_FAILED", "unspecified launch failure"),
    721: Wording("TENSOR_MEMORY_LEAK", "tensor memory not completely freed"),
    810: Wording("MPS_CLIENT_TERMINATED", "MPS client has been terminated"),
    911: Wording("EXTERNAL_DEVICE", "async error has occured in external entity"),
    999: Wording("UNKNOWN", "unknown error"),
}
OUT_OF_MEMORY = 2

# By type of exception, the attribute with the number: of torch, CuPy and Numba.
CODES = {
    "AcceleratorError": "error_code",
    "CUDARuntimeError": "status",
    "CUDADriverError": "status",
    "CudaAPIError": "code",
}
# Of torch and CuPy, and of cuda.core.
OUT_OF_MEMORY_TYPES = {"OutOfMemoryError", "CUDAOutOfMemoryError"}
# Packages with exceptions that are no RuntimeError. (That of JAX is one.)
LIBRARIES = {"cuda", "onnxruntime", "pycuda", "tensorflow"}

_NUMBER = re.compile(r"\b(?:CUDA|HIP) (?:failure|error) (\d+)\b")
_SAID_BY_A_DRIVER = re.compile(
    r"\b(CUDA|HIP)( driver| unknown)? error\b|\[CUDA\]"
    r"|\b(?-i:(cuda|hip)Error[A-Z]|cu[A-Z]\w* failed:)",
    re.IGNORECASE,
)
_FATAL_TEXT = re.compile("|".join(re.escape(error.text) for error in FATAL.values()), re.IGNORECASE)
_FATAL_NAME = re.compile(rf"\bCUDA_ERROR_({'|'.join(error.name for error in FATAL.values())})\b")
# Libraries that run on a dead context often hide its error behind their own.
_FATAL_STATUS = re.compile(
    r"CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|CUBLAS_STATUS_EXECUTION|\bGPU sync failed"
)
_NO_MEMORY = re.compile(
    r"\b(CUDA|HIP)( (error|failure \d+):)? out of memory|STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED"
    r"|CUDA_ERROR_OUT_OF_MEMORY|\bcu\w+ failed: out of memory|OOM when allocating"
    r"|Failed to allocate memory for requested buffer|is smaller than requested bytes"
    r"|can't allocate memory|bad.alloc",
    re.IGNORECASE,
)
# None of the devices that the process may see is there: one fell off the bus, or never existed.
_NO_DEVICE = re.compile(
    r"\bNo (CUDA|HIP) GPUs are available|\bno (CUDA|ROCm)-capable device|\bCUDA_ERROR_NO_DEVICE\b"
)
# "Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.89 GiB of which…"
_TRIED = re.compile(
    r"Tried to allocate ([\d.]+) (\w+)\..*?total capac\w+ of ([\d.]+) (\w+)", re.DOTALL
)
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def diagnose(error: BaseException) -> Diagnosis | None:
    """Return what is wrong, None if it is neither the GPU nor memory; the GPU comes first."""
    found = [Diagnosis(fault, _say(step)) for step in _behind(error) if (fault := _judge(step))]
    lost = (diagnosis for diagnosis in found if diagnosis.fault is Fault.DEVICE_LOST)
    return next(lost, found[0] if found else None)


def kind_of(error: BaseException, otherwise: type[ObworkerError]) -> type[ObworkerError]:
    """Return the type to raise for an error in building a predictor: DeviceError, or `otherwise`.

    A missing device counts as DeviceError here, but not in predict: there the code may ask for a
    device in a worker that has none, and replacing the worker would not help.
    """
    diagnosis = diagnose(error)
    is_lost = diagnosis is not None and diagnosis.fault is Fault.DEVICE_LOST
    return DeviceError if is_lost or any(map(_finds_no_device, _behind(error))) else otherwise


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all in its chain, with the members of groups, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        step = waiting.pop(0)
        if step is None or id(step) in seen:
            continue
        seen.add(id(step))
        yield step
        waiting += [step.__cause__, step.__context__, *_members(step)]


def _members(error: BaseException) -> Sequence[BaseException]:
    """Return the exceptions in a group; before Python 3.11 the type comes from a library."""
    is_group = any(kind.__name__ == "BaseExceptionGroup" for kind in type(error).__mro__)
    return error.exceptions if is_group else ()  # type: ignore[attr-defined]


def _judge(error: BaseException) -> Fault | None:
    types = {kind.__name__ for kind in type(error).__mro__}  # whatever library they are from
    code = _code_of(error, types)
    if code is not None:
        return _judge_code(code)
    if types & OUT_OF_MEMORY_TYPES:
        return _judge_size(message_of(error))
    if isinstance(error, MemoryError):
        return Fault.TOO_LARGE
    return _judge_text(message_of(error)) if _is_by_a_library(error) else None


def _finds_no_device(error: BaseException) -> bool:
    return _is_by_a_library(error) and _NO_DEVICE.search(message_of(error)) is not None


def _code_of(error: BaseException, types: set[str]) -> int | None:
    codes = (getattr(error, CODES[name], None) for name in CODES.keys() & types)
    return next((code for code in codes if isinstance(code, int)), None)


def _is_by_a_library(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, RuntimeError) or package in LIBRARIES


def _judge_code(code: int) -> Fault | None:
    if code == OUT_OF_MEMORY:
        return Fault.NO_MEMORY
    return Fault.DEVICE_LOST if code in FATAL else None


def _judge_size(text: str) -> Fault:
    """Return whether there is too little memory now, or always."""
    tried = _TRIED.search(text)
    if tried is None:
        return Fault.NO_MEMORY
    amount, unit, capacity, capacity_unit = tried.groups()
    is_more = _bytes(amount, unit) > _bytes(capacity, capacity_unit)
    return Fault.TOO_LARGE if is_more else Fault.NO_MEMORY


def _bytes(amount: str, unit: str) -> float:
    return float(amount) * _UNITS.get(unit, 1)


def _judge_text(text: str) -> Fault | None:
    if number := _NUMBER.search(text):
        return _judge_code(int(number[1]))
    if _NO_MEMORY.search(text):
        return _judge_size(text)
    by_driver = _SAID_BY_A_DRIVER.search(text) and _FATAL_TEXT.search(text)
    is_fatal = by_driver or _FATAL_NAME.search(text) or _FATAL_STATUS.search(text)
    return Fault.DEVICE_LOST if is_fatal else None


def _say(error: BaseException) -> str:
    line = next(iter(message_of(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}…"
