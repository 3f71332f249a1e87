"""Measures what a server does when things go wrong; scripts/scorecard runs it."""
