"""One worker process: takes its slot's devices, builds the predictor, serves until told to stop.

It ends by os._exit: finalisers of libraries that were loaded before the fork would hang, as they
join threads that exist only in the mold.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import time

from obworker.errors import ObworkerError
from obworker.supervisor import linux, signals, threads
from obworker.supervisor.messages import Channel, Failed, Spawn
from obworker.supervisor.serving import EXIT_LOST, Context, Serving

logger = logging.getLogger("obworker.worker")

ADOPTION_TIMEOUT = 5.0


def main(order: Spawn, channel: Channel, context: Context) -> None:
    """Run a worker in this process, which was made for it, and end the process."""
    code = EXIT_LOST
    try:
        _take_slot(order, context.master)
        serving = Serving(order, channel, context)
        serving.serve(serving.boot())
    except ObworkerError as error:
        channel.send(Failed.of(error, was_loaded=True))
        code = error.exit_code
    except BaseException:  # the worker's seam: no code of the mold may run after it
        logger.exception("worker %d failed", order.slot)
    finally:
        linux.leave(code)


def _take_slot(order: Spawn, master: int) -> None:
    """Become the worker of a slot; its environment was set before the fork."""
    with contextlib.suppress(PermissionError):  # a direct worker leads its session already
        os.setsid()
    signals.restore_defaults()
    linux.show_stacks_on_demand()
    linux.set_title(order.title)
    _be_adopted(master)
    _reseed()
    threads.use(order.pools)


def _be_adopted(master: int) -> None:
    """Wait until the master is our parent (see mold.py), then be killed when it ends."""
    deadline = time.monotonic() + ADOPTION_TIMEOUT
    while os.getppid() != master and time.monotonic() < deadline:
        time.sleep(0.0005)
    if not linux.die_with_parent(master):
        linux.leave(EXIT_LOST)


def _reseed() -> None:
    """Seed random numbers, which otherwise are the same in all forks of a mold."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")  # numpy 2 imports it on first use
    if numpy_random is not None:
        numpy_random.seed()
