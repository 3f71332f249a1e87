"""The few Linux calls that the standard library lacks, and reaping."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NoReturn

import setproctitle

from obworker.kernel_files import stat_of, state_of, text_of
from obworker.printing import STANDARD_ERROR

logger = logging.getLogger("obworker.worker")

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Makes a process dump its stacks. No library and no predictor is likely to use it.
DUMP_SIGNAL = signal.SIGRTMIN

LIMIT_ON_PROCESSES = "a limit on processes and threads (pids.max, TasksMax=, ulimit -u)"
LIMIT_ON_DESCRIPTORS = "a limit on descriptors (LimitNOFILE=, ulimit -n)"
NO_THREAD = f"cannot start a thread: {LIMIT_ON_PROCESSES}, or on memory (ulimit -v)"

KILL_TIMEOUT = 2.0
KILL_INTERVAL = 0.005


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> bool:
    """Have this process killed when its parent ends; return False if that has ended already.

    It is the parent *at this moment* (prctl(2), PR_SET_PDEATHSIG): call it after any re-parenting.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def trim_heap() -> None:
    """Return freed memory, which the C library keeps, to the system (malloc_trim(3))."""
    with contextlib.suppress(AttributeError):  # musl has no such call
        ctypes.CDLL(None).malloc_trim(0)


def why_no_process(error: OSError) -> str:
    """Say why no process could be made, and by which limit, which the kernel does not name."""
    limits = {errno.EAGAIN: LIMIT_ON_PROCESSES, errno.EMFILE: LIMIT_ON_DESCRIPTORS}
    limit = limits.get(error.errno or 0)
    return f"{error.strerror}, {limit}" if limit else f"{error.strerror}"


def next_ended() -> int | None:
    """Return the pid of a child that has ended, if any; it is not reused before `reap`."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if ended is None else ended.si_pid


def reap(pid: int) -> int:
    """Reap a child that has ended; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_rest_of_group(leader: int) -> None:
    """Kill what is left of the process group of a child that has ended.

    Call it before the child is reaped: until then its pid cannot be reused.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_rest_of_session(leader: int) -> None:
    """Kill what is left of the session of a child that has ended, before it is reaped.

    Its own children are ours by then (see adopt_orphans), so only our children are searched.
    """
    for group in {leader} | groups_of({leader}, children()):
        kill_rest_of_group(group)


def group_exists(group: int) -> bool:
    """Whether a process group has a member, even if that is a zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or is a zombie that its parent has not reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return state_of(pid) in ("Z", "X")


def groups_of(sessions: Collection[int], among: Collection[int] | None = None) -> set[int]:
    """Return the process groups of sessions: under job control each job is one (credentials(7)).

    Only the processes in `among` are searched, or all if it is None.
    """
    groups = set()
    for pid in _processes() if among is None else among:
        fields = stat_of(pid)
        if fields and int(fields[3]) in sessions:
            groups.add(int(fields[2]))
    return groups


def _processes() -> Iterator[int]:
    return (int(process.name) for process in Path("/proc").glob("[0-9]*"))


def children() -> set[int]:
    """Return the children of this process (proc(5); not every kernel has the file)."""
    listing = text_of(Path(f"/proc/self/task/{os.getpid()}/children"))
    return {int(pid) for pid in listing.split()}


def kill_descendants(spare: set[int]) -> None:
    """Kill every descendant but those of `spare`, also those that left the groups we know.

    The children of a killed process become ours (see adopt_orphans), so this repeats until none is
    left, or until KILL_TIMEOUT if one does not die.
    """
    deadline = time.monotonic() + KILL_TIMEOUT
    while (left := children() - spare) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        while (ended := next_ended()) is not None:
            reap(ended)
        time.sleep(KILL_INTERVAL)


def show_stacks_on_demand() -> None:
    """Have this process write its stacks to standard error at DUMP_SIGNAL and at fatal signals.

    This happens in C, so it works even while a C extension holds the GIL and never releases it.
    """
    faulthandler.enable(STANDARD_ERROR)
    faulthandler.register(DUMP_SIGNAL, STANDARD_ERROR)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [DUMP_SIGNAL])  # see bootstrap.spawn


def has_terminal() -> bool:
    """Whether this process has a controlling terminal (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def raise_descriptor_limit() -> None:
    """Raise the descriptor limit as far as allowed: each connection of a worker takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def pin(cores: Collection[int]) -> None:
    """Run on these cores only; if there are none, change nothing.

    This applies to the calling thread and the threads it starts later (sched_setaffinity(2)).
    """
    try:
        if cores:
            os.sched_setaffinity(0, cores)
    except OSError as error:  # the cpuset has changed meanwhile
        logger.warning("cannot be pinned to the cores %s: %s", sorted(cores), error.strerror)


def kill_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group of `pid`, or `pid` alone if it does not lead one yet."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        signal_process(pid, number)
    except PermissionError:
        pass  # all that is left of it is another user's, by a sudo in a start.sh


def kill_session(leader: int, number: signal.Signals) -> None:
    """Signal every process of the session that `leader` has begun, whatever its group."""
    for group in {leader} | groups_of({leader}):
        kill_group(group, number)


def signal_process(pid: int, number: int) -> None:
    """Signal one process, if it still exists and we may."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def flush_output() -> None:
    """Flush the standard streams, unless the user's code has closed or replaced them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def execute(command: list[str]) -> NoReturn:
    """Become another program, and stop all timers, which would end it (execve(2))."""
    flush_output()
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
    os.execv(command[0], command)  # noqa: S606


def leave(code: int) -> NoReturn:
    """End this process without running finalisers."""
    flush_output()
    os._exit(code)


def set_title(text: str) -> None:
    """Name this process in ps and top."""
    shown = text.encode(errors="backslashreplace").decode()  # a path may not be valid UTF-8
    setproctitle.setproctitle(f"obworker: {shown}")
