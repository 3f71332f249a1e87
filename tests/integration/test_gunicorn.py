"""The same predictors give the same answers under gunicorn, and keep to PEP 3333 while they do."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from contract import CASES
from contract.rows import Case, Model
from fleet import Fleet
from harness import ROOT, Reply

PORTABLE = [case for case in CASES if not case.server_level]
MODELS = [
    pytest.param(model, list(cases), id=model.name)
    for model, cases in groupby(PORTABLE, lambda case: case.model)
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    servers = Fleet(tmp_path_factory.mktemp("gunicorn"))
    yield servers
    servers.close()


def test_rows_that_only_our_server_answers_say_why() -> None:
    reasons = {case.id: case.server_level for case in CASES if case.server_level}
    assert set(reasons) == {"returns-too-large", "production-too-large"}


@pytest.mark.parametrize("case", PORTABLE, ids=lambda case: case.id)
def test_gunicorn_answers_as_obworker_does(fleet: Fleet, case: Case) -> None:
    ours, theirs = fleet.obworker(case), fleet.gunicorn(case)
    assert (theirs.status, theirs.body) == (ours.status, ours.body), fleet.log()
    kept = {"content-type", *(name.lower() for name in case.answer)}
    assert only(kept, theirs) == only(kept, ours)
    assert not case.differences(theirs)


def only(names: set[str], reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name in names}


@pytest.mark.parametrize(("model", "cases"), MODELS)
def test_the_application_keeps_to_pep_3333(model: Model, cases: list[Case], tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tests" / "validated.py")],
        input=pickle.dumps((model, model.write(tmp_path), cases)),
        capture_output=True,
        timeout=60,
        check=False,
    )
    log = ended.stderr.decode()
    assert ended.returncode == 0, log
    replies: list[Reply] = pickle.loads(ended.stdout)
    found = {
        case.id: differences
        for case, reply in zip(cases, replies, strict=True)
        if (differences := case.differences(reply))
    }
    assert not found, log
    assert "Iterator garbage collected without being closed" not in log
