"""What a server does when things go wrong, measured: run it by scripts/scorecard."""
