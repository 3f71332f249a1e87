"""Where a real server is served on: several addresses, sockets of others, permissions."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import Load, Outcome
from harness import SERVING, Serve, Server, eventually, request
from wire import TIMEOUT, Client

PREDICTOR = """
import os

class Predictor:
    def predict(self):
        return {"pid": os.getpid()}

if __name__ == "__main__":
    from obworker import run
    run(Predictor)
"""
ANYWHERE = "127.0.0.1:0"

Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve, model: Path) -> Start:
    """Start the predictor above with only the addresses that a test gives."""
    (model / "predictor.py").write_text(PREDICTOR)

    def start_ready(*argv: str, **how: object) -> Server:
        how = {"listen": (), **how}
        return serve(*argv, str(model), **how).wait_until_ready()

    return start_ready


def ports(server: Server, count: int) -> list[int]:
    """Return the ports that it says it serves on."""

    def found() -> list[str] | None:
        said = SERVING.findall(server.log())
        return said if len(said) >= count else None

    return [int(port) for port in eventually(found, what=f"{count} addresses in the log")]


def ask(family: socket.AddressFamily, address: tuple[str, int] | str) -> int:
    """Send a request to an address of any kind; return the status of the answer."""
    with socket.socket(family) as connected:
        connected.settimeout(TIMEOUT)
        connected.connect(address)
        client = Client(connected)
        client.post("/", b"")
        status = client.read_reply("POST").status
        client.close()
    return status


def test_every_address_is_served_and_named(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    where = ("--bind", ANYWHERE, "--bind", f"{ANYWHERE},unix:{path}")
    server = start(*where, environ={"OBWORKER_ADMIN_BIND": ANYWHERE})
    one, other = ports(server, 2)
    assert [ask(socket.AF_INET, ("127.0.0.1", port)) for port in (one, other)] == [200, 200]
    assert ask(socket.AF_UNIX, str(path)) == 200
    assert f"serving    unix:{path}" in server.log()
    admin = int(server.wait_for_log(r"admin +http://\S+?:(\d+)/")[1])
    report = json.loads(request(admin, "GET", "/healthz").body)
    assert report["address"] == f"127.0.0.1:{one},127.0.0.1:{other},unix:{path}"
    assert server.stop() == 0
    assert not path.exists()


def test_every_address_is_served_without_a_supervisor(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    script, path = model / "predictor.py", tmp_path / "socket"
    script.write_text(PREDICTOR)
    server = serve("--bind", f"{ANYWHERE},{ANYWHERE},unix:{path}", script=script, listen=())
    for port in ports(server, 2):
        assert request(port).status == 200
    assert ask(socket.AF_UNIX, str(path)) == 200
    server.signal(signal.SIGINT)
    server.wait()
    assert not path.exists()


def test_a_stop_loses_no_request_on_any_address(start: Start) -> None:
    server = start("--workers", "2", "--bind", ANYWHERE, "--bind", ANYWHERE)
    server.wait_until_ready(2)
    loads = [Load(port, 4) for port in ports(server, 2)]
    for load in loads:
        eventually(lambda load=load: len(load.results) > 100, what="answers")  # type: ignore[misc]
    server.signal(signal.SIGTERM)
    outcomes = {result.outcome for load in loads for result in load.wait()}
    assert server.wait() == 0
    assert not outcomes & {Outcome.LOST, Outcome.FAILED}


def test_a_reload_keeps_every_address(start: Start) -> None:
    server = start("--bind", f"{ANYWHERE},{ANYWHERE}")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded +generation 2")
    for port in ports(server, 2):
        assert request(port).status == 200


@pytest.mark.parametrize("mode", ["600", "666"])
def test_a_unix_socket_has_the_permissions_asked_for(
    mode: str, start: Start, tmp_path: Path
) -> None:
    path, admin = tmp_path / "socket", tmp_path / "admin"
    environ = {"OBWORKER_ADMIN_BIND": f"unix:{admin}"}
    server = start("--bind", f"unix:{path}", "--unix-mode", mode, environ=environ)
    server.wait_for_log(f"admin +unix:{admin}\n")
    found = [stat.S_IMODE(each.stat().st_mode) for each in (path, admin)]
    assert found == [int(mode, 8)] * 2
    assert ask(socket.AF_UNIX, str(path)) == 200


def needs_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


@pytest.mark.parametrize("host", ["[::1]", "[::]"])
def test_ipv6_is_served_and_a_wildcard_serves_ipv4_too(host: str, start: Start) -> None:
    needs_ipv6()
    (port,) = ports(start("--bind", f"{host}:0"), 1)
    assert ask(socket.AF_INET6, ("::1", port)) == 200
    if host == "[::]":
        assert ask(socket.AF_INET, ("127.0.0.1", port)) == 200


def test_a_descriptor_of_whoever_started_us_is_served_on_and_left(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as kept, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        passed = (kept.fileno(), bound.fileno())
        where = [f"--bind=fd:{descriptor}" for descriptor in passed]
        server = start(*where, pass_fds=passed)
        port = kept.getsockname()[1]
        assert request(port).status == 200
        assert request(bound.getsockname()[1]).status == 200
        assert server.stop() == 0
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as early:
            early.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
            again = start(*where, pass_fds=passed)
            assert early.recv(12) == b"HTTP/1.1 200"
            assert again.stop() == 0


def test_all_sockets_of_systemd_are_served(start: Start) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        passed = (one.fileno(), other.fileno())
        activate = f'LISTEN_PID=$$ LISTEN_FDS=2 exec "$@" 3<&{passed[0]} 4<&{passed[1]}'
        server = start(under=("bash", "-c", activate, "bash"), pass_fds=passed)
        expected = [each.getsockname()[1] for each in (one, other)]
        assert ports(server, 2) == expected
        assert [request(port).status for port in expected] == [200, 200]
        assert server.stop() == 0


def test_an_address_in_use_leaves_none_behind(serve: Serve, model: Path, tmp_path: Path) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    path = tmp_path / "socket"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"unix:{path},127.0.0.1:{taken.getsockname()[1]}"
        server = serve("--bind", where, str(model), listen=())
        assert server.wait() == 2
    assert re.search(r"error: cannot listen on 127.0.0.1:\d+: Address already in use", server.log())
    assert not path.exists()


def test_a_start_that_fails_leaves_no_file_of_its_own_behind(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    (model / "predictor.py").write_text(PREDICTOR)
    served, admin, control = (tmp_path / name for name in ("served", "admin", "control"))
    where = ("--admin-bind", f"unix:{admin}", "--control-socket", str(control))
    first = serve("--bind", ANYWHERE, *where[2:], str(model), listen=()).wait_until_ready()
    second = serve("--bind", f"unix:{served}", *where, str(model), listen=())
    assert second.wait() == 2
    assert "error: --control-socket: cannot listen on " in second.log()
    assert (served.exists(), admin.exists(), control.exists()) == (False, False, True)
    assert first.stop() == 0
    assert not control.exists()


def test_a_script_that_fails_leaves_no_file_behind(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    path, script = tmp_path / "socket", model / "predictor.py"
    script.write_text(PREDICTOR.replace("def predict(self)", "def __init__(self, unknown)"))
    failed = serve("--bind", f"unix:{path}", script=script, listen=())
    assert failed.wait() > 0
    assert not path.exists()
