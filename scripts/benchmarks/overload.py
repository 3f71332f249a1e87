"""Overload with five times the capacity, then half of it: what is refused, how soon it recovers."""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import options as types
from benchmarks import work
from benchmarks.claims import Claim, at_least, at_most, counted, verdict
from benchmarks.openloop import OpenLoop, connected
from benchmarks.outcomes import Outcome, failures, lag_ms, latency_ms
from benchmarks.processes import MIB, Memory, watched
from benchmarks.queueing import percentile
from benchmarks.servers import BenchError, obworker, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SERVICE = 0.020
FACTOR = 5
NORMAL_LOAD = 0.5
NORMAL_SECONDS = 5.0
NORMAL_CONNECTIONS = 64
PATIENCE = 30.0
LEAST_GOODPUT = 0.95
MOST_GROWTH = 2.0
MOST_RECOVERY = 1.0
MARGIN = 0.5
"""Seconds that a request may take on top of what the queue explains."""
WINDOW = 0.2
"""The length in seconds of the windows in which latency is measured after the overload."""


@dataclass(frozen=True)
class Plan:
    """The load that obworker gets, and the limits that follow from it."""

    seconds: int
    workers: int
    max_queue: int
    queue_timeout: float
    stay: bool

    @property
    def capacity(self) -> float:
        """The requests per second that the workers can answer."""
        return self.workers / SERVICE

    @property
    def connections(self) -> int:
        """One for each request that waits or runs, and for the arrivals of another 0.2 s."""
        return self.max_queue + self.workers + round(FACTOR * self.capacity / 5)

    @property
    def longest_wait(self) -> float:
        """The seconds that a request may wait in a full queue."""
        return min(self.max_queue / self.capacity, self.queue_timeout)

    @property
    def most_recovery(self) -> float:
        """The seconds after which latency must be normal again."""
        spare = self.capacity * (1 - NORMAL_LOAD)
        return MOST_RECOVERY + (self.max_queue / spare if self.stay else 0.0)


