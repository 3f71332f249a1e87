"""Formats the rows of the scorecard: as a table in Markdown for people, and as JSON."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


class Outcome(enum.Enum):
    """Whether a server did what a scenario requires; `n/a` if it lacks what the scenario uses."""

    OK = "ok"
    MISS = "MISS"
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True)
class Row:
    """The result of a scenario; the server's log is for people who look for a reason."""

    name: str
    scenario: str
    required: str
    measured: str
    outcome: Outcome
    seconds: float
    log: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the part of it that is written to a file."""
        fields = dataclasses.asdict(self)
        del fields["log"]
        return fields | {"outcome": self.outcome.value, "seconds": round(self.seconds, 1)}


def heading(scenario_width: int, required_width: int) -> str:
    """Return the first two lines of the table."""
    names = f"| {'scenario':{scenario_width}} | {'required':{required_width}} |      | measured |"
    return f"{names}\n|{'-' * (scenario_width + 2)}|{'-' * (required_width + 2)}|------|----------|"


def line(row: Row, scenario_width: int, required_width: int) -> str:
    """Return a row of the table."""
    measured = " ".join(row.measured.replace("|", "/").split())
    return (
        f"| {row.scenario:{scenario_width}} | {row.required:{required_width}} "
        f"| {row.outcome.value:4} | {measured} |"
    )


def summary(rows: Sequence[Row]) -> str:
    """Return the last line, with the number of rows of each outcome."""
    counts = Counter(row.outcome for row in rows)
    said = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)
    return f"{said}, {sum(row.seconds for row in rows):.0f} s"


def as_json(server: str, rows: Sequence[Row]) -> str:
    """Return the whole scorecard."""
    content = {"server": server, "rows": [row.as_json() for row in rows]}
    return json.dumps(content, indent=2) + "\n"
