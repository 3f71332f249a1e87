"""The commands for an obworker that runs: status, reload, scale, stop and stacks.

Each is a click command that returns what is to be printed; failures are ObworkerErrors.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from obworker import control, status
from obworker.command import CONTEXT, invoke
from obworker.control import ask
from obworker.options import ENVIRONMENT_PREFIX
from obworker.supervisor import memory
from obworker.supervisor.scoreboard import MAX_SLOTS

EPILOG = """\b
Exit codes  0: done. 1: it could not be done, and why. 2: usage, or no such
            obworker. 4: the reload failed, and why; what served serves on.
"""
SHOWN: dict[str, Any] = {"epilog": EPILOG, "context_settings": CONTEXT}


def _located(operation: Callable[..., str]) -> Callable[..., str]:
    """Add the options that say which obworker; `operation` gets the path of its socket."""

    @click.option(
        "--control-socket",
        metavar="PATH",
        envvar=ENVIRONMENT_PREFIX + "CONTROL_SOCKET",
        help="Unix socket of the obworker.",
    )
    @click.option(
        "--pid", type=int, metavar="PID", help="Process id of its master, instead of its socket."
    )
    @functools.wraps(operation)
    def located(control_socket: str | None, pid: int | None, **given: object) -> str:
        if control_socket is None or pid is not None:
            path = control.find(click.get_current_context().obj, pid)
        else:
            path = Path(control_socket)
        return operation(path, **given)

    return located


@click.command("obworker status", **SHOWN)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print what /healthz answers, and the memory of each process.",
)
@_located
def _status(path: Path, as_json: bool) -> str:
    """Show the service and every worker: without an option, of the only obworker there is."""
    report = _measured(ask(path, "status"))
    return json.dumps(report, indent=2, ensure_ascii=False) if as_json else status.describe(report)


def _measured(report: dict[str, Any]) -> dict[str, Any]:
    """Add the memory of its processes, which takes too long for the master to read.

    If no worker is below the master's pid, they are in another pid namespace (pid_namespaces(7)).
    """
    slots = report["slots"]
    processes = [*slots, *(slot["replacement"] for slot in slots if slot["replacement"])]
    workers = {process["pid"] for process in processes} - {None}
    measured = memory.measure(report["pid"], workers) if workers else {}
    return memory.with_memory(report, measured if workers & measured.keys() else {})


@click.command("obworker reload", **SHOWN)
@click.option("--wait", is_flag=True, help="Wait until every worker runs the new code.")
@_located
def _reload(path: Path, wait: bool) -> str:
    """Load the code and the settings anew, and replace the workers one by one, as SIGHUP does."""
    ask(path, "reload", timeout=None if wait else control.ANSWER_TIMEOUT, wait=wait)
    return "reloaded" if wait else "reloading"


@click.command("obworker scale", **SHOWN)
@click.argument("workers", type=click.IntRange(1, MAX_SLOTS), metavar="N")
@_located
def _scale(path: Path, workers: int) -> str:
    """Have N workers from now on: new ones start, or those with the highest slots drain."""
    ask(path, "scale", workers=workers)
    return f"scaling to {workers} worker{'s' if workers > 1 else ''}"


@click.command("obworker stop", **SHOWN)
@click.option("--wait", is_flag=True, help="Wait until it has stopped.")
@_located
def _stop(path: Path, wait: bool) -> str:
    """Finish the requests in progress, then stop, as SIGTERM does."""
    control.stop(path, wait=wait)
    return "stopped" if wait else "stopping"


@click.command("obworker stacks", **SHOWN)
@click.argument("slot", type=click.IntRange(0, MAX_SLOTS - 1), metavar="SLOT")
@_located
def _stacks(path: Path, slot: int) -> str:
    """Have the worker of a slot write the stacks of its threads to obworker's log.

    So does an import of predictor.py that is under way.
    """
    shown = ask(path, "stacks", slot=slot)["shown"]
    return "\n".join(f"{who} writes its stacks to the log of obworker" for who in shown)


OPERATIONS = {
    "status": _status,
    "reload": _reload,
    "scale": _scale,
    "stop": _stop,
    "stacks": _stacks,
}


def operate(arguments: Sequence[str], runtime_directory: str | None) -> str | int:
    """Do what the first argument names; return what to print, or the exit code after a --help.

    Raises:
        UsageError: the arguments are wrong, or there is no such obworker.
        CommandError: it could not be done.
    """
    printed: str | int = invoke(OPERATIONS[arguments[0]], arguments[1:], runtime_directory)
    return printed
