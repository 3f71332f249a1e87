"""All scenarios, in the order of the table."""

from __future__ import annotations

from scorecards import boots, disorder, masters, readiness, reloads, stops, systemd, workers

SCENARIOS = (
    *reloads.SCENARIOS,
    *boots.SCENARIOS,
    *workers.SCENARIOS,
    *disorder.SCENARIOS,
    *stops.SCENARIOS,
    *masters.SCENARIOS,
    *readiness.SCENARIOS,
    *systemd.SCENARIOS,
)
