"""Decides for which lost and slow requests the server is to blame. Pure.

Theory of operation. When a worker is killed, the requests that this worker held may be lost, and no
others. So a worker is frozen before it is killed, and the kernel is asked which connections it
holds. A kill excuses a loss only if the request was on one of those connections, which existed
before the kill and broke after it. A loss at about the time of a kill is not excused by that alone.

HTTP itself has the other excuse (RFC 9112 9.3.1, 9.6): a client may send a request on a kept
connection at the moment at which the server closes it. That can only happen where the server closes
idle connections instead of moving them to another worker (docs/timeouts.md): TLS connections at any
time, and all connections during a stop. It does not excuse the loss of a request that the server
has read, and the access log tells which ones it has.

A request may take longer by the time in which a worker was frozen, no worker was ready or the
clients did not run, and by as long as the other clients of the run can keep one worker busy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from turmoil.ledger import Answered, Fault, Kill, Loss
from turmoil.spells import Spell, overlap

# A worker writes its access log within some 20 ms (docs/logging.md), but later on a busy machine.
UNWRITTEN_SECONDS = 1.0
# A client looks whether its connection is closed right before it sends, so a request can only cross
# a close that happens in between.
LARGEST_CROSSED_PART = 0.01
# While there is one worker, a request may wait for a call of 0.03 s of each other client, a stream
# of 0.3 s and a body of 2 MB, which is one second. The other second is for a busy machine.
MOST_SECONDS = 2.0
OWN = re.compile(r'a bug in obworker|File ".*/obworker/\S+\.py", line')


class Sorted(NamedTuple):
    """Losses by what explains them: a kill, a crossed close, or nothing."""

    killed: list[Loss]
    crossed: list[Loss]
    unexcused: list[Loss]


def sort(
    losses: Iterable[Loss],
    kills: Collection[Kill],
    closes_from: float,
    read: Collection[str],
) -> Sorted:
    """Sort losses by what explains them.

    From `closes_from` on the server may close idle connections; `read` has the requests that the
    access log names.
    """
    outcome = Sorted([], [], [])
    for loss in losses:
        if any(_held(kill, loss) for kill in kills):
            outcome.killed.append(loss)
        elif loss.id not in read and _crossed(loss, closes_from):
            outcome.crossed.append(loss)
        else:
            outcome.unexcused.append(loss)
    return outcome


def _held(kill: Kill, loss: Loss) -> bool:
    return loss.is_cut and loss.port in kill.ports and loss.opened <= kill.at <= loss.at


def _crossed(loss: Loss, closes_from: float) -> bool:
    return loss.is_cut and loss.may_be_unread and loss.at >= closes_from


def crossing_faults(crossed: Iterable[Loss], requests: int) -> Iterator[str]:
    """Complain if more requests crossed a close of their connection than chance explains."""
    count = sum(1 for loss in crossed if loss.idle)
    if count > 1 + requests * LARGEST_CROSSED_PART:
        yield f"{count} of {requests} requests crossed the end of an idle connection"


def slow_faults(answered: Iterable[Answered], spells: Collection[Spell]) -> Iterator[Fault]:
    """Complain about requests that took longer than can be explained."""
    for answer in answered:
        if (unexplained := unexplained_seconds(answer, spells)) > MOST_SECONDS:
            what = f"{answer.id}: answered after {answer.seconds:.1f} s"
            yield Fault(f"{what}, and nothing explains {unexplained:.1f} s of it", answer.at)


def unexplained_seconds(answer: Answered, spells: Iterable[Spell]) -> float:
    """Return how long a request took without the spells that fall into its time."""
    return answer.seconds - overlap(spells, answer.at - answer.seconds, answer.at)


def log_faults(
    lines: Mapping[str, int],
    answered: Iterable[Answered],
    sent: Collection[str],
    kills: Iterable[Kill],
) -> Iterator[str]:
    """Say what is wrong with an access log; `lines` has how many lines each request has in it."""
    killed = {kill.pid: kill.at for kill in kills}
    for request_id, count in lines.items():
        if count > 1:
            yield f"access log: {count} lines of {request_id}"
        if request_id not in sent:
            yield f"access log: a line of {request_id!r}, which nobody sent"
    for answer in answered:
        if answer.id not in lines and not _taken_along(answer, killed):
            yield f"access log: no line of {answer.id}, answered by {answer.worker}"


def _taken_along(answer: Answered, killed: Mapping[int, float]) -> bool:
    """Tell whether the worker that answered was killed before it could write its access log."""
    return answer.at >= killed.get(answer.worker, float("inf")) - UNWRITTEN_SECONDS


def traceback_faults(log: str) -> Iterator[str]:
    """Report the first trace of a bug in obworker in a server's log.

    Tracebacks of the predictor are none: the operations break predictors on purpose.
    """
    for line in log.splitlines():
        if OWN.search(line):
            yield f"log: {line.strip()}"
            break


def by_kind(losses: Iterable[Loss]) -> Counter[str]:
    """Count losses by kind of client."""
    return Counter(loss.id.partition("-")[0] for loss in losses)
