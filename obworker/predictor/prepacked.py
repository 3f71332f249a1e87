"""Pre-packed models: marked with the kind of CPU that they are for.

Theory of operation. onnxruntime packs weights in an order that suits the CPU, and each session
keeps its own copy of that. If they are written to an external file instead, every session maps the
file (mmap(2)), so that all processes share its pages.

The graph and the weights are then for one kind of CPU. For example, a convolution in blocks of 16
channels, as for AVX-512, computes wrong results on a CPU where blocks have 8, without any error. So
the CPU is noted in the model's metadata, and compared after a session was made.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from obworker.errors import BootError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

KEY = "obworker.prepacked_for"
DATA_SUFFIX = ".data"
ENTRIES = {
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.save_external_prepacked_constant_initializers": "1",
}
NAME_ENTRY = "session.optimized_model_external_initializers_file_name"
# Features that onnxruntime's kernels (MLAS) and graph optimisations depend on.
FEATURES = (
    *("avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
METADATA_FIELD = 14  # of ModelProto, in onnx.proto: repeated StringStringEntryProto metadata_props


def this_cpu() -> str:
    """Return the kind of the CPU of this machine."""
    return kind_of_cpu(os.uname().machine, Path("/proc/cpuinfo").read_text())


def kind_of_cpu(machine: str, cpuinfo: str) -> str:
    """Return the architecture, and those of FEATURES that ``/proc/cpuinfo`` has."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    found = set(line[1].split() if line else ())
    return " ".join([machine, *(feature for feature in FEATURES if feature in found)])


def mark(model: Path, cpu: str) -> None:
    """Note in a model for which kind of CPU it is.

    Protobuf merges a message with another of the same type that is appended to it.
    """
    entry = _field(1, KEY.encode()) + _field(2, cpu.encode())
    with model.open("ab") as file:
        file.write(_field(METADATA_FIELD, entry))


def _field(number: int, value: bytes) -> bytes:
    """Encode a field of bytes (protobuf's wire type 2)."""
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def check(session: InferenceSession, name: str) -> None:
    """Refuse a session of a model that was pre-packed for another kind of CPU.

    Raises:
        BootError: it was pre-packed for another.
    """
    meant, here = session.get_modelmeta().custom_metadata_map.get(KEY), this_cpu()
    if meant not in (None, here):
        raise BootError(
            f"{name} was pre-packed for another CPU: for {meant}; this is {here}",
            "make it anew on a machine like this one: obworker prepack",
        )
