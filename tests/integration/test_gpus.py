"""Every worker sees the devices of its slot and no others, before the user's code can look."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clients import Client, Outcome, in_parallel
from harness import Serve, Server, eventually, run_to_end

# It notes what its variables are at every moment at which the user's code runs.
PREDICTOR = """
import json, os, time

NAMES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OBWORKER_SLOT", "OBWORKER_DEVICES")

def seen():
    return {name: os.environ.get(name) for name in NAMES}

def note(moment):
    with open(os.path.join(os.environ["SEEN"], f"{moment}-{os.getpid()}"), "w") as file:
        json.dump(seen(), file)

note("import")
if "HOOK" in os.environ:
    os.register_at_fork(after_in_child=lambda: note("fork"))

class Predictor:
    def __init__(self):
        note("init")

    def predict(self):
        time.sleep(0.05)
        return {"pid": os.getpid(), **seen()}
"""

A, B, C = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")
M1, M2, M3 = (f"MIG-{digit * 8}-0000-0000-0000-000000000000" for digit in "123")
TWO_GPUS = f"GPU 0: NVIDIA X (UUID: {A})\nGPU 1: NVIDIA X (UUID: {B})\n"
MIG_AND_GPU = (
    f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {A})\n"
    f"  MIG 3g.20gb     Device  0: (UUID: {M1})\n"
    f"  MIG 3g.20gb     Device  1: (UUID: {M2})\n"
    f"GPU 1: NVIDIA A100-SXM4-40GB (UUID: {B})\n"
)

StartOn = Callable[..., Server]


class Seen(NamedTuple):
    """What one process saw."""

    devices: str | None
    order: str | None
    slot: str | None


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """Return the directory where processes note what they see."""
    path = tmp_path / "seen"
    path.mkdir()
    return path


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a program first on PATH that lists GPUs as nvidia-smi -L does."""

    def install(listing: str) -> None:
        directory = tmp_path / "bin"
        directory.mkdir()
        program = directory / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] || exit 9\ncat <<'END'\n{listing}END\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(directory), prepend=":")

    return install


@pytest.fixture
def start_on(serve: Serve, model: Path, seen: Path) -> StartOn:
    """Start the predictor with CUDA_VISIBLE_DEVICES as given, None for not set."""
    (model / "predictor.py").write_text(PREDICTOR)

    def start(visible: str | None, *argv: str, workers: int, order: str | None = None) -> Server:
        environ = {
            "CUDA_VISIBLE_DEVICES": visible,
            "CUDA_DEVICE_ORDER": order,
            "SEEN": str(seen),
        }
        server = serve(*argv, str(model), environ=environ)
        return server.wait_until_ready(workers)

    return start


def read(facts: Mapping[str, Any]) -> Seen:
    assert facts["OBWORKER_DEVICES"] == facts["CUDA_VISIBLE_DEVICES"]
    return Seen(facts["CUDA_VISIBLE_DEVICES"], facts["CUDA_DEVICE_ORDER"], facts["OBWORKER_SLOT"])


def at(seen: Path, moment: str, pid: int) -> Seen:
    return read(json.loads((seen / f"{moment}-{pid}").read_text()))


def check(server: Server, seen: Path, devices: list[str], order: str | None = None) -> None:
    """Compare what each slot saw, at every moment, with the devices it should have."""
    expected = {i: Seen(device, order, str(i)) for i, device in enumerate(devices)}
    pids = {slot: process.pid for slot, process in server.workers().items()}
    assert {slot: at(seen, "init", pid) for slot, pid in pids.items()} == expected
    assert in_predict(server, len(devices)) == expected


def in_predict(server: Server, workers: int) -> dict[int, Seen]:
    """Ask until every worker has answered."""
    answers: dict[int, Seen] = {}
    port = server.port

    def ask() -> bool:
        calls = [lambda: Client(port, keep=False).post()] * (2 * workers)
        for result in in_parallel([*calls]):
            assert result.outcome is Outcome.ANSWERED, result
            answer = read(result.json)
            assert answers.setdefault(int(answer.slot or -1), answer) == answer
        return len(answers) == workers

    eventually(ask, 30, "an answer of every worker")
    return answers


def imported_with(seen: Path) -> str | None:
    """Return the devices that the import saw: it happens once for all slots."""
    (note,) = seen.glob("import-*")
    value: str | None = json.loads(note.read_text())["CUDA_VISIBLE_DEVICES"]
    return value


@pytest.mark.parametrize(
    ("listing", "devices"),
    [
        (TWO_GPUS, ["0", "1"]),
        (MIG_AND_GPU, [M1, M2, B]),
        (f"GPU 0: NVIDIA X (UUID: {C})\n", ["0"]),
    ],
    ids=["two", "mig", "one"],
)
def test_without_the_variable_there_is_a_worker_for_each_gpu_of_the_machine(
    start_on: StartOn,
    seen: Path,
    smi: Callable[[str], None],
    listing: str,
    devices: list[str],
) -> None:
    smi(listing)
    server = start_on(None, workers=len(devices))
    check(server, seen, devices, "PCI_BUS_ID")
    assert imported_with(seen) is None


