"""Scenarios: the master is killed, stopped for a while, or process 1 of a PID namespace."""

from __future__ import annotations

import signal
import subprocess

import psutil

from scorecards.clients import ask
from scorecards.models import Model
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.servers import NotApplicable, Server
from scorecards.waiting import eventually, seconds_until

MOST_ORPHAN_SECONDS = 2.0
LONGEST_ORPHAN_SECONDS = 20.0
STOPPED_SECONDS = 30.0
ORPHANS = 20

START_SCRIPT = """
sleep 600 &
sh -c 'sleep 600; exit 1' &
wait
"""
SCRIPT_PROCESSES = 5
"""The master, bash, its two children and a grandchild; the admin process is not counted."""


def killed(serve: Serve) -> Measured:
    """Kill the master with two workers."""
    server = serve(Model(), workers=2)
    return _kill(server)


def killed_with_script(serve: Serve) -> Measured:
    """Kill the master of a start.sh that has children."""
    server = serve.script(START_SCRIPT)
    eventually(
        lambda: len(server.family.members()) >= SCRIPT_PROCESSES, 10, "the script's children"
    )
    return _kill(server)


def _kill(server: Server) -> Measured:
    server.signal(signal.SIGKILL)
    took = seconds_until(lambda: server.is_gone, LONGEST_ORPHAN_SECONDS, "end of all processes")
    return Measured(took < MOST_ORPHAN_SECONDS, f"all gone after {took:.1f} s")


def stopped(serve: Serve) -> Measured:
    """Stop the master for half a minute under load, and let it go on."""
    server = serve(Model(), workers=2, timeout=5)
    before = server.workers()
    with server.load() as load:
        server.signal(signal.SIGSTOP)
        load.run_for(STOPPED_SECONDS)
        server.signal(signal.SIGCONT)
        load.go_on(400)
    lost = len(before - server.workers())
    return Measured(not lost and not load.failures, f"{load}, {lost} workers killed")


def first_process(serve: Serve) -> Measured:
    """Run as PID 1 of a namespace, whose orphans end with an exit code that a worker could have."""
    server = serve(Model(), workers=2, wrapper=_unshare())
    processes = len(server.family.members())
    boots = len(server.noted("ready"))
    port = server.port
    answered = sum(ask(port, "orphan").ok for _ in range(ORPHANS))
    eventually(lambda: len(server.family.members()) <= processes, 10, "end of the orphans")
    zombies = _lasting_zombies(server)
    replaced = len(server.noted("ready")) - boots
    ok = answered == ORPHANS and not zombies and not replaced and ask(port).ok
    return Measured(ok, f"{answered} of {ORPHANS} answered, {zombies} zombies, {replaced} replaced")


def _unshare() -> tuple[str, ...]:
    """Return the command that runs another as PID 1, as root or in a user namespace."""
    command = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    refusal = "no unshare"
    for attempt in (command, (*command, "--map-root-user")):
        try:
            ended = subprocess.run([*attempt, "true"], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            break
        if ended.returncode == 0:
            return attempt
        refusal = ended.stderr.strip().splitlines()[-1]
    raise NotApplicable(refusal)


def _lasting_zombies(server: Server) -> int:
    """Return how many zombies the master has not reaped within two seconds."""

    def zombies() -> list[psutil.Process]:
        below = server.master.children(recursive=True)
        return [process for process in below if process.status() == psutil.STATUS_ZOMBIE]

    eventually(lambda: not zombies(), 2, "end of the zombies")
    return len(zombies())


SCENARIOS = (
    Scenario("master-killed", "kill -9 the master", "every process gone < 2 s", killed),
    Scenario(
        "master-killed-script",
        "kill -9 the master of a start.sh with children",
        "every process gone < 2 s",
        killed_with_script,
    ),
    Scenario(
        "pid-1",
        "PID 1 of a namespace, 20 orphans that exit 3",
        "unaffected, no zombie",
        first_process,
    ),
    Scenario(
        "master-stopped",
        f"STOP/CONT the master for {STOPPED_SECONDS:g} s",
        "no worker killed, 0 failed",
        stopped,
    ),
)
