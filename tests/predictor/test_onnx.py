from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from onnxruntime import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from obworker.errors import BootError, DeviceError, LoadError
from obworker.onnx_options import ATTRIBUTES, LEVELS, PROVIDERS, providers, short_name
from obworker.predictor import onnx
from obworker.predictor.onnx import (
    SessionPlan,
    check_providers,
    default_providers,
    find_providers,
    open_session,
    plan_session,
)

Model = Callable[..., Path]


def field(number: int, value: int | bytes) -> bytes:
    """Encode one field as protobuf; everything in here is shorter than 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def identity_model() -> bytes:
    """An ONNX model of one node: y = Identity(x), float32 of shape [2]."""
    shape = field(1, field(1, 2))
    floats = field(1, field(1, 1) + field(2, shape))
    x, y = (field(1, name) + field(2, floats) for name in (b"x", b"y"))
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, x) + field(12, y)
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "digits.onnx").write_bytes(identity_model())
    return tmp_path


def test_a_session_runs_with_the_threads_given(directory: Path) -> None:
    session = open_session(plan_session(directory / "digits.onnx", threads=3))
    given = np.array([1, 2], dtype=np.float32)
    assert session.run(None, {"x": given})[0].tolist() == [1, 2]
    assert session.get_session_options().intra_op_num_threads == 3
    assert session.get_session_options().inter_op_num_threads == 1


def test_a_session_has_the_options_given(directory: Path) -> None:
    wanted = (
        "graph_optimization_level=enable_basic,execution_mode=parallel,inter_op_num_threads=2,"
        "enable_mem_pattern=0,session.intra_op.allow_spinning=0"
    )
    options = open_session(
        plan_session(directory / "digits.onnx", options=wanted)
    ).get_session_options()
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert options.execution_mode.name == "ORT_PARALLEL"
    assert options.inter_op_num_threads == 2
    assert options.enable_mem_pattern is False
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("threads", "given", "options"),
    [
        (1, None, ()),
        (2, None, ((onnx.SPINNING, "0"),)),
        (2, f"{onnx.SPINNING}=1", ((onnx.SPINNING, "1"),)),
    ],
)
def test_threads_of_a_session_sleep_where_they_must_not_spin(
    directory: Path, threads: int, given: str | None, options: tuple[tuple[str, str], ...]
) -> None:
    model = directory / "digits.onnx"
    plan = plan_session(model, threads=threads, options=given, may_spin=False)
    assert plan.options == options


@pytest.mark.parametrize("key", sorted(ATTRIBUTES))
def test_every_attribute_is_one_of_onnxruntimes(key: str) -> None:
    assert hasattr(onnx.import_onnxruntime().SessionOptions(), key)


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_one_of_onnxruntimes(directory: Path, level: str) -> None:
    plan = plan_session(directory / "digits.onnx", options=f"graph_optimization_level={level}")
    options = open_session(plan).get_session_options()
    assert options.graph_optimization_level.name == f"ORT_{level.upper()}"


CUDA, MIGRAPHX, CPU = (f"{name}ExecutionProvider" for name in ("CUDA", "MIGraphX", "CPU"))
OFFERED = ["TensorrtExecutionProvider", CUDA, "AzureExecutionProvider", CPU]


@pytest.mark.parametrize(
    ("offered", "environ", "chosen"),
    [
        ([CPU], {}, [CPU]),
        (OFFERED, {}, [CUDA, CPU]),
        (OFFERED, {"CUDA_VISIBLE_DEVICES": "1"}, [CUDA, CPU]),
        (OFFERED, {"CUDA_VISIBLE_DEVICES": ""}, [CPU]),
        ([MIGRAPHX, CPU], {"HIP_VISIBLE_DEVICES": "0"}, [MIGRAPHX, CPU]),
        ([MIGRAPHX, CPU], {"HIP_VISIBLE_DEVICES": ""}, [CPU]),
        (["CANNExecutionProvider", CPU], {}, ["CANNExecutionProvider", CPU]),
        (["OpenVINOExecutionProvider", CPU], {}, [CPU]),
    ],
)
def test_by_default_it_runs_on_the_devices_that_are_visible(
    offered: list[str], environ: dict[str, str], chosen: list[str]
) -> None:
    assert default_providers(offered, environ) == chosen


def test_a_worker_without_a_device_runs_on_the_cpu(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = onnx.import_onnxruntime()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: OFFERED)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    model = directory / "digits.onnx"
    assert plan_session(model).providers == (CUDA, CPU)
    assert plan_session(model, on_device=False).providers == (CPU,)


def test_providers_are_found_by_their_short_names_in_the_order_given() -> None:
    assert find_providers(["cpu", "tensorrt"], OFFERED) == [CPU, "TensorrtExecutionProvider"]


def test_a_provider_that_is_newer_than_obworker_is_found_by_its_full_name() -> None:
    newer = "FooExecutionProvider"
    assert providers(f"{newer},cpu") == f"{newer},cpu"
    assert find_providers([newer, "cpu"], [newer, CPU]) == [newer, CPU]
    assert find_providers(["fooexecutionprovider"], [newer, CPU]) == [newer]


def test_every_provider_that_onnxruntime_may_have_is_known() -> None:
    names = map(short_name, onnx.import_onnxruntime().get_all_providers())
    assert set(names) <= set(PROVIDERS)
    assert set(map(short_name, onnx.ACCELERATORS)) <= set(PROVIDERS)


def test_a_provider_that_is_not_offered_is_an_error_that_names_those_that_are(
    directory: Path,
) -> None:
    with pytest.raises(LoadError, match=r"no 'cuda'; it has .*cpu") as got:
        plan_session(directory / "digits.onnx", providers="cuda,cpu")
    assert got.value.hint == "pip install onnxruntime-gpu instead"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"threads": 0}, "--onnx-threads: '0' is not a whole number from 1"),
        ({"providers": "cpu,cpu"}, "--onnx-providers: 'cpu,cpu' has one of them twice"),
        ({"options": "enable_mem_patern=1"}, "--onnx-option: enable_mem_patern: is no session"),
        ({"options": "enable_mem_pattern"}, "--onnx-option: 'enable_mem_pattern' is not KEY="),
    ],
)
def test_another_server_is_told_what_is_wrong_as_the_command_line_is(
    directory: Path, given: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(LoadError, match=complaint):
        plan_session(directory / "digits.onnx", **given)


def test_another_server_may_write_what_the_command_line_may(directory: Path) -> None:
    plan = plan_session(
        directory / "digits.onnx",
        providers="CPUExecutionProvider",
        options="enable_mem_pattern=false",
    )
    assert (plan.providers, plan.options) == ((CPU,), (("enable_mem_pattern", "0"),))


def test_a_provider_that_does_not_start_is_an_error_unless_the_cpu_is_allowed(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = directory / "digits.onnx"
    with pytest.warns(UserWarning, match=CUDA):
        open_session(SessionPlan(model, (CUDA, CPU)))
    assert "digits.onnx runs on cpu: onnxruntime could not start CUDA" in caplog.text
    with pytest.warns(UserWarning, match=CUDA), pytest.raises(BootError) as got:
        open_session(SessionPlan(model, (CUDA,)))
    assert str(got.value).startswith("digits.onnx cannot be loaded: onnxruntime could not start")
    assert got.value.hint == "with --onnx-providers cuda,cpu it runs on the CPU then"


@pytest.fixture
def fail_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have onnxruntime fail as it does where CUDA cannot be started."""
    create = InferenceSession._create_inference_session

    def fail_with(message: str) -> None:
        def create_or_fail(session: Any, providers: list[str], *rest: Any) -> None:
            if CUDA in providers:
                raise RuntimeError(message)
            create(session, providers, *rest)

        monkeypatch.setattr(InferenceSession, "_create_inference_session", create_or_fail)

    return fail_with


