"""How a Python of ours is started."""

from __future__ import annotations

import subprocess
import sys

SEEN = "import sys; print(sys.flags.optimize, sys.warnoptions, sys._xoptions)"


def test_it_has_the_flags_of_the_one_that_starts_it() -> None:
    flags = ["-OO", "-Wignore", "-Werror::UserWarning", "-Xutf8=1", "-Xfaulthandler"]
    started = f"""
import subprocess
from obworker.supervisor.bootstrap import python
subprocess.run(python({SEEN!r}), check=True)
"""
    seen = [
        subprocess.check_output([sys.executable, *flags, "-c", code], text=True, timeout=30)
        for code in (SEEN, started)
    ]
    assert seen[0] == seen[1] != ""
