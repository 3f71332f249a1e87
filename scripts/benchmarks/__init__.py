"""Benchmarks of obworker beside other servers: run them by scripts/bench."""
