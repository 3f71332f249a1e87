"""A start.sh is run instead of anything else, kept alive, and stopped with all it started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from harness import QUIET, Serve, Server, eventually, request

from obworker.supervisor import listeners
from obworker.supervisor.listeners import free_port

SERVER = """
import http.server, os, signal, sys, threading, time

class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        if self.path == "/exit":
            os._exit(9)
        time.sleep(float(self.path.strip("/") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer)
server.daemon_threads = False

def stop(*_):
    threading.Thread(target=server.shutdown).start()

signal.signal(signal.SIGTERM, stop)
server.serve_forever()
server.server_close()
print("finished", flush=True)
"""

PREDICTOR = "class Predictor:\n    def predict(self): return 'inner'\n"

StartScript = Callable[..., Server]


@pytest.fixture
def port() -> int:
    """Return a port that is free."""
    return free_port()


@pytest.fixture
def script(serve: Serve, model: Path, port: int) -> StartScript:
    """Start a model directory with this start.sh; `server.py` beside it serves on $PORT."""
    (model / "server.py").write_text(SERVER)

    def start(
        text: str,
        *argv: str,
        environ: Mapping[str, str | None] | None = None,
        by_option: bool = True,
    ) -> Server:
        (model / "start.sh").write_text(text)
        listen = ("--port", str(port)) if by_option else ()
        return serve(*argv, str(model), listen=listen, environ={"PORT": None, **(environ or {})})

    return start


def started(server: Server) -> int:
    """Return the pid of the script that was started last."""
    server.wait_for_log(r"running +start\.sh, pid \d+")
    return int(re.findall(r"running +start\.sh, pid (\d+)", server.log())[-1])


def wait_until_ready(server: Server, times: int = 1) -> None:
    def ready() -> bool:
        assert server.process.poll() is None, server.log()
        return len(re.findall(r"start\.sh +ready in \d+\.\d\d s\n", server.log())) >= times

    eventually(ready, 20, "readiness")


# how it is run


@pytest.mark.parametrize("given_by", ["environment", ".env", "file"])
def test_it_may_run_an_obworker_which_does_not_want_what_its_supervisor_has(
    script: StartScript, model: Path, port: int, tmp_path: Path, given_by: str
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    settings = {
        "admin_bind": f"127.0.0.1:{free_port()}",
        "control_socket": str(tmp_path / "control.sock"),
        "log_file": str(tmp_path / "log"),
    }
    environ: dict[str, str | None] = {**dict.fromkeys(QUIET), "XDG_RUNTIME_DIR": str(tmp_path)}
    if given_by == "file":
        (tmp_path / "c.toml").write_text("".join(f"{k} = '{v}'\n" for k, v in settings.items()))
        environ["OBWORKER_CONFIG"] = str(tmp_path / "c.toml")
    elif given_by == ".env":
        lines = [f"OBWORKER_{key.upper()}={value}\n" for key, value in settings.items()]
        (model / ".env").write_text("".join(lines))
    else:
        environ |= {f"OBWORKER_{key.upper()}": value for key, value in settings.items()}
    server = script(f"exec {sys.executable} -m obworker --port $PORT predictor.py", environ=environ)
    eventually(lambda: server.process.poll() is not None or listeners.is_served(port))
    assert request(port).body == b"inner"
    assert server.stop() == 0


def test_options_that_a_script_does_not_go_by_are_said(script: StartScript) -> None:
    server = script("exit 0", "--workers", "2", "--boot-timeout", "9", "--max-batch-size", "8")
    assert server.wait() == 0
    said = "no effect  --workers, --max-batch-size: a start.sh serves by itself"
    assert [line for line in server.log().splitlines() if line.endswith(said)]


def test_it_is_run_by_bash_in_its_directory_and_in_a_session_of_its_own(
    script: StartScript, model: Path
) -> None:
    server = script(
        "[[ -n $BASH_VERSION ]] && echo bash $0 in $PWD of $(ps -o sid= -p $$) as $$\n"
        "echo to stderr >&2\n"
    )
    assert server.wait() == 0
    assert not os.access(model / "start.sh", os.X_OK)
    found = re.search(r"(?m)^bash start\.sh in (\S+) of +(\d+) as (\d+)$", server.log())
    assert found is not None
    directory, session, pid = found.groups()
    assert directory == str(model)
    assert session == pid
    assert "\nto stderr\n" in server.log()


def test_it_wins_over_a_predictor_py(script: StartScript, model: Path) -> None:
    (model / "predictor.py").write_text("raise ValueError('was imported')\n")
    server = script("echo was run\n")
    assert server.wait() == 0
    assert "was run\n" in server.log()
    assert "was imported" not in server.log()


@pytest.mark.parametrize(
    ("by_option", "given", "seen"),
    [(False, None, "80"), (False, "", "80"), (False, "1234", "1234"), (True, None, None)],
)
def test_its_port_is_80_unless_something_else_is_said(
    script: StartScript, port: int, by_option: bool, given: str | None, seen: str | None
) -> None:
    server = script("echo PORT=$PORT.\n", environ={"PORT": given}, by_option=by_option)
    assert server.wait() == 0
    assert f"PORT={seen or port}.\n" in server.log()


def test_an_option_wins_over_the_variable(script: StartScript, port: int) -> None:
    server = script("echo PORT=$PORT.\n", environ={"PORT": "1234"})
    assert server.wait() == 0
    assert f"PORT={port}.\n" in server.log()


def test_the_environment_and_dotenv_are_passed_on(script: StartScript, model: Path) -> None:
    (model / ".env").write_text("A=file\nB=file\n")
    server = script("echo A=$A B=$B\n", environ={"B": "outside"})
    assert server.wait() == 0
    assert "A=file B=outside\n" in server.log()


def test_it_is_not_given_descriptors_of_ours(script: StartScript) -> None:
    # no pipe: bash itself would have it open for a moment
    server = script("exec 9>&- ; ls /proc/$$/fd > open; tr '\\n' ' ' < open; echo\n")
    assert server.wait() == 0
    (line,) = re.findall(r"(?m)^0 1 2 .*$", server.log())
    assert line.split() == ["0", "1", "2", "255"]  # bash keeps the script itself at 255


# how it ends


@pytest.mark.parametrize("code", [0, 7, 255])
def test_its_exit_code_is_ours(script: StartScript, code: int) -> None:
    server = script(f"exit {code}\n")
    if code:
        server.wait_for_log(rf"start\.sh exited with code {code}; starting it again in ")
        server.signal(signal.SIGTERM)
    assert server.wait() == code


def test_one_that_leaves_its_server_in_the_background_is_said_to_end_it(
    script: StartScript,
) -> None:
    server = script("python3 server.py &\nsleep 0.5\n")
    assert server.wait() == 0
    assert "start.sh exited with code 0: stopping, with all that it left running" in server.log()
    eventually(lambda: not server.survivors(), 2, "end of all processes")


def test_a_signal_that_ends_it_is_128_and_more(script: StartScript) -> None:
    server = script("kill -SEGV $$\n")
    server.wait_for_log(r"start\.sh was killed by SIGSEGV; starting it again in ")
    server.signal(signal.SIGTERM)
    assert server.wait() == 128 + signal.SIGSEGV


def test_after_five_failures_before_it_was_ready_it_is_given_up(script: StartScript) -> None:
    server = script("echo try\nexit 7\n")
    assert server.wait(40) == 7
    assert server.log().count("try\n") == 5
    waits = re.findall(r"starting it again in (\d+\.\d) s", server.log())
    assert [float(wait) for wait in waits] == pytest.approx([0.5, 1, 2, 4], rel=0.3)
    last = server.log().splitlines()[-1]
    assert re.fullmatch(
        r"obworker: error: giving up: start\.sh exited with code 7 before port \d+ answered", last
    )


def test_it_is_ready_when_its_port_answers(script: StartScript, port: int) -> None:
    server = script("exec python3 server.py\n")
    wait_until_ready(server)
    assert request(port).body == b"ok"
    assert server.stop() == 0


def test_it_is_started_again_when_it_crashes(script: StartScript, port: int) -> None:
    server = script("exec python3 server.py\n")
    wait_until_ready(server)
    old = started(server)
    psutil.Process(old).kill()
    server.wait_for_log(r"start\.sh was killed by SIGKILL; starting it again in 0\.0 s")
    wait_until_ready(server, times=2)
    new = started(server)
    assert new != old
    psutil.Process(new).kill()
    server.wait_for_log(r"starting it again in 0\.[3-7] s")
    wait_until_ready(server, times=3)
    assert request(port).body == b"ok"
    assert server.stop() == 0


def test_a_crash_of_one_that_was_ready_once_is_never_given_up(script: StartScript) -> None:
    server = script(
        "if [[ ! -e ran ]]; then touch ran; exec python3 server.py; fi\nsleep 0.1; exit 3\n"
    )
    wait_until_ready(server)
    psutil.Process(started(server)).kill()
    eventually(lambda: server.log().count("exited with code 3; starting it again") >= 3)
    assert server.process.poll() is None
    server.signal(signal.SIGTERM)
    assert server.wait() == 3


def test_one_whose_port_does_not_answer_in_time_is_stopped_and_tried_again(
    script: StartScript,
) -> None:
    server = script("exec sleep 600\n", "--boot-timeout", "0.5")
    server.wait_for_log(r"port \d+ does not answer in time; stopping start\.sh")
    server.wait_for_log(r"start\.sh was killed by SIGTERM; starting it again in ")
    assert server.wait(40) == 3
    assert server.log().count("does not answer in time; stopping start.sh") == 5
    assert server.log().endswith(" did not answer within 0.5 s, see --boot-timeout\n")
    assert server.survivors() == []


def test_one_whose_master_was_stopped_is_not_taken_for_late(script: StartScript) -> None:
    code = (
        "import os, socket, time; print('boots', flush=True); time.sleep(3);"
        " s = socket.create_server(('127.0.0.1', int(os.environ['PORT']))); time.sleep(600)"
    )
    server = script(f'exec python3 -c "{code}"\n', "--boot-timeout", "4")
    server.wait_for_log("boots\n")
    booting = psutil.Process(started(server))
    server.signal(signal.SIGSTOP)
    booting.suspend()
    stopped = time.monotonic()
    eventually(lambda: time.monotonic() - stopped > 7, 10, "a while")
    server.signal(signal.SIGCONT)
    eventually(lambda: psutil.Process(server.pid).status() == psutil.STATUS_SLEEPING)
    booting.resume()
    wait_until_ready(server)
    assert "does not answer in time" not in server.log()


# how it is stopped


def test_term_reaches_the_whole_group(script: StartScript) -> None:
    server = script("sleep 601 &\n(sleep 602 &)\npython3 server.py &\nwait\n")
    wait_until_ready(server)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 2
    assert server.survivors() == []


@pytest.mark.parametrize(
    "how",
    [
        "exec python3 server.py\n",
        "python3 server.py\n",
        "set -m\npython3 server.py &\nfg %1\n",  # under job control each job is a group of its own
    ],
)
def test_term_lets_a_request_in_progress_be_answered(
    script: StartScript, port: int, how: str
) -> None:
    server = script(how)
    wait_until_ready(server)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST /1 HTTP/1.0\r\n\r\n")
        eventually(lambda: is_read(port), what="reading of the request")
        server.signal(signal.SIGTERM)
        assert connection.recv(100)[:12] == b"HTTP/1.0 200"
    server.wait()
    assert "finished\n" in server.log()


def is_read(port: int) -> bool:
    """Tell whether a server has read all that its clients have sent."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [line[4] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "01"]
    return bool(queues) and all(queue.endswith(":00000000") for queue in queues)


def test_what_ran_under_job_control_is_gone_before_the_next_start(
    script: StartScript, model: Path
) -> None:
    server = script("set -m\necho run >> runs\npython3 server.py &\nfg %1\n")
    wait_until_ready(server)
    server.signal(signal.SIGHUP)
    wait_until_ready(server, times=2)
    psutil.Process(started(server)).kill()
    wait_until_ready(server, times=3)
    servers = [line for line in server.survivors() if line.endswith("server.py")]
    assert len(servers) == 1
    assert (model / "runs").read_text().count("run") == 3
    server.stop()


def test_one_that_ignores_term_is_killed_when_the_graceful_timeout_is_over(
    script: StartScript,
) -> None:
    server = script(
        "trap '' TERM\necho deaf\nwhile :; do sleep 600; done\n", "--graceful-timeout", "1"
    )
    server.wait_for_log("deaf\n")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 128 + signal.SIGKILL
    assert 1 <= time.monotonic() - began < 3
    assert "start.sh did not stop in time; killing it\n" in server.log()
    assert server.survivors() == []


def test_an_interrupt_is_over_within_two_seconds(script: StartScript) -> None:
    server = script("trap '' TERM INT\necho deaf\nwhile :; do sleep 600; done\n")
    server.wait_for_log("deaf\n")
    began = time.monotonic()
    server.signal(signal.SIGINT)
    assert server.wait() == 128 + signal.SIGKILL
    assert time.monotonic() - began < 2
    assert server.survivors() == []


def test_orphans_are_reaped(script: StartScript) -> None:
    server = script("for i in 1 2 3; do (sleep 0.1 & sleep 0); done\nexec python3 server.py\n")
    wait_until_ready(server)
    children = psutil.Process(server.pid)

    def only_the_script() -> bool:
        left = [child for child in children.children() if "obworker: admin" not in child.cmdline()]
        return [child.pid for child in left] == [started(server)]

    eventually(only_the_script, 5, "reaping of all orphans")


def test_descendants_in_a_session_of_their_own_do_not_outlive_us(script: StartScript) -> None:
    server = script("setsid sleep 601 &\nexec python3 server.py\n")
    wait_until_ready(server)
    server.signal(signal.SIGTERM)
    server.wait()
    eventually(lambda: not server.survivors(), 2, "end of all processes")


def test_a_port_that_another_program_serves_is_not_taken_for_the_scripts(
    script: StartScript, port: int, tmp_path: Path
) -> None:
    control, admin = tmp_path / "control", tmp_path / "admin"
    with socket.create_server(("127.0.0.1", port)):
        server = script("", "--control-socket", str(control), "--admin-bind", f"unix:{admin}")
        assert server.wait(10) == 2
    assert (
        f"port {port} is served by another program\nhint: stop it, or use --port\n" in server.log()
    )
    assert not control.exists()
    assert not admin.exists()


def test_it_can_trap_the_signals_that_have_no_effect_on_us(script: StartScript) -> None:
    server = script("trap 'echo trapped' USR1\nkill -USR1 $$\nexec python3 server.py\n")
    server.wait_for_log(r"trapped\n", 10)


def test_another_term_does_not_prolong_the_stop(script: StartScript) -> None:
    server = script("trap '' TERM\nwhile :; do sleep 0.1; done\n", "--graceful-timeout", "1")
    server.wait_for_log(r"running +start\.sh")
    server.signal(signal.SIGINT)
    began = time.monotonic()
    while server.process.poll() is None:
        server.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(0.3)
        assert time.monotonic() - began < 5
    assert time.monotonic() - began < 3


def test_a_daemon_that_it_starts_lives_as_long_as_obworker(script: StartScript, port: int) -> None:
    server = script("(setsid python3 server.py &)\nexec sleep 600\n")
    wait_until_ready(server)
    assert request(port).body == b"ok"
    server.stop()


def test_the_port_of_bind_is_its_port(script: StartScript) -> None:
    wanted = free_port()
    server = script(
        "echo port $PORT\nexec sleep 600\n", "--bind", f"127.0.0.1:{wanted}", by_option=False
    )
    server.wait_for_log(rf"port {wanted}\n", 10)


def test_a_reload_stops_the_script_and_starts_it_again(script: StartScript) -> None:
    server = script("trap 'exit 0' TERM\npython3 server.py &\nwait\n")
    wait_until_ready(server)
    first = started(server)
    server.signal(signal.SIGHUP)
    eventually(lambda: server.log().count("start.sh   ready in ") == 2)
    assert started(server) != first
    assert server.process.poll() is None
    server.signal(signal.SIGHUP)
    eventually(lambda: server.log().count("start.sh   ready in ") == 3)
    server.signal(signal.SIGTERM)
    server.wait()
    assert server.survivors() == []


def test_a_reload_reads_what_the_script_is_given_again(script: StartScript, model: Path) -> None:
    (model / ".env").write_text("KEY=old\n")
    server = script("echo KEY=$KEY PORT=$PORT\nexec python3 server.py\n")
    wait_until_ready(server)
    (seen,) = re.findall(r"(?m)^KEY=old (PORT=\d+)$", server.log())
    (model / ".env").write_text("KEY=new\nPORT=1\nOBWORKER_PORT=1\n")
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"KEY=new {seen}\n", 10)
    wait_until_ready(server, times=2)
    assert server.stop() == 0


def test_a_reload_of_what_cannot_be_read_leaves_the_script_running(
    script: StartScript, model: Path, port: int
) -> None:
    server = script("exec python3 server.py\n")
    wait_until_ready(server)
    for line, complaint in {
        "OBWORKER_BOOT_TIMEOUT=soon": "OBWORKER_BOOT_TIMEOUT: 'soon' is not .*",
        "OBWORKER_CERTFILE=/c": r"--certfile: a start\.sh listens by itself, .*",
    }.items():
        (model / ".env").write_text(line)
        server.signal(signal.SIGHUP)
        server.wait_for_log(rf"reload failed: {complaint}; start\.sh runs on", 10)
    assert request(port).body == b"ok"
    assert server.log().count("running    start.sh") == 1
    assert server.stop() == 0


def test_a_directory_that_has_gone_is_named(script: StartScript, model: Path) -> None:
    server = script("exec python3 server.py\n")
    wait_until_ready(server)
    model.rename(model.with_name("elsewhere"))
    psutil.Process(started(server)).kill()
    server.wait_for_log(rf"start\.sh cannot be run: {model}: No such file or directory; ")
    model.with_name("elsewhere").rename(model)
    wait_until_ready(server, times=2)
    assert server.stop() == 0


def test_it_is_not_started_again_by_a_reload_that_comes_after_its_end(
    script: StartScript,
) -> None:
    server = script("while [[ ! -e done ]]; do sleep 0.05; done\n")
    directory = psutil.Process(started(server)).cwd()
    (admin,) = psutil.Process(server.pid).children()[:1]
    admin.suspend()  # obworker waits for it to leave
    Path(directory, "done").touch()
    server.wait_for_log(r"start\.sh exited with code 0: stopping")
    server.signal(signal.SIGHUP)
    assert server.wait() == 0
    assert server.log().count("running    start.sh") == 1


@pytest.mark.parametrize("control", ["", "set -m\n"])
def test_the_script_dies_with_its_master(script: StartScript, control: str) -> None:
    server = script(control + "sleep 602 &\nexec python3 server.py\n")
    wait_until_ready(server)
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.survivors(), 2, "end of all processes")


@pytest.mark.parametrize("end", ["trap 'exit 0' TERM", "trap 'exit 9' TERM"])
def test_one_that_does_not_answer_in_time_has_failed_whatever_it_says(
    script: StartScript, end: str
) -> None:
    server = script(f"{end}\nwhile true; do sleep 0.1; done\n", "--boot-timeout", "0.2")
    server.wait_for_log(r"start\.sh exited with code \d; starting it again in ")
    server.signal(signal.SIGTERM)
    assert server.wait() == 3


def test_a_process_that_cannot_be_reaped_does_not_hold_up_the_next_start(
    script: StartScript,
) -> None:
    left = "import os, time; os.fork() or os._exit(0); os.setsid(); time.sleep(600)"
    server = script(f'python3 -c "{left}" &\nexec python3 server.py\n')
    wait_until_ready(server)
    with suppress(OSError):
        request(server.port, path="/exit")
    eventually(lambda: server.log().count("start.sh   ready in ") == 2, 20)
