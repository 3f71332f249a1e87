"""Disturbs a real server under mixed load, in random order, and reports every request it lost."""