def test_a_fork_hook_of_the_users_code_sees_the_slots_device_too(
    serve: Serve, model: Path, seen: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    environ = {"CUDA_VISIBLE_DEVICES": "2,0", "SEEN": str(seen), "HOOK": "1"}
    server = serve(str(model), environ=environ).wait_until_ready(2)
    pids = {slot: process.pid for slot, process in server.workers().items()}
    assert {slot: at(seen, "fork", pid) for slot, pid in pids.items()} == {
        0: Seen("2", None, "0"),
        1: Seen("0", None, "1"),
    }


@pytest.mark.parametrize("is_forked", [True, False], ids=["forked", "direct"])
def test_a_device_that_the_import_has_chosen_is_not_the_slots(
    serve: Serve, model: Path, seen: Path, is_forked: bool
) -> None:
    chosen = 'import os\nos.environ["CUDA_VISIBLE_DEVICES"] = "0"\n'
    unsafe = (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    (model / "predictor.py").write_text(chosen + ("" if is_forked else unsafe) + PREDICTOR)
    environ = {"CUDA_VISIBLE_DEVICES": "2,1", "SEEN": str(seen)}
    server = serve(str(model), environ=environ).wait_until_ready(2)
    pids = {slot: process.pid for slot, process in server.workers().items()}
    assert {slot: at(seen, "init", pid).devices for slot, pid in pids.items()} == {0: "2", 1: "1"}


def test_an_order_that_the_user_has_set_stands(
    start_on: StartOn, seen: Path, smi: Callable[[str], None]
) -> None:
    smi(TWO_GPUS)
    server = start_on(None, workers=2, order="FASTEST_FIRST")
    check(server, seen, ["0", "1"], "FASTEST_FIRST")


def test_on_a_machine_without_a_gpu_there_is_one_worker_that_sees_none(
    start_on: StartOn, seen: Path, smi: Callable[[str], None]
) -> None:
    smi("")
    check(start_on(None, workers=1), seen, [""])


@pytest.mark.parametrize(
    ("visible", "argv", "devices"),
    [
        ("2,0", [], ["2", "0"]),
        ("2, 0", [], ["2", "0"]),
        (f"{B},{A}", [], [B, A]),
        (M2, [], [M2]),
        ("", [], [""]),
        ("-1", [], [""]),
        ("NoDevFiles", [], [""]),
        ("", ["--workers", "2"], ["", ""]),
        ("2,0", ["--gpus", "auto"], ["2", "0"]),
        ("2,0", ["--gpus", "none"], [""]),
        ("2,0", ["--gpus", "none", "--workers", "2"], ["", ""]),
        ("5,7,3", ["--gpus", "1,0"], ["7", "5"]),
        ("5,7,3", ["--gpus", "0"], ["5"]),
        (f"{C},{A}", ["--gpus", "1"], [A]),
        (f"{A},{B},{C}", ["--gpus", f"{C},{A}"], [C, A]),
        (f"{M1},{M2},{M3}", ["--gpus", f"{M3}"], [M3]),
        ("4,6", ["--workers-per-gpu", "2"], ["4", "6", "4", "6"]),
        ("4,6", ["--workers", "5"], ["4", "6", "4", "6", "4"]),
        ("4,6", ["--workers", "1"], ["4"]),
        ("4,6,3,1", ["--gpus-per-worker", "2"], ["4,6", "3,1"]),
        ("4,6", ["--gpus-per-worker", "2", "--workers-per-gpu", "2"], ["4,6", "4,6"]),
        (f"{A},{B},{C}", ["--gpus-per-worker", "0", "--gpus", f"{C},{A}"], [f"{C},{A}"]),
    ],
)
def test_each_slot_has_its_device_of_those_the_variable_leaves_visible(
    start_on: StartOn, seen: Path, visible: str, argv: list[str], devices: list[str]
) -> None:
    server = start_on(visible, *argv, workers=len(devices))
    check(server, seen, devices)
    assert imported_with(seen) == visible


@pytest.mark.parametrize(
    ("visible", "argv", "devices"),
    [
        ("4,6,7", ["--workers", "1"], ["4", "6", "7", "4"]),
        ("4,6", ["--workers", "3"], ["4", "6", "4", "6"]),
        ("", ["--workers", "2"], ["", "", ""]),
    ],
)
def test_a_slot_that_is_added_later_has_the_device_whose_turn_it_is(
    start_on: StartOn, seen: Path, visible: str, argv: list[str], devices: list[str]
) -> None:
    workers = int(argv[-1])
    server = start_on(visible, *argv, workers=workers)
    for _ in devices[workers:]:
        server.signal(signal.SIGTTIN)
        workers += 1
        server.wait_until_ready(workers)
    check(server, seen, devices)


@pytest.mark.parametrize(
    ("gpus", "devices", "order"),
    [
        ("1,0", ["1", "0"], "PCI_BUS_ID"),
        ("1", ["1"], "PCI_BUS_ID"),
        ("none", [""], None),
        (f"{B},{A}", [B, A], "PCI_BUS_ID"),
    ],
)
def test_an_option_chooses_among_the_gpus_of_the_machine(
    start_on: StartOn,
    seen: Path,
    smi: Callable[[str], None],
    gpus: str,
    devices: list[str],
    order: str | None,
) -> None:
    smi(TWO_GPUS)
    check(start_on(None, "--gpus", gpus, workers=len(devices)), seen, devices, order)


def test_an_option_chooses_among_mig_instances(
    start_on: StartOn, seen: Path, smi: Callable[[str], None]
) -> None:
    smi(MIG_AND_GPU)
    check(start_on(None, "--gpus", f"{M2},{M1}", workers=2), seen, [M2, M1], "PCI_BUS_ID")


def pid_in(server: Server, slot: int, old: int) -> int | None:
    """Return the pid of the process in a slot, if it is another one than `old`."""
    process = server.workers().get(slot)
    return process.pid if process is not None and process.pid != old else None


def test_a_worker_that_replaces_another_has_the_same_device(start_on: StartOn, seen: Path) -> None:
    server = start_on("6,4", "--workers", "3", workers=3)
    for slot in (1, 0):
        worker = server.workers()[slot]
        worker.kill()
        new = eventually(partial(pid_in, server, slot, worker.pid))
        eventually((seen / f"init-{new}").exists)
    server.wait_until_ready(5)
    check(server, seen, ["6", "4", "6"])


def test_titles_and_log_name_the_device(start_on: StartOn) -> None:
    server = start_on(f"{A},{B}", workers=2)
    titles = [" ".join(process.cmdline()).rstrip() for process in server.workers().values()]
    assert sorted(titles) == [
        "obworker: worker 0 g1 gpu GPU-aaaaaaaa",
        "obworker: worker 1 g1 gpu GPU-bbbbbbbb",
    ]
    assert "worker 0   gpu GPU-aaaaaaaa ready in " in server.log()


@pytest.mark.parametrize(
    ("visible", "gpus", "message"),
    [
        ("0,1", "2", "--gpus: there is no GPU '2'; visible: 0, 1"),
        ("5", "5", "--gpus: there is no GPU '5'; visible: 5"),
        ("", "0", "--gpus: there is no GPU '0'; visible: none"),
        ("0,1", "0,0", "--gpus: '0,0' names '0' twice"),
        (A, f"0,{A}", f"--gpus: '0,{A}' names '{A}' twice"),
        ("0,1", "cuda", "--gpus: 'cuda' is not auto, none or a list: 0,1 or GPU-1a2b,GPU-3c4d"),
        ("0,1", "0,", "--gpus: '0,' is not auto, none or a list: 0,1 or GPU-1a2b,GPU-3c4d"),
        ("0,1", "", "--gpus: '' is not auto, none or a list: 0,1 or GPU-1a2b,GPU-3c4d"),
        ("0,1", "-1", "--gpus: '-1' is not auto, none or a list: 0,1 or GPU-1a2b,GPU-3c4d"),
        ("0,1", "auto,1", "--gpus: 'auto,1' is not auto, none or a list: 0,1 or GPU-1a2b,GPU-3c4d"),
        (f"{A},{B}", C, f"--gpus: there is no GPU '{C}'; visible: {A}, {B}"),
        ("", C, f"--gpus: there is no GPU '{C}'; visible: none"),
        ("0,0", "auto", "CUDA_VISIBLE_DEVICES: '0,0' names '0' twice; CUDA would see no GPU"),
    ],
)
def test_a_device_that_cannot_be_had_is_one_line(
    model: Path, seen: Path, visible: str, gpus: str, message: str
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    ended = run_to_end(
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--gpus",
        gpus,
        str(model),
        environ={"CUDA_VISIBLE_DEVICES": visible, "SEEN": str(seen)},
        within=8,
    )
    assert (ended.returncode, ended.stderr) == (2, f"obworker: error: {message}\n")


def test_a_driver_tool_that_fails_means_no_gpu(
    start_on: StartOn, seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has GPUs, which are found without the tool")
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "nvidia-smi").write_text("#!/bin/sh\necho failed because >&2\nexit 9\n")
    (directory / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    server = start_on(None, workers=1)
    check(server, seen, [""])


def test_a_reload_does_not_wait_for_a_driver_that_hangs_by_then(
    start_on: StartOn, smi: Callable[[str], None], tmp_path: Path
) -> None:
    smi(TWO_GPUS)
    server = start_on(None, workers=2)
    tool, asked = tmp_path / "bin" / "nvidia-smi", tmp_path / "asked"
    tool.write_text(f"#!/bin/sh\ntouch {asked}\nexec sleep 60\n")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded +generation 2 ")
    assert sorted(server.workers()) == [0, 1]
    assert not asked.exists()
