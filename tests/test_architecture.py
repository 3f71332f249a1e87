"""The rules of docs/design.md about who may import, fork, read the environment and print."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from harness import ROOT

PACKAGE = ROOT / "obworker"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400

# Who each part may import, beside itself. The order is that of the design: imports point one way.
MAY_IMPORT = {
    "errors": set(),
    "values": {"errors"},
    "options": {"values"},
    "onnx_options": {"errors", "values"},
    "settings": {"onnx_options", "options", "values"},
    "configuration": {"errors", "options", "settings"},
    "environment": {"errors", "values"},
    "kernel_files": set(),
    "cgroups": set(),
    "cores": {"cgroups", "kernel_files"},
    "printing": set(),
    "request_context": set(),
    "log": {"printing", "request_context"},
    "log_files": {"errors", "printing", "settings"},
    "access_lines": set(),
    "access_log": {"access_lines", "errors", "log_files", "printing"},
    "http": {
        *("errors", "settings", "environment", "request_context", "access_lines", "access_log"),
        "values",
    },
    "predictor": {
        *("cores", "errors", "onnx_options", "settings", "environment", "log", "request_context"),
    },
    "supervisor": {
        *("cgroups", "cores", "kernel_files", "printing"),
        *("errors", "settings", "environment", "log", "log_files", "request_context", "http"),
    },
    "admin": {"errors", "settings", "environment", "log", "http", "supervisor"},
    "command": {"configuration", "errors", "options", "printing", "settings"},
    "control": {"errors", "supervisor"},
    "status": set(),
    "prepack": {"command", "errors", "onnx_options", "predictor"},
    "operations": {"command", "control", "errors", "options", "status", "supervisor"},
    "standalone": {
        *("cores", "environment", "errors", "log", "log_files", "predictor", "settings"),
        "supervisor",
    },
    "start_sh": {
        *("configuration", "environment", "errors", "log", "log_files", "predictor", "settings"),
        "supervisor",
    },
    "cli": {
        *("command", "configuration", "environment", "errors", "log", "log_files", "operations"),
        "options",
        *("predictor", "prepack", "printing", "settings", "standalone", "start_sh", "supervisor"),
    },
    "__init__": {"predictor", "cli", "request_context"},
    "__main__": {"cli"},
}
# `from obworker import emit_event, run`: what the loader binds as openbayes_serving
MAY_IMPORT_THE_ROOT = {"predictor/loader.py", "cli.py", "admin/metrics.py"}

PROCESS_CALLS = {
    *("os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.setsid", "os.setpgid"),
    *("os.wait", "os.waitpid", "os.waitid", "os.wait3", "os.wait4", "os.system", "os.popen"),
    *("signal.signal", "signal.set_wakeup_fd", "signal.pthread_sigmask", "signal.raise_signal"),
}
PROCESS_MODULES = {"subprocess", "multiprocessing"}
READS_ENVIRONMENT = {"settings.py", "environment.py", "cli.py"}
# onnx.py presets a variable for other servers; create() has no cli before it
READS_ENVIRONMENT_TOO = {"predictor/onnx.py", "predictor/application.py"}


SUPERVISOR = ("slots", "rollout", "table", "policy", "messages", "health", "placement")
DEVICES = ("gpus", "visibility", "quarantine", "readings")
PURE = [*(f"supervisor/{module}.py" for module in SUPERVISOR + DEVICES)]
PURE += ["http/tally.py", "http/troubles.py", "predictor/faults.py"]


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part(path: Path) -> str:
    """Return the part of the design that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """Return the dotted names of all imports, those inside functions and for types as well."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def used(path: Path) -> set[str]:
    """Return `module.name` for every attribute of a plain name, and every name that is called."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(f"{node.func.id}()")
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


every_module = pytest.mark.parametrize("path", MODULES, ids=name)


def test_there_are_modules() -> None:
    assert {part(path) for path in MODULES} <= set(MAY_IMPORT)
    assert len(MODULES) > 20


@every_module
def test_imports_point_one_way(path: Path) -> None:
    parts = {full.split(".")[1] for full in imported(path) if full.startswith("obworker.")}
    parts = {other for other in parts if other in MAY_IMPORT} - {part(path)}
    assert parts <= MAY_IMPORT[part(path)], f"{name(path)} imports {parts}"


@every_module
def test_only_the_command_line_and_the_loader_know_the_root_package(path: Path) -> None:
    names = {full.split(".")[1] for full in imported(path) if full.startswith("obworker.")}
    from_root = names - set(MAY_IMPORT)
    assert not from_root or name(path) in MAY_IMPORT_THE_ROOT, from_root


@every_module
def test_only_the_supervisor_knows_processes(path: Path) -> None:
    if part(path) == "supervisor":
        return
    assert not used(path) & PROCESS_CALLS
    assert not {full.split(".")[0] for full in imported(path)} & PROCESS_MODULES


@every_module
def test_only_settings_and_environment_read_the_environment(path: Path) -> None:
    if name(path) in READS_ENVIRONMENT | READS_ENVIRONMENT_TOO:
        return
    reads = used(path) & {"os.environ", "os.environb", "os.getenv", "os.putenv"}
    if part(path) in ("supervisor", "standalone"):
        # a worker writes its slot's variables before the user's code runs
        assert source_uses_environment_only_to_write(path)
        return
    assert not reads


def source_uses_environment_only_to_write(path: Path) -> bool:
    reads = writes = 0
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
            reads += 1
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.environ.update":
            writes += 1
    return reads == writes


@every_module
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if name(path) == "cli.py":
        return
    assert not used(path) & {"print()", "input()", "exit()", "quit()", "sys.exit"}


@every_module
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{name(path)} has {lines} lines"


@every_module
def test_no_module_keeps_state_that_changes(path: Path) -> None:
    assert not [node for node in ast.walk(tree(path)) if isinstance(node, ast.Global)]


def test_only_the_admin_process_knows_prometheus() -> None:
    knows = {name(path) for path in MODULES if "import prometheus_client" in path.read_text()}
    knows |= {name(path) for path in MODULES if "from prometheus_client" in path.read_text()}
    assert knows == {"admin/metrics.py", "admin/predictor_metrics.py"}


def test_pure_modules_know_no_clock_and_no_chance() -> None:
    for module in PURE:
        known = {full.split(".")[0] for full in imported(PACKAGE / module)}
        assert not known & {"time", "random", "os", "signal", "select", "selectors"}, module
