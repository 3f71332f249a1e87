"""The valid values of --onnx-providers and --onnx-option. Pure: onnxruntime is not imported.

onnxruntime ignores configuration entries that it does not know, so a spelling mistake would have no
effect and cause no error. The names are from its onnxruntime_session_options_config_keys.h; those
that begin with ``ep.`` belong to providers. Which providers are installed is only checked for a
predictor that asks for a session.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from obworker.errors import did_you_mean
from obworker.values import Parse, choice, flag, nonempty, whole_number

AUTO = "auto"
SUFFIX = "executionprovider"
PROVIDER_PREFIX = "ep."
LEVELS = ("disable_all", "enable_basic", "enable_extended", "enable_all")

# onnxruntime.get_all_providers() of several versions, by short names.
PROVIDERS = (
    *("cpu", "cuda", "tensorrt", "nvtensorrtrtx", "migraphx", "rocm", "cann", "openvino", "dnnl"),
    *("xnnpack", "qnn", "vitisai", "coreml", "dml", "webgpu", "webnn", "js", "azure", "nnapi"),
    *("acl", "armnn", "rknpu", "snpe", "tvm", "vsinpu"),
)

# Attributes of onnxruntime.SessionOptions.
ATTRIBUTES: dict[str, Parse] = {
    "enable_cpu_mem_arena": flag,
    "enable_mem_pattern": flag,
    "enable_mem_reuse": flag,
    "execution_mode": choice("sequential", "parallel"),
    "graph_optimization_level": choice(*LEVELS),
    "inter_op_num_threads": whole_number(1, 1024),
    "log_severity_level": whole_number(0, 4),
    "log_verbosity_level": whole_number(0),
    "use_deterministic_compute": flag,
}

# Entries for SessionOptions.add_session_config_entry.
ENTRIES: dict[str, Parse] = {
    "mlas.disable_kleidiai": flag,
    "mlas.enable_gemm_fastmath_arm64_bfloat16": flag,
    "mlas.use_lut_gemm": flag,
    "optimization.constant_folding_max_output_size_in_bytes": whole_number(0, 2**63 - 1),
    "optimization.disable_specified_optimizers": nonempty,
    "optimization.enable_cast_chain_elimination": flag,
    "optimization.enable_gelu_approximation": flag,
    "session.allow_released_opsets_only": flag,
    "session.disable_aot_function_inlining": flag,
    "session.disable_cpu_ep_fallback": flag,
    "session.disable_double_qdq_remover": flag,
    "session.disable_prepacking": flag,
    "session.disable_qdq_constant_folding": flag,
    "session.disable_quant_qdq": flag,
    "session.dynamic_block_base": whole_number(0),
    "session.enable_dq_matmulnbits_fusion": flag,
    "session.enable_quant_qdq_cleanup": flag,
    "session.force_spinning_stop": flag,
    "session.graph_optimizations_loop_level": whole_number(0, 2),
    "session.inter_op.allow_spinning": flag,
    "session.intra_op.allow_spinning": flag,
    "session.intra_op.spin_duration_us": whole_number(0),
    "session.intra_op_thread_affinities": nonempty,
    "session.node_partition_config_file": nonempty,
    "session.qdq_matmulnbits_accuracy_level": whole_number(0, 4),
    "session.qdq_matmulnbits_block_size": whole_number(1),
    "session.qdqisint8allowed": flag,
    "session.set_denormal_as_zero": flag,
    "session.strict_shape_type_inference": flag,
    "session.use_device_allocator_for_initializers": flag,
    "session.x64quantprecision": flag,
}
KEYS = ATTRIBUTES | ENTRIES
thread_count = whole_number(1, 1024)
ELSEWHERE = {"intra_op_num_threads": "--onnx-threads", "providers": "--onnx-providers"}


def short_name(provider: str) -> str:
    """Return the short name of an execution provider: ``cuda`` for CUDAExecutionProvider."""
    return provider.lower().removesuffix(SUFFIX)


def providers(text: str) -> str:
    """Check a list of execution providers; whether they are installed is checked later.

    One that is not in PROVIDERS must be given by its full name.
    """
    tokens = [token.strip() for token in text.split(",")]
    if not all(re.fullmatch(r"\w+", token, re.ASCII) for token in tokens):
        raise ValueError(f"{text!r} is not auto or a list of execution providers such as cuda,cpu")
    names = [_provider(token) for token in tokens]
    if names != [AUTO] and AUTO in names:
        raise ValueError(f"{text!r}: auto stands alone")
    if len(set(names)) < len(names):
        raise ValueError(f"{text!r} has one of them twice")
    return ",".join(names)


def _provider(token: str) -> str:
    name = short_name(token)
    if name in (AUTO, *PROVIDERS):
        return name
    if token.lower().endswith(SUFFIX):
        return token
    near = did_you_mean(name, PROVIDERS)
    known = ", ".join(PROVIDERS)
    raise ValueError(f"onnxruntime has no execution provider {name!r}{near}; known are {known}")


def session_options(text: str) -> str:
    """Check a list of KEY=VALUE."""
    pairs = [_pair(token) for token in _tokens(text)]
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{key} is given twice")
    return ",".join(f"{key}={value}" for key, value in pairs)


def pairs_of(text: str | None) -> Iterator[tuple[str, str]]:
    """Return the pairs in a text that session_options has returned."""
    for token in _tokens(text) if text else ():
        key, _, value = token.partition("=")
        yield key, value


def _tokens(text: str) -> list[str]:
    """Split at each comma before a key: values may contain commas."""
    return [token.strip() for token in re.split(r",(?=\s*[\w.]+\s*=)", text)]


def _pair(token: str) -> tuple[str, str]:
    key, found, value = (part.strip() for part in token.partition("="))
    if not (found and key):
        raise ValueError(
            f"{token!r} is not KEY=VALUE such as graph_optimization_level=enable_basic"
        )
    if key in ELSEWHERE:
        raise ValueError(f"{key!r} is what {ELSEWHERE[key]} says")
    try:
        parsed = _parser_of(key)(value.lower().removeprefix("ort_") if key in ATTRIBUTES else value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    return key, str(int(parsed) if isinstance(parsed, bool) else parsed)


def _parser_of(key: str) -> Parse:
    if key.startswith(PROVIDER_PREFIX):
        return nonempty
    if key not in KEYS:
        near = did_you_mean(key, KEYS) or f"; docs/onnx.md lists them: {', '.join(ATTRIBUTES)}, …"
        raise ValueError(f"is no session option of onnxruntime{near}")
    return KEYS[key]
