"""What exceptions of torch, onnxruntime and others are taken for."""

from __future__ import annotations

import enum

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, RuntimeException

from obworker.errors import BootError, DeviceError
from obworker.predictor.faults import Fault, diagnose, kind_of

LOST, NO_MEMORY, TOO_LARGE = Fault.DEVICE_LOST, Fault.NO_MEMORY, Fault.TOO_LARGE


# What torch adds to every error of CUDA; before 2.8 its type says no more than the text.
ADVICE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
    "\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)


class AcceleratorError(RuntimeError):
    """torch's since 2.8."""

    def __init__(self, code: int, message: str = "CUDA error: something") -> None:
        super().__init__(message)
        self.error_code = code


class OutOfMemoryError(RuntimeError):
    """torch's, in substance."""


class ArrayMemoryError(MemoryError):
    """numpy's."""


class CUDARuntimeError(RuntimeError):
    """CuPy's; it asks the runtime for the text."""

    def __init__(self, status: int, message: str = "cudaErrorSomething: something") -> None:
        super().__init__(message)
        self.status = status


class CUDADriverError(RuntimeError):
    """CuPy's since 14: it may be made of a text alone."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class CupyOutOfMemoryError(MemoryError):
    """CuPy's, in substance."""


CupyOutOfMemoryError.__name__ = "OutOfMemoryError"


class CUresult(enum.IntEnum):
    """cuda.bindings': what Numba gets, where it does not call the driver itself."""

    CUDA_ERROR_ILLEGAL_ADDRESS = 700


class CudaAPIError(Exception):
    """Numba's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code

    def __str__(self) -> str:
        code, message = self.args
        return f"[{code}] {message}"


class XlaRuntimeError(RuntimeError):
    """JAX's; newer ones call it JaxRuntimeError."""


def made_by(module: str, name: str, message: str) -> Exception:
    """Return an exception of a library whose exceptions are no RuntimeError."""
    kind: type[Exception] = type(name, (Exception,), {"__module__": module})
    return kind(message)


def pycuda(name: str, message: str) -> Exception:
    return made_by("pycuda._driver", name, message)


def tensorflow(name: str, message: str) -> Exception:
    return made_by("tensorflow.python.framework.errors_impl", name, message)


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


@pytest.mark.parametrize(
    "code",
    [46, 214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999],
)
def test_a_code_after_which_the_context_is_dead(code: int) -> None:
    for error in (
        AcceleratorError(code),
        CUDARuntimeError(code),
        CUDADriverError("CUDA_ERROR_SOMETHING: something", code),
        CudaAPIError(code, "Call to cuMemcpyDtoH results in UNKNOWN_CUDA_ERROR"),
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
        "Invalid access of peer GPU memory over nvlink or a hardware error",
        "tensor memory not completely freed",
        "the MPS client has been terminated by the server",
        "an async error has occured in external entity outside of CUDA",
        "CUDA-capable device(s) is/are busy or unavailable",
        "unknown error",
    ],
)
def test_a_text_after_which_the_context_is_dead(text: str) -> None:
    for driver in (
        *("CUDA error", "HIP error", "CUDA driver error", "Triton Error [CUDA]"),
        *("cudaErrorSomething", "hipErrorSomething", "cuMemcpyDtoH failed"),
    ):
        diagnosis = diagnose(RuntimeError(f"{driver}: {text}{ADVICE}"))
        assert diagnosis == (LOST, f"{driver}: {text}")


