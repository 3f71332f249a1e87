"""The command line of scripts/scorecard."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.processes import unwind_when_killed

from scorecards import report
from scorecards.kinds import KINDS
from scorecards.report import Outcome, Row
from scorecards.runs import run
from scorecards.scenarios import Scenario
from scorecards.servers import Server
from scorecards.table import SCENARIOS


def main() -> int:
    """Run the chosen scenarios; return 1 if the server missed one."""
    options = _parser().parse_args()
    scenarios = _chosen(options.only)
    if options.list:
        for scenario in scenarios:
            print(f"{scenario.name:22} {scenario.title}: {scenario.required}")
        return 0
    unwind_when_killed()
    try:
        return _score(KINDS[options.server], scenarios, options.json)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/scorecard", description="Measure what a server does when things go wrong."
    )
    parser.add_argument("--server", choices=KINDS, default="obworker")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="scenarios to run; patterns such as 'reload-*' too",
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser


def _chosen(patterns: Sequence[str] | None) -> list[Scenario]:
    """Return the scenarios that match a pattern, in the table's order; all, without patterns."""
    if patterns is None:
        return list(SCENARIOS)
    names = [scenario.name for scenario in SCENARIOS]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise SystemExit(f"scorecard: no scenario {pattern!r}; see scripts/scorecard --list")
    return [one for one in SCENARIOS if any(fnmatch(one.name, pattern) for pattern in patterns)]


def _score(kind: type[Server], scenarios: Sequence[Scenario], json: Path | None) -> int:
    print(f"{kind.version()}\n")
    rows = list(_printed(kind, scenarios))
    print(f"\n{report.summary(rows)}")
    misses = [row for row in rows if row.outcome is Outcome.MISS]
    for row in misses:
        print(f"\n--- log of {row.name}: {row.measured}\n{row.log}", file=sys.stderr, end="")
    if json:
        json.write_text(report.as_json(kind.version(), rows))
    return 1 if misses else 0


def _printed(kind: type[Server], scenarios: Sequence[Scenario]) -> Iterator[Row]:
    """Run the scenarios and print each row as soon as it is known."""
    widths = (
        max(len(scenario.title) for scenario in scenarios),
        max(len(scenario.required) for scenario in scenarios),
    )
    print(report.heading(*widths), flush=True)
    for scenario in scenarios:
        row = run(scenario, kind)
        print(report.line(row, *widths), flush=True)
        yield row


if __name__ == "__main__":
    sys.exit(main())
