"""What holds for every test."""

from __future__ import annotations

import signal

import pytest

# A shell's background job ignores SIGINT, and every program it starts inherits that (bash(1),
# "SIGNALS"): servers under test would not see a Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Have the tests that share a server, or what else is made once, run in one process."""
    for item in items:
        if any(made.scope == "module" for made in fixtures_of(item)):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def fixtures_of(item: pytest.Function) -> list[pytest.FixtureDef[object]]:
    return [definitions[-1] for definitions in item._fixtureinfo.name2fixturedefs.values()]
