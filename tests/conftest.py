"""What holds for every test."""

from __future__ import annotations

import signal

# A shell's background job ignores SIGINT, and every program it starts inherits that (bash(1),
# "SIGNALS"): servers under test would not see a Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
