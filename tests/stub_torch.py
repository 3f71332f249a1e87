"""A stub of torch for scripts/gpu_check, without a GPU; an index out of range is a fatal error."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any


class AcceleratorError(RuntimeError):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.error_code = code


class Tensor:
    def __init__(self, size: int) -> None:
        self.size = size

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.size:
            raise AcceleratorError("CUDA error: device-side assert triggered", 710)
        return self

    def mean(self) -> float:
        return 0.0


def zeros(size: int, device: str) -> Tensor:
    return Tensor(size)


def randn(batch: int, size: int, device: str) -> Tensor:
    return Tensor(batch)


def tensor(numbers: list[int], device: str) -> int:
    return numbers[0]


def Linear(inputs: int, outputs: int, device: str) -> Any:
    return lambda value: value


def set_num_threads(count: int) -> None:
    pass


inference_mode = nullcontext
nn = SimpleNamespace(Linear=Linear)
cuda = SimpleNamespace(synchronize=lambda: None)
