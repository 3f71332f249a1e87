"""obworker prepack: what it writes computes the same, is shared by processes, and knows its CPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from benchmarks import onnx_models
from clients import Client
from harness import Serve, run_to_end

from obworker.errors import BootError, CommandError, LoadError, ObworkerError, UsageError
from obworker.predictor import prepacked
from obworker.predictor.onnx import import_onnxruntime, open_session, plan_session
from obworker.prepack import prepack

WIDTH, LAYERS = 512, 4
WEIGHTS = WIDTH * WIDTH * 4 * LAYERS

Array = npt.NDArray[np.float32]

PREDICTOR = f"""
import numpy as np

class Predictor:
    def __init__(self, onnx):
        self.onnx = onnx
        self.predict()  # until then some releases of onnxruntime have read nothing of the file

    def predict(self):
        return float(self.onnx.run(None, {{"x": np.ones((1, {WIDTH}), np.float32)}})[0].sum())
"""


@pytest.fixture(scope="module")
def dense() -> bytes:
    return onnx_models.dense(WIDTH, LAYERS)


@pytest.fixture
def model(tmp_path: Path, dense: bytes) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(dense)
    return path


def outputs(path: Path, x: Array, threads: int = 1) -> Array:
    (values,) = open_session(plan_session(path, threads=threads)).run(None, {"x": x})
    return np.asarray(values, np.float32)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_prepacked_model_computes_the_same(model: Path, threads: int) -> None:
    x = np.random.default_rng(1).standard_normal((3, WIDTH), dtype=np.float32)
    assert prepack([str(model)]) == (
        f"{model.parent}/prepacked/net.onnx  8.0 MiB with its weights, which are in net.onnx.data"
    )
    written = model.parent / "prepacked" / "net.onnx"
    np.testing.assert_array_equal(outputs(written, x, threads), outputs(model, x, threads))


def test_it_says_where_there_is_nothing_to_share(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx_models.dense(width=2, layers=1))
    assert prepack([str(tmp_path / "net.onnx")]) == (
        f"{tmp_path}/prepacked/net.onnx  0.0 MiB with its weights, which are too small to be shared"
    )
    assert [path.name for path in (tmp_path / "prepacked").iterdir()] == ["net.onnx"]


def test_convolutions_compute_the_same(tmp_path: Path) -> None:
    model, written = tmp_path / "net.onnx", tmp_path / "packed.onnx"
    model.write_bytes(onnx_models.convolutions(channels=16, size=12, layers=2))
    x = np.random.default_rng(1).standard_normal((1, 16, 12, 12), dtype=np.float32)
    prepack([str(model), "--output", str(written)])
    np.testing.assert_array_equal(outputs(written, x), outputs(model, x))


def test_workers_share_the_memory_of_its_weights(model: Path, serve: Serve) -> None:
    prepack([str(model)])
    (model.parent / "predictor.py").write_text(PREDICTOR)
    options = ("--workers", "2", "--onnx-threads", "2", "--model-path", "prepacked")
    server = serve(*options, str(model.parent)).wait_until_ready(2)
    expected = float(outputs(model, np.ones((1, WIDTH), np.float32)).sum())
    assert Client(server.port, keep=False).post().json == pytest.approx(expected, rel=1e-5)
    mapped = [weights_mapped_by(worker.pid) for worker in server.workers().values()]
    assert len(mapped) == 2
    for resident, proportional in mapped:
        assert resident >= WEIGHTS
        assert proportional <= 0.6 * resident


def weights_mapped_by(pid: int) -> tuple[int, int]:
    """Return the resident memory of a process that is net.onnx.data, and its share of it."""
    resident = proportional = 0
    for mapping in re.split(r"^(?=[\da-f]+-[\da-f]+ )", smaps(pid), flags=re.MULTILINE):
        if mapping.partition("\n")[0].endswith("/net.onnx.data"):
            resident += kilobytes("Rss", mapping)
            proportional += kilobytes("Pss", mapping)
    return resident * 1024, proportional * 1024


def smaps(pid: int) -> str:
    return Path(f"/proc/{pid}/smaps").read_text()


def kilobytes(name: str, mapping: str) -> int:
    found = re.search(rf"^{name}: +(\d+) kB$", mapping, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_model_for_another_cpu_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "this_cpu", lambda: "x86_64 avx avx2")
    prepack([str(model)])
    monkeypatch.setattr(prepacked, "this_cpu", lambda: "x86_64 avx avx2 avx512f")
    with pytest.raises(BootError) as got:
        open_session(plan_session(model.parent / "prepacked" / "net.onnx"))
    assert str(got.value) == (
        "net.onnx was pre-packed for another CPU: for x86_64 avx avx2;"
        " this is x86_64 avx avx2 avx512f"
    )


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "kind"),
    [
        (
            "x86_64",
            "flags\t\t: fpu avx512f sse avx2 avx\nbugs\t\t: avx_vnni\n\nflags\t\t: fpu\n",
            "x86_64 avx avx2 avx512f",
        ),
        ("aarch64", "Features\t: fp asimddp i8mm\n", "aarch64 asimddp i8mm"),
        ("riscv64", "isa : rv64\n", "riscv64"),
    ],
)
def test_the_kind_of_a_cpu_is_what_kernels_are_chosen_by(
    machine: str, cpuinfo: str, kind: str
) -> None:
    assert prepacked.kind_of_cpu(machine, cpuinfo) == kind


@pytest.mark.parametrize("length", [1, 200, 20_000])
def test_a_mark_of_any_length_is_read_back(model: Path, length: int) -> None:
    prepacked.mark(model, "x" * length)
    session = import_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {prepacked.KEY: "x" * length}


def test_the_options_of_the_session_are_those_of_the_graph(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(onnx_models.convolutions(channels=16, size=12, layers=2))
    prepack([str(model), "-o", str(model.parent / "a.onnx")])
    option = "graph_optimization_level=disable_all"
    prepack([str(model), "-o", str(model.parent / "b.onnx"), "--onnx-option", option])
    graphs = [(model.parent / name).read_bytes() for name in ("a.onnx", "b.onnx")]
    assert graphs[0].replace(b"a.onnx", b"b.onnx") != graphs[1]


def test_what_is_there_is_written_over_only_by_force(model: Path) -> None:
    prepack([str(model)])
    written = model.parent / "prepacked" / "net.onnx"
    with pytest.raises(UsageError, match=r"prepacked/net\.onnx: exists") as got:
        prepack([str(model)])
    assert got.value.hint == "--force writes over it"
    before = written.stat().st_ino
    prepack(["--force", str(model)])
    assert written.stat().st_ino != before
    assert sorted(path.name for path in written.parent.iterdir()) == ["net.onnx", "net.onnx.data"]


@pytest.mark.parametrize("link", [Path.hardlink_to, Path.symlink_to, None])
def test_it_does_not_write_over_what_it_reads(
    model: Path, dense: bytes, link: Callable[[Path, Path], None] | None
) -> None:
    output = model if link is None else model.with_name("link.onnx")
    if link is not None:
        link(output, model)
    for read, written in ((model, output), (output, model)):
        refuses_to_write(written, read, itself=written)
    assert model.read_bytes() == output.read_bytes() == dense


def test_it_does_not_write_over_the_weights_that_it_reads(model: Path) -> None:
    output = model.with_name("packed.onnx")
    prepack([str(model), "-o", str(output)])
    copy = model.with_name("copy.onnx")
    copy.write_bytes(output.read_bytes())
    weights = model.with_name("packed.onnx.data")
    refuses_to_write(output, copy, itself=weights)
    refuses_to_write(output, model.rename(weights), itself=weights)


def refuses_to_write(output: Path, model: Path, itself: Path) -> None:
    with pytest.raises(UsageError, match=rf"^--output: {itself} is what the model is read from$"):
        prepack([str(model), "-o", str(output), "--force"])


@pytest.mark.parametrize(
    ("arguments", "kind", "complaint"),
    [
        (["missing.onnx"], UsageError, r"missing\.onnx: there is no such file"),
        (["."], UsageError, "is a directory"),
        (["a" * 300], CommandError, "^a{300}: File name too long$"),
        (["bad.onnx"], CommandError, r"bad\.onnx: cannot be pre-packed: InvalidProtobuf"),
        (["bad.onnx", "-o", "bad.txt"], UsageError, r"'bad\.txt' is not the name of an \.onnx"),
        (["bad.onnx", "-o", "bad.onnx/a.onnx"], CommandError, "cannot be written: "),
        (["bad.onnx", "--onnx-option", "x"], UsageError, "--onnx-option: 'x' is not KEY=VALUE"),
        ([], UsageError, "Missing argument"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str],
    kind: type[ObworkerError],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.onnx").write_text("not a model")
    with pytest.raises(kind, match=complaint) as got:
        prepack(arguments)
    assert "\n" not in str(got.value)
    assert list(tmp_path.rglob("*")) == [tmp_path / "bad.onnx"]


def test_an_onnxruntime_that_cannot_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_onnxruntime(), "__version__", "1.20.1")
    with pytest.raises(LoadError, match=r"onnxruntime 1\.20\.1 cannot pre-pack"):
        prepack([str(model)])


def test_it_is_a_command_of_obworker(model: Path) -> None:
    done = run_to_end("prepack", str(model))
    assert done.returncode == 0
    assert done.stdout.startswith(f"{model.parent}/prepacked/net.onnx  8.0 MiB")
    assert done.stderr == ""