@pytest.mark.parametrize(
    ("message", "kind"),
    [("CUDA failure 999: unknown", DeviceError), ("CUDA failure 2: out of memory", BootError)],
)
def test_a_gpu_that_fails_or_is_full_is_not_replaced_by_the_cpu(
    directory: Path, fail_on_cuda: Callable[[str], None], message: str, kind: type[Exception]
) -> None:
    fail_on_cuda(message)
    with pytest.raises(kind, match=message):
        open_session(SessionPlan(directory / "digits.onnx", (CUDA, CPU)))


def test_where_a_provider_cannot_be_started_the_next_one_is_used(
    directory: Path, fail_on_cuda: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    fail_on_cuda("CUDA failure 35: the driver is too old")
    session = open_session(SessionPlan(directory / "digits.onnx", (CUDA, CPU)))
    assert session.get_providers() == [CPU]
    assert "CUDA failure 35: the driver is too old" in caplog.text
    assert "digits.onnx runs on cpu: onnxruntime could not start CUDA" in caplog.text
    with pytest.raises(BootError, match="CUDA failure 35"):
        open_session(SessionPlan(directory / "digits.onnx", (CUDA,)))


def test_a_call_that_fails_on_a_device_is_not_made_on_the_cpu(directory: Path) -> None:
    """As onnxruntime would, and from then on for all calls of a worker that looks well."""

    def fail(*_: object) -> None:
        raise EPFail("CUDA failure 700: an illegal memory access was encountered")

    session = open_session(SessionPlan(directory / "digits.onnx", (CPU,)))
    session._sess = Mock(wraps=session._sess, **{"run.side_effect": fail})
    with pytest.raises(EPFail):
        session.run(None, {"x": np.zeros(2, np.float32)})


TENSORRT = "TensorrtExecutionProvider"


@pytest.mark.parametrize(
    ("planned", "started", "where"),
    [
        ((TENSORRT, CUDA, CPU), [TENSORRT, CUDA, CPU], None),
        ((TENSORRT, CUDA, CPU), [CUDA, CPU], "cuda"),
        ((TENSORRT, CUDA), [CUDA, CPU], "cuda"),
        ((TENSORRT, CUDA, CPU), [CPU], "cpu"),
        ((CPU,), [CPU], None),
    ],
)
def test_it_is_said_where_it_runs_if_not_where_it_was_to(
    caplog: pytest.LogCaptureFixture,
    planned: tuple[str, ...],
    started: list[str],
    where: str | None,
) -> None:
    plan = SessionPlan(Path("m.onnx"), planned)
    check_providers(plan, started)
    said = f"m.onnx runs on {where}: onnxruntime could not start {TENSORRT}"
    assert [record.getMessage() for record in caplog.records] == ([said] if where else [])


@pytest.mark.parametrize(
    ("may_be_forked", "plan"),
    [
        (True, SessionPlan(Path("m"), (CPU,))),
        (True, SessionPlan(Path("m"), (CPU,), 1, (("execution_mode", "sequential"),))),
        (False, SessionPlan(Path("m"), (CPU,), 2)),
        (False, SessionPlan(Path("m"), (CUDA, CPU))),
        (False, SessionPlan(Path("m"), ("XnnpackExecutionProvider", CPU))),
        (False, SessionPlan(Path("m"), (CPU,), 1, (("execution_mode", "parallel"),))),
        (False, SessionPlan(Path("m"), (CPU,), 1, (("inter_op_num_threads", "2"),))),
    ],
)
def test_a_session_without_threads_and_devices_may_be_forked(
    may_be_forked: bool, plan: SessionPlan
) -> None:
    assert plan.may_be_forked is may_be_forked


def test_a_plan_describes_itself() -> None:
    plan = SessionPlan(Path("m"), (CUDA, CPU), 2, (("enable_mem_pattern", "0"),))
    assert plan.description == "cuda, cpu, 2 threads, enable_mem_pattern=0"


def test_a_corrupt_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(BootError, match=r"bad\.onnx cannot be loaded: ") as got:
        open_session(plan_session(tmp_path / "bad.onnx"))
    assert "\n" not in str(got.value)


def test_without_onnxruntime_says_what_to_install(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LoadError, match="needs onnxruntime") as got:
        plan_session(directory / "digits.onnx")
    assert str(got.value.hint).startswith("pip install onnxruntime")


def test_under_another_server_it_starts_no_thread_that_a_fork_would_lose() -> None:
    """As its telemetry is, which is on unless it is turned off before the import."""
    program = (
        "from obworker.predictor.onnx import import_onnxruntime\n"
        "import os\n"
        "import_onnxruntime()\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # numpy's are another matter
    environ.pop("ORT_DISABLE_TELEMETRY", None)
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "1\n"
