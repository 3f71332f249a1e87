"""/metrics: the report of health.py in Prometheus' text format 0.0.4. Pure.

Nothing is counted here: all numbers come from the scoreboard, so they stay right when this process
is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from obworker import __version__
from obworker.http.tally import BUCKETS, CODES
from obworker.supervisor.memory import NONE, Measurement, Memory
from obworker.supervisor.scoreboard import SERVING, Cause

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SERVING_STATES = frozenset(state.name.lower() for state in SERVING)

Report = Mapping[str, Any]
Values = Iterator[tuple[tuple[str, ...], float]]
Buckets = Iterator[tuple[tuple[str, ...], list[tuple[str, float]], float]]


class Kind(NamedTuple):
    """A metric: its name, its help text, its labels, and the function that finds its values.

    `type` is its type, as in the names of prometheus_client's classes.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[Report], Values | Buckets]
    type: str = "Gauge"


def _one(*path: str) -> Callable[[Report], Values]:
    """Return a function that yields one number of the service, and nothing if it is not known."""

    def values(report: Report) -> Values:
        found: Any = report
        for key in path:
            found = None if found is None else found[key]
        if found is not None:
            yield (), float(found)

    return values


def _labels(slot: Report) -> tuple[str, str]:
    return str(slot["slot"]), slot["device"] or ""


def _by_slot(number: Callable[[Report], float | None]) -> Callable[[Report], Values]:
    def values(report: Report) -> Values:
        for slot in report["slots"]:
            found = number(slot)
            if found is not None:
                yield _labels(slot), float(found)

    return values


def _by_gpu(key: str, unit: float = 1.0) -> Callable[[Report], Values]:
    def values(report: Report) -> Values:
        for gpu in report["gpus"]:
            if gpu[key] is not None:
                yield (str(gpu["gpu"]), gpu["uuid"], gpu["name"]), gpu[key] * unit

    return values


def _states(report: Report) -> Values:
    for slot in report["slots"]:
        yield (*_labels(slot), slot["state"]), 1.0


def _restarts(report: Report) -> Values:
    for slot in report["slots"]:
        for cause in Cause:
            name = cause.name.lower()
            yield (*_labels(slot), name), slot["causes"].get(name, 0)


def _responses(report: Report) -> Values:
    for slot in report["slots"]:
        for code in CODES:
            yield (*_labels(slot), code), slot["responses"].get(code, 0)


def _request_seconds(report: Report) -> Buckets:
    """Yield cumulative buckets, as Prometheus wants them."""
    for slot in report["slots"]:
        told = slot["request_seconds"]
        counts = accumulate(told["buckets"].get(bucket, 0) for bucket in BUCKETS)
        buckets = list(zip(BUCKETS, counts, strict=True))
        yield _labels(slot), buckets, told["sum"]


def _memory(key: str) -> Callable[[Report], Values]:
    def values(report: Report) -> Values:
        for (process, slot), memory in report["processes"].items():
            yield (process, slot), getattr(memory, key)

    return values


def _info(report: Report) -> Values:
    yield (__version__, report["model"] or ""), 1.0


def _last_reload_failed(report: Report) -> Values:
    yield (), float(report["reload_failure"] is not None)


def _processes(slot: Report) -> list[Report]:
    return [process for process in (slot, slot["replacement"]) if process]


def _serves(slot: Report) -> float:
    return float(any(process["state"] in SERVING_STATES for process in _processes(slot)))


def _sum(key: str) -> Callable[[Report], float]:
    """Return a function that adds up a number over the processes of a slot."""
    return lambda slot: float(sum(process[key] for process in _processes(slot)))


def _age(slot: Report) -> float | None:
    requests = [process["request"] for process in _processes(slot) if process["request"]]
    return max((request["age"] or 0.0 for request in requests), default=None)


COUNTER, HISTOGRAM = "Counter", "Histogram"
SLOT = ("slot", "device")
GPU = ("gpu", "uuid", "name")
PROCESS = ("process", "slot")

