"""Benchmarks of obworker and of other servers; scripts/bench runs them."""
