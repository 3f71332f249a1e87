"""What the documentation says, as far as code can tell, is what the code has."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from signal import Signals
from types import ModuleType

import pytest
from corpus import CORPUS
from harness import ROOT
from scorecards.table import SCENARIOS

from obworker import errors, onnx_options
from obworker.access_lines import AccessRecord, json_line
from obworker.http import acceptor, chunks, connection, parser, response, server
from obworker.http.cycle import CLIENT_CLOSED_REQUEST
from obworker.options import Option
from obworker.settings import OPTIONS
from obworker.supervisor import signals
from obworker.supervisor.scoreboard import Cause, State


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


def section(name: str, title: str) -> str:
    """Return what a page has below a title, up to the next of that rank or a higher one."""
    rank, found, rest = title.partition(" ")[0], *page(name).partition(f"\n{title}\n")[1:]
    assert found, f"{name} has no {title!r}"
    return re.split(rf"\n#{{1,{len(rank)}}} ", rest)[0]


def first_column(table: str) -> list[str]:
    return re.findall(r"^\| *(.*?) *\|", table, re.MULTILINE)


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


@pytest.mark.parametrize("number", signals.OF_MASTER, ids=lambda number: number.name)
def test_every_signal_is_explained_to_operators(number: Signals) -> None:
    name = number.name.removeprefix("SIG")
    assert re.search(rf"^\| .*\b{name}\b.* \|", page("control.md"), re.MULTILINE)


@pytest.mark.parametrize(
    "error",
    [errors.ObworkerError, errors.UsageError, errors.BootError, errors.LoadError],
    ids=lambda error: error.__name__,
)
def test_every_exit_code_is_explained_to_operators(error: type[errors.ObworkerError]) -> None:
    assert f"\n| {error.exit_code} | " in page("troubleshooting.md")


def test_every_field_of_the_access_log_is_explained() -> None:
    record = AccessRecord(0, "", "", b"", "", 0, 0, "", 0, 0, 0, "")
    rows = first_column(section("logging.md", "### The access log"))
    assert [name for row in rows for name in re.findall("`(.*?)`", row)] == list(
        json.loads(json_line(record, None))
    )


def documented_statuses() -> set[int]:
    rows = first_column(section("http.md", "## Statuses"))
    return {int(row) for row in rows if row.isdecimal()}


@pytest.mark.parametrize(
    "error", errors.RequestError.__subclasses__(), ids=lambda error: error.__name__
)
def test_every_error_of_a_request_is_explained(error: type[errors.RequestError]) -> None:
    assert error.status in documented_statuses()


def statuses_in(module: Path) -> Iterator[int]:
    """Yield the statuses of errors that a module names, as numbers or status lines."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and re.match(r"\d{3} [A-Z]", value):
            value = int(value[:3])
        if isinstance(value, int) and 400 <= value < 600:
            yield value


def test_the_statuses_that_are_explained_are_those_of_the_server_and_its_application() -> None:
    modules = [ROOT / "obworker" / "errors.py", *ROOT.glob("obworker/http/*.py")]
    modules += ROOT.glob("obworker/predictor/*.py")
    named = {status for module in modules for status in statuses_in(module)}
    assert documented_statuses() == named & {*HTTPStatus, CLIENT_CLOSED_REQUEST}


def test_every_field_that_the_server_adds_is_explained() -> None:
    added = ("X-Request-ID", "1")
    error = response.error_response(errors.ServiceUnavailable(), date=b"-", fields=[added])
    opening, _ = response.opening("200 OK", ())
    stream = response.head(opening, keep_alive=True, version="1.0", date=b"-", chunked=True)
    explained = " ".join(first_column(section("http.md", "## What a response has")))
    names = re.findall(rb"^([\w-]+): ", error + stream, re.MULTILINE)
    assert {name.decode() for name in names} <= set(re.findall(r"`([\w-]+)`", explained))


def test_what_is_refused_is_explained_by_the_sections_that_the_corpus_tests() -> None:
    cited = re.findall(r"RFC (\d{4} \d+(?:\.\d+)*)", section("http.md", "## What is refused"))
    assert set(cited) == {entry.section for entry in CORPUS if entry.refusal is not None}


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (r"more than (\d+) empty lines", parser.EMPTY_LINES),
        (r"at most (\d+) hexadecimal digits", chunks.DIGITS),
        (r"more than (\d+) bytes of them", chunks.EXTENSIONS),
        (r"chunk extensions (\d+) bytes", chunks.EXTENSIONS),
        (r"reads on for (\d+) s", connection.LINGER_TIMEOUT),
    ],
)
def test_fixed_limits_are_what_the_page_on_http_says(pattern: str, value: float) -> None:
    assert [float(found) for found in re.findall(pattern, page("http.md"))] == [value]


@pytest.mark.parametrize(
    ("seconds", "what"),
    [
        (connection.DRAIN_IDLE_TIMEOUT, "an idle connection that cannot move, during a drain"),
        (connection.DRAIN_BEGUN_TIMEOUT, "the rest of a head or TLS handshake, during a drain"),
        (connection.LINGER_TIMEOUT, "the client closes its half after ours"),
        (server.TICK, "deadlines of connections, and of what waits for a worker, are looked at"),
        (
            acceptor.YIELD_TIME,
            "a worker without a free thread leaves a new connection to the others",
        ),
        (
            acceptor.ACCEPT_RETRY_TIME,
            "a worker that has no room for another connection, and of which none ends, tries again",
        ),
        (
            acceptor.SPARED_TIME,
            "a new connection is not closed for another one's sake within",
        ),
    ],
)
def test_fixed_timeouts_are_what_the_page_on_timeouts_says(seconds: float, what: str) -> None:
    rows = section("timeouts.md", "## Fixed, because nobody should need to change them")
    assert re.search(rf"^\| {what}( every| after)? \| {seconds:g} \|$", rows, re.MULTILINE)


