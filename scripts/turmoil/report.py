"""Writes the report of a run. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from turmoil.footprint import Footprint
from turmoil.ledger import Fault, Ledger, Loss, Operation
from turmoil.verdict import Sorted, by_kind, unexplained_seconds

RECENT_SECONDS = 12.0


def lines(ledger: Ledger, losses: Sorted, footprints: list[Footprint]) -> Iterator[str]:
    """Say what was done, how the requests ended, and which losses were excused."""
    done = Counter(operation.name for operation in ledger.operations)
    yield f"{done.total()} operations: {_counts(done)}"
    yield f"{ledger.requests.total()} requests: {_counts(ledger.requests)}"
    yield f"{len(ledger.answered)} answered, the slowest {_slowest(ledger)}"
    yield f"{ledger.closed_idle} idle connections closed"
    yield f"{ledger.probes.total()} probes: {_counts(ledger.probes)}"
    kills = f"{len(ledger.kills)} killed processes"
    yield f"{len(losses.killed)} lost with {kills}: {_counts(by_kind(losses.killed))}"
    yield f"{len(losses.crossed)} crossed a close: {_counts(by_kind(losses.crossed))}"
    for when, one in zip(("warm", "at the end"), footprints, strict=False):
        memory = {role: f"{size >> 10} KiB" for role, size in one.memory.items()}
        yield f"{when}: descriptors: {_pairs(one.descriptors)}; memory: {_pairs(memory)}"


def failures(ledger: Ledger, losses: Sorted) -> list[str]:
    """Say what went wrong, lost requests first, each with the operations shortly before it."""
    wrong: list[Loss | Fault] = [*losses.unexcused, *ledger.faults]
    return [f"{one}\n    after {_before(one.at, ledger.operations)}" for one in wrong]


def _before(at: float, operations: Sequence[Operation]) -> str:
    recent = (one for one in operations if 0 <= at - one.at <= RECENT_SECONDS)
    return ", ".join(f"{one.name} {one.at - at:+.2f} s" for one in recent) or "nothing"


def _slowest(ledger: Ledger) -> str:
    """Say which response took longest, and how much of any response's time is unexplained."""
    slowest = max(ledger.answered, key=lambda one: one.seconds, default=None)
    if slowest is None:
        return "-"
    unexplained = max(unexplained_seconds(one, ledger.spells) for one in ledger.answered)
    return f"{slowest.id} after {slowest.seconds:.1f} s; at most {unexplained:.1f} s unexplained"


def _counts(counter: Counter[str]) -> str:
    return _pairs(dict(counter.most_common())) or "-"


def _pairs(named: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in named.items())
