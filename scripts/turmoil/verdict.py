"""Which of the requests that got no answer a server is to blame for: pure.

Theory of operation. A request may be lost with the very worker that held it, and with no other. So
before a worker is killed it is frozen, and the connections that it holds are read from the kernel;
a loss is excused by a kill if it was over one of these, and the connection there before and
broken after. There is no "about that time" in it.

The other excuse is HTTP's own (RFC 9112 9.3.1, 9.6): over a kept connection a request may cross the
server's end of it. That is one only where idle connections are closed and not handed on to another
worker (docs/timeouts.md): encrypted ones, and all in a stop. It is none for a request that the
server has read, and its access log names those.

A request may be slow where it met a spell in which somebody was stopped or away, by as long as that
took, and by what a crowd of such clients explains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from turmoil.ledger import Answered, Fault, Kill, Loss
from turmoil.spells import Spell, overlap

# The access log is written within some 20 ms (docs/logging.md), on a machine that has the time.
UNWRITTEN_SECONDS = 1.0
# A client looks at its connection right before it sends: what can cross is what ends in between.
LARGEST_CROSSED_PART = 0.01
# With a single worker one may wait for a call of 0.03 s of each other client, a stream of 0.3 s and
# a body of 2 MB: a second. The rest is for a machine that has other work.
MOST_SECONDS = 2.0
OWN = re.compile(r'a bug in obworker|File ".*/obworker/\S+\.py", line')


class Sorted(NamedTuple):
    """Losses by whose fault they are."""

    killed: list[Loss]
    crossed: list[Loss]
    unexcused: list[Loss]


def sort(
    losses: Iterable[Loss],
    kills: Collection[Kill],
    closes_from: float,
    read: Collection[str],
) -> Sorted:
    """Sort losses; idle ones may be closed after `closes_from`, and the log has what was `read`."""
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
    """Say so if more requests crossed the end of an idle connection than chance lets cross."""
    count = sum(1 for loss in crossed if loss.idle)
    if count > 1 + requests * LARGEST_CROSSED_PART:
        yield f"{count} of {requests} requests crossed the end of an idle connection"


def slow_faults(answered: Iterable[Answered], spells: Collection[Spell]) -> Iterator[Fault]:
    """Say who waited for longer than can be explained."""
    for answer in answered:
        if (unexplained := unexplained_seconds(answer, spells)) > MOST_SECONDS:
            what = f"{answer.id}: answered after {answer.seconds:.1f} s"
            yield Fault(f"{what}, and nothing explains {unexplained:.1f} s of it", answer.at)


def unexplained_seconds(answer: Answered, spells: Iterable[Spell]) -> float:
    """Return how long it took but for the spells that it met."""
    return answer.seconds - overlap(spells, answer.at - answer.seconds, answer.at)


def log_faults(
    lines: Mapping[str, int],
    answered: Iterable[Answered],
    sent: Collection[str],
    kills: Iterable[Kill],
) -> Iterator[str]:
    """Say what is wrong with an access log that names requests so many times."""
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
    """Tell whether who answered was killed before it could write so."""
    return answer.at >= killed.get(answer.worker, float("inf")) - UNWRITTEN_SECONDS


def traceback_faults(log: str) -> Iterator[str]:
    """Say what of obworker's own is in a server's log; what the operations do to predict is not."""
    for line in log.splitlines():
        if OWN.search(line):
            yield f"log: {line.strip()}"
            break


def by_kind(losses: Iterable[Loss]) -> Counter[str]:
    """Count losses by the kind of client."""
    return Counter(loss.id.partition("-")[0] for loss in losses)