class Measured(NamedTuple):
    """The outcomes of the requests in the three phases, and what happened to the workers."""

    before: list[Outcome]
    overload: list[Outcome]
    after: list[Outcome]
    memory: Memory
    since: float
    same_workers: bool


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = add_parser(
        "overload",
        help=f"{FACTOR} times the capacity, then half of it",
        description=f"Workers whose predict sleeps {SERVICE * 1e3:.0f} ms get {FACTOR} times what "
        "they can do, by Poisson arrivals over as many connections as that takes, then "
        f"{NORMAL_LOAD:.0%} of it for {NORMAL_SECONDS:.0f} s. At the end of the overload its "
        "clients leave, and their requests must not be computed; with --stay they wait for their "
        "answers, and the time to work those off is added to the limit of the recovery.",
    )
    parser.add_argument("--seconds", type=types.count, default=30, help="of overload")
    parser.add_argument("--workers", type=types.count, default=4, help="of obworker")
    parser.add_argument("--max-queue", type=types.count, default=400, help="of obworker")
    parser.add_argument("--queue-timeout", type=types.seconds, default=60, help="of obworker")
    parser.add_argument("--stay", action="store_true", help="see above")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Overload obworker; print what is claimed and what was measured."""
    fields = Plan.__dataclass_fields__
    plan = Plan(**{name: value for name, value in vars(options).items() if name in fields})
    if plan.seconds < 2:
        raise BenchError("--seconds must be 2 or more: goodput counts after the first")
    measured = _measure(plan)
    for phase in ("before", "overload", "after"):
        kinds = Counter(str(outcome) for outcome in getattr(measured, phase))
        print(f"{phase}: {counted(kinds)}")
    return verdict(list(_claims(plan, measured)))


def _measure(plan: Plan) -> Measured:
    server = obworker(
        work.PREDICTOR,
        *("--workers", str(plan.workers), "--max-queue", str(plan.max_queue)),
        *("--queue-timeout", str(plan.queue_timeout)),
    )
    normal = NORMAL_LOAD * plan.capacity
    with (
        running(server, b"".join(work.message(0.0))) as target,
        connected(target.port, NORMAL_CONNECTIONS) as usual,
        connected(target.port, plan.connections) as crowd,
    ):
        usual.run(work.steady(normal, 1.0, SERVICE, seed=1), PATIENCE)
        before = usual.run(work.steady(normal, NORMAL_SECONDS, SERVICE, seed=2), PATIENCE)
        workers = target.workers(plan.workers)
        with watched(workers) as memory:
            began = time.monotonic()
            overload, after = _overload(plan, usual, crowd)
        same = target.workers(plan.workers) == workers
    return Measured(before, overload, after, memory, began + plan.seconds / 5, same)


def _overload(plan: Plan, usual: OpenLoop, crowd: OpenLoop) -> tuple[list[Outcome], list[Outcome]]:
    normal = NORMAL_LOAD * plan.capacity
    much = work.steady(FACTOR * plan.capacity, plan.seconds, SERVICE, seed=3)
    little = work.steady(normal, NORMAL_SECONDS + plan.most_recovery, SERVICE, seed=4)
    if not plan.stay:
        overload = crowd.run(much, patience=0)
        return overload, usual.run(little, PATIENCE)
    later = (arrival._replace(at=arrival.at + plan.seconds) for arrival in little)
    outcomes = crowd.run(itertools.chain(much, later), PATIENCE)
    overload = [outcome for outcome in outcomes if outcome.at < plan.seconds]
    return overload, outcomes[len(overload) :]


def _claims(plan: Plan, measured: Measured) -> Iterator[Claim]:
    overload = measured.overload
    refused = failures(measured.before)
    yield Claim("none failed before", str(dict(refused) or 0), not refused)
    accepted = [outcome for outcome in overload if outcome.ok]
    others = [outcome for outcome in overload if outcome.status not in (200, 503)]
    left = 0 if plan.stay else sum(outcome.was_left for outcome in others)
    yield Claim(
        "all answered 200 or 503",
        f"{len(others) - left} of {len(overload)} not; {left} more at the end, whose clients left",
        len(others) == left,
    )
    waits = [outcome.done - outcome.at for outcome in overload]
    limit = plan.queue_timeout + SERVICE + MARGIN
    yield at_most("longest until 200 or 503, s", percentile(waits, 100), limit)
    instants = [outcome.done for outcome in accepted if 1 <= outcome.done < plan.seconds]
    goodput = len(instants) / (plan.seconds - 1)
    yield at_least("goodput, requests/s", goodput, LEAST_GOODPUT * plan.capacity)
    slowest = latency_ms(accepted, 100) / 1e3
    yield at_most("longest of the accepted, s", slowest, plan.longest_wait + SERVICE + MARGIN)
    p50, p99 = latency_ms(accepted, 50), latency_ms(accepted, 99)
    lag = lag_ms(overload)
    print(f"accepted: p50 {p50:.0f} ms, p99 {p99:.0f} ms; lag of the client: p99 {lag:.2f} ms")
    growth = measured.memory.growth(measured.since) / MIB
    yield at_most("growth of a worker's memory, MiB", growth, MOST_GROWTH)
    yield Claim("the same workers before and after", "", measured.same_workers)
    recovery = recovery_seconds(measured.after, latency_ms(measured.before, 50) / 1e3)
    yield at_most("until latency is normal, s", recovery, plan.most_recovery)


def recovery_seconds(outcomes: Sequence[Outcome], normal: float) -> float:
    """Return after how many seconds the median latency of each window is at most twice normal."""
    if not outcomes or not math.isfinite(normal):
        return math.inf
    windows = defaultdict(list)
    for outcome in outcomes:
        windows[int((outcome.at - outcomes[0].at) / WINDOW)].append(outcome.latency)
    slow = [number for number, found in windows.items() if statistics.median(found) > 2 * normal]
    return (max(slow) + 1) * WINDOW if slow else 0.0
