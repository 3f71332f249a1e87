"""The metrics of predictor.py itself, added up over all processes that count them.

Theory of operation. With PROMETHEUS_MULTIPROC_DIR set, prometheus_client keeps the values of each
process in files there, one for each kind of metric, and adds them up when it is asked. It keeps
those of processes that have ended, or a counter would fall. But every replaced worker would leave
some more, for ever: so before the files are read, those of processes that have ended are added up
into one for each kind. Gauges say how a process is: they go with it.
"""

from __future__ import annotations

import logging
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Metric

logger = logging.getLogger("obworker.admin")

FILE = re.compile(r"(?P<kind>counter|histogram|summary|gauge_[a-z]+)_(?P<pid>[0-9]+)\.db")
GAUGE = "gauge"
# No process has this pid.
ENDED = 0
OURS = "obworker_"
UNREADABLE = (OSError, RuntimeError, ValueError, struct.error)


def collect(directory: Path) -> list[Metric]:
    """Return the metrics, without names of ours; none if they cannot be read, which is logged."""
    from prometheus_client.multiprocess import MultiProcessCollector

    try:
        _fold(directory)
        paths = [str(path) for path, _, _ in _files(directory)]
        found: Iterable[Metric] = MultiProcessCollector.merge(paths)
    except UNREADABLE as error:
        logger.error("/metrics: cannot read predictor.py's metrics in %s: %s", directory, error)
        return []
    return [metric for metric in found if not metric.name.startswith(OURS)]


def _files(directory: Path) -> Iterator[tuple[Path, str, int]]:
    """Yield each file of prometheus_client's with the kind of its metrics and its process."""
    for path in sorted(directory.iterdir()):
        if match := FILE.fullmatch(path.name):
            yield path, match["kind"], int(match["pid"])


def _fold(directory: Path) -> None:
    """Add up the files of processes that have ended."""
    ended: dict[str, list[Path]] = defaultdict(list)
    for path, kind, pid in _files(directory):
        if not _is_running(pid):
            ended[kind].append(path)
    for kind, paths in ended.items():
        if kind.startswith(GAUGE):
            _remove(paths)
        elif paths != [sum_ := directory / f"{kind}_{ENDED}.db"]:
            _add_up(paths, sum_)
            _remove(set(paths) - {sum_})


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _add_up(paths: Iterable[Path], sum_: Path) -> None:
    """Write the sums of all values in `paths` to a file, which may be one of them."""
    from prometheus_client.mmap_dict import MmapedDict

    values: dict[str, float] = defaultdict(float)
    for path in paths:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
            values[key] += value
    new = sum_.with_suffix(".new")
    new.unlink(missing_ok=True)
    written = MmapedDict(str(new))
    for key, value in values.items():
        written.write_value(key, value, 0.0)
    written.close()
    new.replace(sum_)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
