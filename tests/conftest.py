"""What holds for every test."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

# A shell's background job ignores SIGINT, and every program it starts inherits that (bash(1),
# "SIGNALS"): servers under test would not see a Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests that share a server, or a port that there is once.
TOGETHER = {
    *("test_abrupt_clients", "test_contract", "test_curl", "test_gunicorn", "test_openbayes"),
    *("test_prepack", "test_real_clients", "test_systemd", "test_tls_clients"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that at the end nobody waits for it."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Deals out file after file to processes, and tests with servers of their own one by one.

    `--dist loadgroup` would have a mark for that, which has no effect with pytest 9.2
    (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        is_apart = file.parent.name == "integration" and file.stem not in TOGETHER
        return nodeid if is_apart else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    """Have pytest -n use it."""
    return Scheduling(config, log)
