"""What an exception says about the GPU, or about memory. Pure: no library is asked, or imported.

Theory of operation. After some errors a CUDA context is dead: whatever the process asks of the GPU
from then on fails, or returns what is wrong, until the process has ended (CUDA Runtime API,
cudaError: "the process must be terminated and relaunched"). An error is told by its type or its
code where it has one, as torch.AcceleratorError has since 2.8; else by its message, and only where
it is of a kind that libraries raise: RuntimeError, or a type of a library's own. It is looked for
behind the exception, too: kernels run later than they are launched, and user code wraps what it
catches.
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
    """Nothing in this process can use the GPU any more."""
    NO_MEMORY = "no memory"
    """There was none left; later there may be."""
    TOO_LARGE = "too large"
    """The machine or the GPU has not got as much."""


class Diagnosis(NamedTuple):
    """What is wrong, in the words of who found it."""

    fault: Fault
    text: str


class Wording(NamedTuple):
    """How messages without a number say it: CUDA_ERROR_ and a name, or a text."""

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

# By the type that has it, the attribute that holds the number: torch's, CuPy's, Numba's.
CODES = {
    "AcceleratorError": "error_code",
    "CUDARuntimeError": "status",
    "CUDADriverError": "status",
    "CudaAPIError": "code",
}
# torch's and CuPy's, cuda.core's.
OUT_OF_MEMORY_TYPES = {"OutOfMemoryError", "CUDAOutOfMemoryError"}
# Packages with exceptions that are no RuntimeError. JAX's is one.
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
# The driver finds none of those that the process may see: it fell off the bus, or never was there.
_NO_DEVICE = re.compile(
    r"\bNo (CUDA|HIP) GPUs are available|\bno (CUDA|ROCm)-capable device|\bCUDA_ERROR_NO_DEVICE\b"
)
# "Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.89 GiB of which…"
_TRIED = re.compile(
    r"Tried to allocate ([\d.]+) (\w+)\..*?total capac\w+ of ([\d.]+) (\w+)", re.DOTALL
)
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def diagnose(error: BaseException) -> Diagnosis | None:
    """Say what is wrong, None where it is neither the GPU nor memory; the GPU where both."""
    found = [Diagnosis(fault, _say(step)) for step in _behind(error) if (fault := _judge(step))]
    lost = (diagnosis for diagnosis in found if diagnosis.fault is Fault.DEVICE_LOST)
    return next(lost, found[0] if found else None)


def kind_of(error: BaseException, otherwise: type[ObworkerError]) -> type[ObworkerError]:
    """Return what to raise for an error of what builds a predictor: DeviceError, if it is that.

    A device that is not there is that, too. Where predict finds none, it may be that the code asks
    for one in a worker that has none, which nothing is won by replacing.
    """
    diagnosis = diagnose(error)
    is_lost = diagnosis is not None and diagnosis.fault is Fault.DEVICE_LOST
    return DeviceError if is_lost or any(map(_finds_no_device, _behind(error))) else otherwise


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that led to it, the members of groups as well; each once."""
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
    """Return what is in a group; before Python 3.11 a library defines what that is."""
    is_group = any(kind.__name__ == "BaseExceptionGroup" for kind in type(error).__mro__)
    return error.exceptions if is_group else ()  # type: ignore[attr-defined]


def _judge(error: BaseException) -> Fault | None:
    types = {kind.__name__ for kind in type(error).__mro__}  # of any library that calls them so
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
    """Tell what finds no memory now from what never will."""
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
