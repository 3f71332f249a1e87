"""What the loop of a master does with a bug of our own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from harness import eventually

from obworker.supervisor.listeners import free_port

PROGRAM = """
import logging, os, sys
from pathlib import Path
from obworker.settings import Settings
from obworker.supervisor.outside import Surroundings
from obworker.supervisor.script import Script
from obworker.supervisor.signals import OF_MASTER, Signals

def reread():
    raise RuntimeError("nobody has thought of this")

logging.basicConfig(level="INFO", stream=sys.stdout)
settings = Settings(admin_bind="off", control_socket="off")
script = Script(
    Path(sys.argv[1]), int(sys.argv[2]), settings, reread, Signals(OF_MASTER),
    Surroundings(os.environ),
)
sys.exit(script.run())
"""


def test_a_bug_is_logged_and_the_script_is_supervised_on(tmp_path: Path) -> None:
    (tmp_path / "start.sh").write_text("trap 'kill $!; exit 7' TERM; sleep 60 & wait")
    log = tmp_path / "log"
    program = (sys.executable, "-c", PROGRAM, str(tmp_path), str(free_port()))
    with log.open("w") as output, subprocess.Popen(program, stdout=output, stderr=output) as ours:
        try:
            eventually(lambda: "running" in log.read_text())
            ours.send_signal(signal.SIGHUP)
            eventually(lambda: "nobody has thought of this" in log.read_text())
            assert ours.poll() is None
            ours.terminate()
            assert ours.wait(10) == 7, log.read_text()
        finally:
            ours.kill()
    assert "a bug in obworker, which goes on\nTraceback" in log.read_text()