@pytest.mark.parametrize(
    "name",
    [
        *("DEVICE_UNAVAILABLE", "ECC_UNCORRECTABLE", "NVLINK_UNCORRECTABLE", "ILLEGAL_ADDRESS"),
        *("LAUNCH_TIMEOUT", "ASSERT", "HARDWARE_STACK_ERROR", "ILLEGAL_INSTRUCTION"),
        *("MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "LAUNCH_FAILED", "UNKNOWN"),
        *("CONTAINED", "TENSOR_MEMORY_LEAK", "MPS_CLIENT_TERMINATED", "EXTERNAL_DEVICE"),
    ],
)
def test_a_name_after_which_the_context_is_dead(name: str) -> None:
    for error in (
        XlaRuntimeError(f"INTERNAL: Failed to execute XLA Runtime executable: CUDA_ERROR_{name}."),
        tensorflow("InternalError", f"Could not synchronize CUDA stream: CUDA_ERROR_{name}: x"),
        made_by("cuda.core._utils.cuda_utils", "CUDAError", f"CUDA_ERROR_{name}: x"),
    ):
        diagnosis = diagnose(error)
        assert diagnosis == (LOST, str(error))


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (CudaAPIError(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS, "Call to cuX results in Y"), LOST),
        (CUDADriverError("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"), LOST),
        (pycuda("LogicError", "cuMemcpyDtoH failed: an illegal memory access was"), LOST),
        (pycuda("LaunchError", "cuCtxSynchronize failed: unspecified launch failure"), LOST),
        (pycuda("Error", "cuMemFree failed: unknown error"), LOST),
        (tensorflow("InternalError", "GPU sync failed"), LOST),
        (tensorflow("InternalError", "CUDNN_STATUS_EXECUTION_FAILED in stream 0x1"), LOST),
        # memory
        (CUDARuntimeError(2, "cudaErrorMemoryAllocation: out of memory"), NO_MEMORY),
        (CupyOutOfMemoryError("Out of memory allocating 8 bytes (allocated so far: 0)"), NO_MEMORY),
        (pycuda("MemoryError", "cuMemAlloc failed: out of memory"), NO_MEMORY),
        (CudaAPIError(2, "Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"), NO_MEMORY),
        (XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"), NO_MEMORY),
        (XlaRuntimeError("INTERNAL: x: CUDA_ERROR_OUT_OF_MEMORY: out of memory"), NO_MEMORY),
        (tensorflow("ResourceExhaustedError", "OOM when allocating tensor with shape"), NO_MEMORY),
        # what is neither
        (CUDARuntimeError(1, "cudaErrorInvalidValue: unknown error"), None),
        (CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument"), None),
        (CudaAPIError(1, "Call to cuX results in CUDA_ERROR_INVALID_VALUE"), None),
        (pycuda("LogicError", "cuMemcpyHtoDAsync failed: invalid argument"), None),
        (XlaRuntimeError("INVALID_ARGUMENT: a device-side assert is no argument"), None),
        (XlaRuntimeError("INTERNAL: x: CUDA_ERROR_INVALID_HANDLE: invalid resource handle"), None),
        (tensorflow("InvalidArgumentError", "logits and labels must have the same shape"), None),
        (RuntimeError("customs failed: unknown error"), None),
    ],
)
def test_what_other_libraries_say(error: BaseException, fault: Fault | None) -> None:
    diagnosis = diagnose(error)
    assert (diagnosis and diagnosis.fault) == fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        # torch's own words for 999 when it is initialised
        (RuntimeError("CUDA unknown error - this may be due to an incorrectly set up"), LOST),
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
        (RuntimeError(f"CUDA error: invalid configuration argument{ADVICE}"), None),
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


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("No CUDA GPUs are available"),
        AcceleratorError(100, "CUDA error: no CUDA-capable device is detected"),
        CUDARuntimeError(100, "cudaErrorNoDevice: no CUDA-capable device is detected"),
        RuntimeError("CUDA failure 100: no CUDA-capable device is detected ; GPU=-1"),
        RuntimeError("Error at driver init: Call to cuInit results in CUDA_ERROR_NO_DEVICE (100)"),
        RuntimeError("HIP error: no ROCm-capable device is detected"),
    ],
)
def test_a_device_that_is_not_there_is_to_blame_for_a_boot_and_not_for_a_predict(
    error: Exception,
) -> None:
    assert kind_of(error, BootError) is DeviceError
    assert kind_of(caused(Elsewhere(), error), BootError) is DeviceError
    assert diagnose(error) is None


@pytest.mark.parametrize(
    "error",
    [ValueError("No CUDA GPUs are available"), RuntimeError("CUDA error: invalid device ordinal")],
)
def test_what_else_fails_a_boot_is_the_codes(error: Exception) -> None:
    assert kind_of(error, BootError) is BootError


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
    members = (ValueError(), AcceleratorError(700))
    base = type("BaseExceptionGroup", (Exception,), {"exceptions": members})  # of Python 3.11
    diagnosis = diagnose(type("Group", (base,), {})())
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