def test_every_state_and_every_cause_of_an_end_is_explained() -> None:
    explained = " ".join(first_column(section("health.md", "## States and causes")))
    named = [kind.name.lower() for kind in (*State, *Cause)]
    assert sorted(re.findall("`([a-z]+)`", explained)) == sorted(named)


def test_every_session_option_is_explained() -> None:
    explained = " ".join(first_column(section("onnx.md", "## Session options")))
    assert set(re.findall(r"`([\w.]+)`", explained)) == set(onnx_options.KEYS)


def test_every_benchmark_has_its_section() -> None:
    modules = ROOT.glob("scripts/benchmarks/*.py")
    names = {path.stem for path in modules if "\ndef add_command(" in path.read_text()}
    titles = re.findall(r"^## (\w+)\n\n    scripts/bench \1$", page("performance.md"), re.MULTILINE)
    assert set(titles) == names
    assert names <= set(re.findall(r"\(#(\w+)\)", page("performance.md")))


def laid_out() -> Iterator[str]:
    """Yield the modules that the layout names, each with its directory."""
    directory = ""
    block = section("design.md", "## Layout").partition("    obworker/\n")[2]
    for line in block.partition("\n    openbayes_serving.py")[0].splitlines():
        indent = len(line) - len(line.lstrip())
        if match := re.match(r" {6}(\w+/)", line):
            directory = match[1]
        elif match := re.match(r" +((?:\w+\.py(?: +|$))+)", line):
            yield from ((directory if indent > 6 else "") + name for name in match[1].split())


def test_the_index_names_every_page() -> None:
    named = re.findall(r"\]\((\w[\w-]*\.md)\)", page("README.md"))
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("[!R]*.md"))


@pytest.mark.parametrize(
    "message",
    [
        "cannot listen on ",
        "names no option",
        "exited with code ",
        "each worker imports and preloads ",
        "predict raised ",
        "a predict is past its deadline",
        "is past the deadline of ",
        "its event loop stands still",
        " s to boot, see --boot-timeout",
        "health check failed (",
        "was told to stop by SIGTERM",
        "has served ",
        ", more than ",
        "does not die: it sleeps in the kernel",
        " is in quarantine",
        "reload failed: ",
        "the reload does not get past slot ",
        "only a restart changes ",
        "a new mold starts in ",
        "no health endpoints: ",
        "no control socket: ",
        "no access log for now: ",
        "the access log lost ",
        "the master is gone; killing the ",
        "cannot accept a connection",
        ": unknown parameter ",
        "the code has changed since the other workers loaded it: reload",
        " is neither",
        "refused a request with 503",
        "the predictor did not answer in time",
        "out of memory",
    ],
)
def test_a_message_that_is_looked_up_is_one_that_there_is(message: str) -> None:
    code = "\n".join(path.read_text() for path in ROOT.glob("obworker/**/*.py"))
    assert message in page("troubleshooting.md")
    assert message in code


def test_the_readme_has_the_scores_of_the_scorecard() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for title, name in {
        "obworker": "obworker",
        "gunicorn 27.0.1, gthread": "gunicorn 27 gthread",
        "gunicorn 27.0.1, sync": "gunicorn 27 sync",
    }.items():
        rows = re.findall(r"\| (ok|MISS|n/a) +\|", section("scorecard.md", f"## {title}"))
        scores = [rows.count(score) for score in ("ok", "MISS", "n/a")]
        scores[2] += len(SCENARIOS) - sum(scores)  # rows that a table leaves out
        assert f"| {name} | {scores[0]} | {scores[1]} | {scores[2]} |\n" in readme
    assert f"in {len(SCENARIOS)} scenarios" in readme


def test_the_layout_has_every_module_and_no_other() -> None:
    package = ROOT / "obworker"
    modules = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]
    # a package's own module only says what the package is
    assert sorted(laid_out()) == sorted(m for m in modules if not m.endswith("/__init__.py"))


def test_the_words_are_those_of_the_code() -> None:
    text = section("design.md", "## Words")
    listed = text.partition(" And\n")[0].split(",")
    words = {word.strip(" .\n") for word in listed}
    words |= {word for row in first_column(text) for word in row.split(", ")} - {"", "---"}
    code = "\n".join(path.read_text() for path in ROOT.glob("obworker/**/*.py"))
    assert {word for word in words if not re.search(rf"(\b|_){word}(\b|_)", code)} == set()


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in pages
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def anchors(path: Path) -> set[str]:
    """Return the names that a page's titles have in links, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_to_sections_lead_to_one() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    broken = [
        f"{path.relative_to(ROOT)}: {target}#{anchor}"
        for path in pages
        for target, anchor in re.findall(
            r"\]\((?!https?:)([^)#]*)#([^)]+)\)", path.read_text(encoding="utf-8")
        )
        if anchor not in anchors(path.parent / target if target else path)
    ]
    assert broken == []
