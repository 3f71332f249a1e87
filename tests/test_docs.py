"""What the documentation says about options, signals and exit codes is what the code has."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
from signal import Signals
from types import ModuleType

import pytest
from harness import ROOT

from obworker import errors
from obworker.access_log import AccessRecord, json_line
from obworker.options import Option
from obworker.settings import OPTIONS
from obworker.supervisor import signals


@pytest.fixture(scope="module")
def options_table() -> ModuleType:
    """Import the script, which has no .py to its name."""
    path = str(ROOT / "scripts" / "options_table")
    loader = importlib.machinery.SourceFileLoader("options_table", path)
    spec = importlib.util.spec_from_loader("options_table", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_reference_of_options_is_up_to_date(options_table: ModuleType) -> None:
    assert options_table.markdown() in page("configuration.md"), "run scripts/options_table"


def test_the_example_configuration_is_up_to_date(options_table: ModuleType) -> None:
    written = (ROOT / "conf" / "obworker.toml").read_text(encoding="utf-8")
    assert written == options_table.toml(), "run scripts/options_table"


@pytest.mark.parametrize(
    "option", [o for o in OPTIONS if o.group == "Timeouts"], ids=lambda o: o.key
)
def test_every_timeout_is_explained_to_operators(option: Option) -> None:
    assert f"`{option.flags[-1]}`" in page("timeouts.md")


@pytest.mark.parametrize(
    "number", [*signals.HANDLED, *signals.WITHOUT_EFFECT], ids=lambda number: number.name
)
def test_every_signal_is_explained_to_operators(number: Signals) -> None:
    name = number.name.removeprefix("SIG")
    assert re.search(rf"^\| .*\b{name}\b.* \|", page("signals.md"), re.MULTILINE)


@pytest.mark.parametrize(
    "error",
    [errors.ObworkerError, errors.UsageError, errors.BootError, errors.LoadError],
    ids=lambda error: error.__name__,
)
def test_every_exit_code_is_explained_to_operators(error: type[errors.ObworkerError]) -> None:
    assert f"\n| {error.exit_code} | " in page("exit-codes.md")


def test_every_field_of_the_access_log_is_explained() -> None:
    record = AccessRecord(0, "", "", b"", "", 0, 0, "", 0, 0, 0, "")
    section = page("logging.md").partition("### The access log")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert [name for row in rows for name in re.findall("`(.*?)`", row)] == list(
        json.loads(json_line(record, None))
    )


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in pages
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []
