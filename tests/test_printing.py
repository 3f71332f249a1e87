"""Standard output and error that cannot be written, or are not there."""

from __future__ import annotations

import subprocess
import sys

FULL = "/dev/full"  # full(4): every write fails as on a full disk
PROTECT = "import os, sys; from obworker.printing import *; never_fail(); "


def run(code: str, redirection: str = "", *options: str) -> tuple[int, str, str]:
    """Run code after a redirection of the shell; return its exit code and what it printed."""
    shell = f'unset PYTHONUNBUFFERED; exec "$@" {redirection}'
    done = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class TestNeverFail:
    def test_a_print_to_a_full_disk_is_lost(self) -> None:
        code = PROTECT + "print('x' * 100_000); print('y', file=sys.stderr); os._exit(7)"
        assert run(code, f"> {FULL} 2>&1") == (7, "", "")

    def test_one_that_waits_in_a_buffer_is_lost_at_the_end(self) -> None:
        assert run(PROTECT + "print('x', end='')", f"> {FULL}") == (0, "", "")

    def test_a_print_that_nobody_reads_is_lost(self) -> None:
        code = PROTECT + "sys.stdin.read(); print('x'); print('y', file=sys.stderr)"
        assert run(code, "> >(exec true) < <(sleep 0.2)") == (0, "", "y\n")

    def test_what_can_be_written_is_written_line_by_line(self) -> None:
        code = PROTECT + "print('好', end=''); print(1); sys.stderr.write('e\\n'); os._exit(0)"
        assert run(code, "", "-X", "utf8") == (0, "好1\n", "e\n")

    def test_what_cannot_be_encoded_is_escaped(self) -> None:
        code = "import sys; sys.stdout.reconfigure(encoding='ascii'); " + PROTECT
        assert run(code + "print('好', '\\ud800')", "", "-X", "utf8") == (
            0,
            "\\u597d \\ud800\n",
            "",
        )

    def test_without_a_buffer_it_has_none(self) -> None:
        assert run(PROTECT + "print('x', end=''); os._exit(0)", "", "-u") == (0, "x", "")

    def test_a_stream_of_somebody_else_stays(self) -> None:
        code = "import io, sys; mine = sys.stdout = io.StringIO(); " + PROTECT
        assert run(code + "sys.exit(sys.stdout is not mine)")[0] == 0


class TestOpenClosed:
    def test_closed_descriptors_are_taken_so_that_no_other_file_gets_them(self) -> None:
        code = (
            "import os, sys; from obworker.printing import *; open_closed(); print('nobody')\n"
            "for stream in (sys.stdout, sys.stderr): stream.write('nobody'); stream.flush()\n"
            "ours = [os.path.samefile(f'/proc/self/fd/{n}', os.devnull) for n in range(3)]\n"
            "ours += map(os.get_inheritable, range(3))\n"
            "os._exit(7 if all(ours) and os.open('/', 0) == 3 else 1)"
        )
        assert run(code, "<&- >&- 2>&-")[0] == 7

    def test_what_is_open_stays_as_it_is(self) -> None:
        code = "from obworker.printing import *; open_closed(); print('x')"
        assert run(code, "2>&-") == (0, "x\n", "")
