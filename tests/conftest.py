"""Settings for all tests, and the order in which pytest-xdist deals them out."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

# A shell's background job ignores SIGINT, and so does every program that it starts (bash(1),
# "SIGNALS"). Servers under test would not notice a Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files whose tests share a server, or need something that there is only once, such as a fixed port.
TOGETHER = {
    *("test_abrupt_clients", "test_contract", "test_curl", "test_gunicorn", "test_openbayes"),
    *("test_prepack", "test_real_clients", "test_systemd", "test_tls_clients"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that no process works on alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process whole files, and integration tests one by one unless they share a server.

    `--dist loadgroup` has a mark for this, but the mark has no effect with pytest 9.2 (pytest-xdist
    issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        is_apart = file.parent.name == "integration" and file.stem not in TOGETHER
        return nodeid if is_apart else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    """Make `pytest -n` use this scheduling."""
    return Scheduling(config, log)
