"""What exceptions of torch, onnxruntime and others are taken for."""

from __future__ import annotations

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, RuntimeException

from obworker.predictor.faults import Fault, diagnose

LOST, NO_MEMORY, TOO_LARGE = Fault.DEVICE_LOST, Fault.NO_MEMORY, Fault.TOO_LARGE


class AcceleratorError(RuntimeError):
    """torch's since 2.8."""

    def __init__(self, code: int, message: str = "CUDA error: something") -> None:
        super().__init__(message)
        self.error_code = code


class OutOfMemoryError(RuntimeError):
    """torch's, in substance."""


class ArrayMemoryError(MemoryError):
    """numpy's."""


class Elsewhere(Exception):
    """The user's own."""


def with_code(error: Exception, code: int) -> Exception:
    """Give an error what a library calls its own numbers, too."""
    error.error_code = code  # type: ignore[attr-defined]
    return error


def torch_tried(amount: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {amount}. GPU 0 has a total capacity of 15.89 GiB "
        "of which 1.21 GiB is free. Process 7 has 14.67 GiB memory in use."
    )


@pytest.mark.parametrize("code", [46, 214, 220, 700, 702, 710, 714, 715, 716, 717, 718, 719, 999])
def test_a_code_after_which_the_context_is_dead(code: int) -> None:
    for error in (
        AcceleratorError(code),
        RuntimeError(f"CUDA failure {code}: whatever"),
        Fail(f"[ONNXRuntimeError] : 1 : FAIL : CUDA failure {code}: x ; GPU=0 ; hostname=h"),
    ):
        diagnosis = diagnose(error)
        assert diagnosis is not None
        assert diagnosis.fault is LOST


@pytest.mark.parametrize(
    "text",
    [
        "an illegal memory access was encountered",
        "the launch timed out and was terminated",
        "device-side assert triggered",
        "hardware stack error",
        "an illegal instruction was encountered",
        "misaligned address",
        "operation not supported on global/shared address space",
        "invalid program counter",
        "unspecified launch failure",
        "uncorrectable ECC error encountered",
        "uncorrectable NVLink error detected during the execution",
        "CUDA-capable device(s) is/are busy or unavailable",
        "unknown error",
    ],
)
def test_a_text_after_which_the_context_is_dead(text: str) -> None:
    later = "\nCUDA kernel errors might be asynchronously reported at some other API call."
    for driver in ("CUDA error", "HIP error", "CUDA driver error", "Triton Error [CUDA]"):
        diagnosis = diagnose(RuntimeError(f"{driver}: {text}{later}"))
        assert diagnosis == (LOST, f"{driver}: {text}")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), LOST),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), LOST),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasS`"), LOST),
        (EPFail("CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0"), LOST),
        (AcceleratorError(2), NO_MEMORY),
        (torch_tried("2.00 GiB"), NO_MEMORY),
        (torch_tried("20.00 GiB"), TOO_LARGE),
        (torch_tried("512.00 MiB"), NO_MEMORY),
        (OutOfMemoryError("no numbers"), NO_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), NO_MEMORY),
        (RuntimeError("CUDA error: out of memory"), NO_MEMORY),
        (RuntimeError("CUDA failure 2: out of memory"), NO_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasC`"), NO_MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), NO_MEMORY),
        (Fail("Failed to allocate memory for requested buffer of size 4096"), NO_MEMORY),
        (
            RuntimeException("Available memory of 1 is smaller than requested bytes of 2"),
            NO_MEMORY,
        ),
        (
            RuntimeException("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
            NO_MEMORY,
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), NO_MEMORY),
        (MemoryError(), TOO_LARGE),
        (ArrayMemoryError("Unable to allocate 8 TiB"), TOO_LARGE),
        # what is neither
        (AcceleratorError(1, "CUDA error: invalid argument"), None),
        (RuntimeError("CUDA error: invalid argument"), None),
        (RuntimeError("CUDA failure 1: invalid argument"), None),
        (RuntimeError("device-side assert triggered"), None),
        (RuntimeError("unknown error"), None),
        (Fail("Non-zero status code returned while running Add node"), None),
        (ValueError("CUDA error: device-side assert triggered"), None),
        (Elsewhere("CUDA failure 700"), None),
        (with_code(Elsewhere(), 700), None),
        (RuntimeError(), None),
    ],
)
def test_what_an_error_says(error: BaseException, fault: Fault | None) -> None:
    diagnosis = diagnose(error)
    assert (diagnosis and diagnosis.fault) == fault


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


def in_handling(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__context__ = inner
    return outer


def test_an_error_is_found_behind_others() -> None:
    lost = AcceleratorError(710, "CUDA error: device-side assert triggered")
    for error in (
        caused(Elsewhere("wrapped"), lost),
        in_handling(Elsewhere("failed again"), lost),
        caused(Elsewhere("twice"), in_handling(ValueError(), lost)),
    ):
        assert diagnose(error) == (LOST, "CUDA error: device-side assert triggered")


def test_an_error_in_a_group_is_found() -> None:
    group = type("Group", (Exception,), {"exceptions": (ValueError(), AcceleratorError(700))})
    diagnosis = diagnose(group())
    assert diagnosis is not None
    assert diagnosis.fault is LOST


def test_a_lost_device_outweighs_what_came_after_it() -> None:
    diagnosis = diagnose(in_handling(MemoryError(), AcceleratorError(719)))
    assert diagnosis is not None
    assert diagnosis.fault is LOST


def test_a_chain_that_is_a_ring_has_an_end() -> None:
    first, second = Elsewhere(), Elsewhere()
    first.__context__, second.__context__ = second, first
    assert diagnose(first) is None


def test_the_text_is_one_line_of_bounded_length() -> None:
    diagnosis = diagnose(RuntimeError("CUDA error: unknown error " + "x" * 1000))
    assert diagnosis is not None
    assert len(diagnosis.text) == 201
    assert diagnose(MemoryError()) == (TOO_LARGE, "MemoryError")
