"""``python -m obworker``."""

from obworker.cli import main

main()
