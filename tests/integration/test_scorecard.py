"""What the scorecard requires of obworker, it has; and the scorecard tells who has not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from harness import ROOT
from scorecards import reloads
from scorecards.kinds import Gunicorn, Obworker
from scorecards.models import Model
from scorecards.report import Outcome
from scorecards.runs import run
from scorecards.scenarios import Measured, Scenario, Serve
from scorecards.table import SCENARIOS
from scorecards.waiting import Late

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
MANY_RELOADS = BY_NAME["reload-200"]


def scorecard(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scorecards", *argv],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_stands(scenario: Scenario) -> None:
    row = run(scenario, Obworker)
    if row.outcome is Outcome.NOT_APPLICABLE:
        pytest.skip(row.measured)
    assert row.outcome is Outcome.OK, f"{row.scenario}: {row.measured}\n{row.log}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS if scenario is not MANY_RELOADS],
    ids=lambda scenario: scenario.name,
)
def test_obworker_stands(scenario: Scenario) -> None:
    assert_stands(scenario)


@pytest.mark.timeout(240)
def test_obworker_stands_many_reloads() -> None:
    # A leak shows after far fewer than the scorecard's 200, which take a minute of CPU time.
    assert_stands(MANY_RELOADS._replace(measure=partial(reloads.many, 40)))


def test_names_are_not_used_twice() -> None:
    assert len(BY_NAME) == len(SCENARIOS)


def test_a_server_that_goes_down_at_a_reload_misses() -> None:
    row = run(BY_NAME["reload-syntax-error"], Gunicorn)
    assert row.outcome is Outcome.MISS
    assert re.search(r"it ended with [13]\b", row.measured)  # gunicorn's own code varies
    assert "invalid syntax" in row.log


def test_what_does_not_come_true_in_time_is_a_miss() -> None:
    def wait_for_nothing(_: Serve) -> Measured:
        raise Late("nothing: not within 0 s")

    row = run(Scenario("name", "title", "required", wait_for_nothing), Obworker)
    assert (row.outcome, row.measured) == (Outcome.MISS, "nothing: not within 0 s")


def test_a_run_leaves_no_process_whatever_its_title() -> None:
    families = []

    def leave_it_running(serve: Serve) -> Measured:
        family = serve(Model(), workers=2).family
        families.append(family)
        return Measured(True, str(len(family.members())))

    row = run(Scenario("name", "title", "required", leave_it_running), Obworker)
    assert int(row.measured) >= len(["master", "mold", "worker 0", "worker 1"])
    assert families[0].members() == []


def test_a_miss_is_told_by_the_exit_status_and_with_the_log() -> None:
    ended = scorecard("--server", "gunicorn", "--only", "term-waiting")
    assert ended.returncode == 1
    assert re.search(r"\| MISS \| [0-5] of 6 answered", ended.stdout)
    assert re.search(r"--- log of term-waiting: [0-5] of 6 answered", ended.stderr)
    assert "Handling signal: term" in ended.stderr


def test_what_a_server_does_not_have_is_not_missed(tmp_path: Path) -> None:
    written = tmp_path / "rows.json"
    ended = scorecard("--server", "gunicorn", "--only", "readyz-*", "--json", str(written))
    assert ended.returncode == 0, ended.stderr
    assert "| n/a  | no admin port |" in ended.stdout
    (row,) = json.loads(written.read_text())["rows"]
    assert (row["name"], row["outcome"]) == ("readyz-gil", "n/a")


def test_an_unknown_scenario_is_named() -> None:
    ended = scorecard("--only", "boot-*", "reload-nothing")
    assert ended.returncode == 1
    assert "no scenario 'reload-nothing'; see scripts/scorecard --list" in ended.stderr


def test_the_list_names_every_scenario() -> None:
    ended = scorecard("--list")
    assert [line.split()[0] for line in ended.stdout.splitlines()] == list(BY_NAME)
