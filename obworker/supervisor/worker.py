"""One worker process: takes its slot's devices, builds the predictor, serves until told to stop.

It ends by os._exit: finalisers of libraries that were loaded before the fork join threads that
exist only in the mold, and hang.
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
    """Run a worker in this process, which was just forked, and end the process."""
    code = EXIT_LOST
    try:
        _take_slot(order, context.master)
        serving = Serving(order, channel, context)
        serving.serve(serving.boot())
    except ObworkerError as error:
        channel.send(Failed.of(error, was_loaded=True))
        code = error.exit_code
    except BaseException:  # the worker's seam: nothing of the mold's may run after it
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
    """Wait until the process in between has ended, then be tied to the master."""
    deadline = time.monotonic() + ADOPTION_TIMEOUT
    while os.getppid() != master and time.monotonic() < deadline:
        time.sleep(0.0005)
    if not linux.die_with_parent(master):
        linux.leave(EXIT_LOST)


def _reseed() -> None:
    """Draw other random numbers than the other forks of the same mold."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")  # numpy 2 imports it when it is asked for
    if numpy_random is not None:
        numpy_random.seed()