# fmt: off
METRICS = (
    Kind("obworker_info", "The version, and what it serves.", ("version", "model"), _info),
    Kind("obworker_ready", "Whether requests can be sent here (/readyz).", (), _one("ready")),
    Kind("obworker_uptime_seconds", "Time since the master started.", (), _one("uptime")),
    Kind("obworker_generation", "Imports of predictor.py so far.", (), _one("generation")),
    Kind("obworker_reloads_total", "Reloads that went well.", (), _one("reloads"), COUNTER),
    Kind("obworker_last_reload_failed", "Whether the last reload failed.",
         (), _last_reload_failed),
    Kind("obworker_queue_requests", "Requests that wait, of all workers.",
         (), _one("queue", "waiting")),
    Kind("obworker_queue_limit", "Requests that may wait (--max-queue).",
         (), _one("queue", "limit")),
    Kind("obworker_workers_wanted", "Workers that there are to be.", (), _one("workers", "wanted")),
    Kind("obworker_workers_ready", "Workers that serve.", (), _one("workers", "ready")),
    Kind("obworker_worker_ready", "Whether a slot has a worker that serves.",
         SLOT, _by_slot(_serves)),
    Kind("obworker_worker_state", "The state of a slot's worker: 1 for the one that it is in.",
         (*SLOT, "state"), _states),
    Kind("obworker_worker_uptime_seconds", "Time since a slot's worker was ready.",
         SLOT, _by_slot(lambda slot: slot["uptime"])),
    Kind("obworker_requests_total", "Requests that predict has finished.",
         SLOT, _by_slot(lambda slot: slot["requests"]), COUNTER),
    Kind("obworker_responses_total", "Responses by class of status: of predict, refusals, probes,"
         " and to what was no request.",
         (*SLOT, "code"), _responses, COUNTER),
    Kind("obworker_request_seconds", "Time of requests that entered predict, from when they were"
         " whole until the response was ready, waiting included; refusals are not in it.",
         SLOT, _request_seconds, HISTOGRAM),
    Kind("obworker_requests_in_flight", "Requests in predict.", SLOT, _by_slot(_sum("in_flight"))),
    Kind("obworker_requests_waiting", "Requests in the queue that only this slot can answer.",
         SLOT, _by_slot(_sum("waiting"))),
    Kind("obworker_request_age_seconds", "How long a request is in predict: the one of which the"
         " deadline comes first.", SLOT, _by_slot(_age)),
    Kind("obworker_restarts_total", "Ends of workers that nobody asked for.",
         (*SLOT, "cause"), _restarts, COUNTER),
    Kind("obworker_no_memory_total", "Times that memory, a GPU's or the machine's, was short.",
         SLOT, _by_slot(lambda slot: slot["no_memory"]), COUNTER),
    Kind("obworker_quarantined", "Whether a slot's device is left alone after failures.",
         SLOT, _by_slot(lambda slot: float(slot["quarantine"] is not None))),
    Kind("obworker_memory_rss_bytes", "Memory in RAM, shared pages counted whole.",
         PROCESS, _memory("rss")),
    Kind("obworker_memory_pss_bytes", "Memory in RAM, shared pages divided by who shares them:"
         " the sum is what all take together.", PROCESS, _memory("pss")),
    Kind("obworker_memory_uss_bytes", "Memory in RAM that is a process's alone.",
         PROCESS, _memory("uss")),
    Kind("obworker_memory_read_seconds", "Time that it took to read the memory of all.",
         (), _one("memory_read")),
    Kind("obworker_gpu_memory_used_bytes", "Memory in use on a GPU.", GPU, _by_gpu("memory_used")),
    Kind("obworker_gpu_memory_total_bytes", "Memory of a GPU.", GPU, _by_gpu("memory_total")),
    Kind("obworker_gpu_utilisation_ratio", "Share of the time in which a GPU computed.",
         GPU, _by_gpu("utilisation", 0.01)),
    Kind("obworker_gpu_temperature_celsius", "Temperature of a GPU.", GPU, _by_gpu("temperature")),
)
# fmt: on


def text(
    report: Report,
    measured: Measurement,
    others: Mapping[int, str],
    own: Iterable[Metric] = (),
) -> bytes:
    """Format a report, the memory of processes, and the predictor's `own` metrics.

    `others` names processes that are not workers.
    """
    # The import takes 50 ms, and not every service is scraped.
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    processes = _by_process(report, measured.usage, others)
    more = {"processes": processes, "memory_read": measured.seconds}
    registry.register(_Collected((*_families({**report, **more}), *own)))
    written: bytes = generate_latest(registry)
    return written


class _Collected:
    """A collector for a registry, of metrics that exist already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._families


def _families(report: Report) -> Iterator[Metric]:
    from prometheus_client import core

    for kind in METRICS:
        family = getattr(core, f"{kind.type}MetricFamily")
        metric = family(kind.name, kind.help, labels=kind.labels)
        for labels, *value in kind.values(report):
            metric.add_metric(labels, *value)
        yield metric


def _by_process(
    report: Report, measured: Mapping[int, Memory], others: Mapping[int, str]
) -> dict[tuple[str, str], Memory]:
    """Add up memory: of the workers of each slot, of the `others` by name, and of all the rest."""
    workers = {
        process["pid"]: ("worker", str(slot["slot"]))
        for slot in report["slots"]
        for process in _processes(slot)
    }
    named = {**{pid: (name, "") for pid, name in others.items()}, **workers}
    found: dict[tuple[str, str], Memory] = {}
    for pid, memory in measured.items():
        name = named.get(pid, ("other", ""))
        found[name] = found.get(name, NONE) + memory
    return found
