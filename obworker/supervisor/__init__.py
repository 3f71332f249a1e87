"""Processes: master, mold, worker, start.sh; the only package that forks, kills and waits."""
