"""New code under a running service: HUP, what comes of broken code, and who gives way to whom."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from clients import Client, Load, Outcome
from harness import Serve, Server, eventually, request

VERSION = """
import os, time
{at_import}
class Predictor:
    def __init__(self):
        {in_init}
    def predict(self):
        time.sleep(0.01)
        return {{"version": {version}, "pid": os.getpid()}}
"""

AS_IS = {"at_import": "", "in_init": "pass"}

Write = Callable[..., None]


@pytest.fixture
def write(model: Path) -> Write:
    """Write predictor.py anew, as somebody does who deploys."""

    def write_version(version: int, at_import: str = "", in_init: str = "pass") -> None:
        code = VERSION.format(version=version, at_import=at_import, in_init=in_init)
        (model / "predictor.py").write_text(code)

    write_version(1)
    return write_version


def version(server: Server) -> int:
    answer = Client(server.port, keep=False).post()
    assert answer.outcome is Outcome.ANSWERED, answer
    return int(answer.json["version"])


def generations(server: Server) -> list[str]:
    """Return the generation of every mold and worker, as their titles tell."""
    found = []
    for process in psutil.Process(server.pid).children():
        with suppress(psutil.NoSuchProcess):
            words = " ".join(process.cmdline()).split()
            found += [word for word in words[:4] if word[0] == "g" and word[1:].isdigit()]
    return sorted(found)


def reload(server: Server, generation: int) -> None:
    server.signal(signal.SIGHUP)
    server.wait_for_log(f"reloaded +generation {generation} ")


def assert_nobody_noticed(load: Load) -> None:
    bad = [r for r in load.stop() if r.outcome not in (Outcome.ANSWERED, Outcome.CLOSED)]
    assert bad == []


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("strategy", ["auto", "surge"])
def test_new_code_is_served_and_nobody_notices(
    serve: Serve, model: Path, write: Write, workers: int, strategy: str
) -> None:
    server = serve("--workers", str(workers), "--reload-strategy", strategy, str(model))
    server.wait_until_ready(workers)
    load = Load(server.port, 6)
    eventually(lambda: len(load.results) > 50)
    write(2, at_import="time.sleep(1)")
    reload(server, 2)
    assert version(server) == 2
    assert_nobody_noticed(load)
    eventually(lambda: generations(server) == ["g2"] * (workers + 1), what="that code alone")
    assert server.stop() == 0


def test_a_worker_that_is_replaced_goes_first_where_that_is_asked_for(
    serve: Serve, model: Path, write: Write
) -> None:
    server = serve("--workers", "2", "--reload-strategy", "replace", str(model))
    server.wait_until_ready(2)
    old = {process.pid for process in server.workers().values()}
    load = Load(server.port, 4)
    eventually(lambda: len(load.results) > 50)
    write(2, in_init="time.sleep(0.2)")
    most = 0
    server.signal(signal.SIGHUP)
    while "reloaded " not in server.log():
        most = max(most, len(server.workers()))
    assert most <= 2
    assert version(server) == 2
    assert_nobody_noticed(load)
    assert not old & {process.pid for process in server.workers().values()}


@pytest.mark.parametrize(
    ("at_import", "in_init", "reason"),
    [
        ("def def", "pass", "predictor.py:3: SyntaxError"),
        ("1 / 0", "pass", "ZeroDivisionError"),
        ("raise SystemExit(0)", "pass", "exit"),
        ("os._exit(0)", "pass", "exited with code 0"),
        ("os.kill(os.getpid(), 9)", "pass", "killed by SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "pass", "killed by SIGSEGV"),
        ("", "1 / 0", "ZeroDivisionError"),
        ("", "raise SystemExit(0)", "exit"),
        ("", "os._exit(0)", "exited with code 0"),
    ],
)
def test_broken_code_leaves_the_service_as_it_is(
    serve: Serve, model: Path, write: Write, at_import: str, in_init: str, reason: str
) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    before = {process.pid for process in server.workers().values()}
    load = Load(server.port, 4)
    eventually(lambda: len(load.results) > 50)
    write(2, at_import, in_init)
    server.signal(signal.SIGHUP)
    failure = server.wait_for_log("reload failed: .*; generation 1 serves on")
    assert reason in failure[0]
    assert_nobody_noticed(load)
    assert version(server) == 1
    assert {process.pid for process in server.workers().values()} == before
    eventually(lambda: generations(server) == ["g1"] * 3, what="the end of the new mold")
    write(3)
    reload(server, 3)
    assert version(server) == 3
    assert server.stop() == 0


def test_the_newest_reload_wins(serve: Serve, model: Path, write: Write) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    write(2, at_import="time.sleep(600)")
    server.signal(signal.SIGHUP)
    eventually(lambda: "g2" in generations(server), what="the import of version 2")
    write(3)
    reload(server, 3)
    assert version(server) == 3
    eventually(lambda: generations(server) == ["g3"] * 3, what="that code alone")


@pytest.mark.parametrize("where", ["at_import", "in_init"])
def test_a_stop_wins_over_a_reload(serve: Serve, model: Path, write: Write, where: str) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    write(2, **{where: "open('begun', 'w').close(); time.sleep(600)"})
    server.signal(signal.SIGHUP)
    eventually((model / "begun").exists)
    assert server.stop() == 0


def test_a_reload_while_the_first_code_still_loads_loads_the_new_one(
    serve: Serve, model: Path, write: Write
) -> None:
    write(1, at_import="open('begun', 'w').close(); time.sleep(600)")
    server = serve("--workers", "2", str(model))
    eventually((model / "begun").exists)
    write(2)
    server.signal(signal.SIGHUP)
    server.wait_until_ready(2)
    assert version(server) == 2
    eventually(lambda: generations(server) == ["g2"] * 3, what="that code alone")


def test_a_reload_that_cannot_be_during_the_start_ends_it(
    serve: Serve, model: Path, write: Write
) -> None:
    write(1, at_import="open('begun', 'w').close(); time.sleep(600)")
    server = serve(str(model))
    eventually((model / "begun").exists)
    write(2, at_import="1 / 0")
    server.signal(signal.SIGHUP)
    assert server.wait() == 4


def test_a_slot_that_crashes_in_a_loop_is_healed_by_a_reload_at_once(
    serve: Serve, model: Path, write: Write
) -> None:
    write(1, in_init="os.path.exists('poison') and os._exit(1)")
    server = serve(str(model)).wait_until_ready()
    (model / "poison").touch()
    server.workers()[0].kill()
    server.wait_for_log(r"while it booted; replacing it in [2-5]\.\d s")
    write(2)
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded +generation 2 ", within=2)
    assert version(server) == 2


def test_the_configuration_file_and_the_environment_file_are_read_again(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    code = "import os\n\n\nclass Predictor:\n    def predict(self): return os.environ['WHO']\n"
    (model / "predictor.py").write_text(code)
    (model / ".env").write_text("WHO=one\n")
    config = tmp_path / "config.toml"
    config.write_text("workers = 1\n")
    server = serve("--config", str(config), str(model)).wait_until_ready()
    assert Client(server.port, keep=False).post().text == "one"
    (model / ".env").write_text("WHO=two\n")
    config.write_text("workers = 3\n")
    reload(server, 2)
    assert Client(server.port, keep=False).post().text == "two"
    eventually(lambda: len(server.workers()) == 3)
    assert "only a restart" not in server.log()
    config.write_text("workers = 3\nadmin_bind = '127.0.0.1:0'\nunix_mode = '660'\n")
    reload(server, 3)
    server.wait_for_log("WARNING .* only a restart changes unix_mode\n")
    reload(server, 4)
    assert server.log().count("only a restart changes unix_mode\n") == 2
    config.write_text("workers = 3\n")
    reload(server, 5)
    assert server.log().count("only a restart") == 2
    config.write_text("wokers = 3\n")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed: .*'wokers'.*; generation 5 serves on")
    assert Client(server.port, keep=False).post().text == "two"


@pytest.mark.parametrize("served", ["current", "current/predictor.py"])
def test_a_reload_goes_to_where_a_link_leads_by_then(
    serve: Serve, tmp_path: Path, served: str
) -> None:
    for release in (1, 2):
        directory = tmp_path / f"release-{release}"
        directory.mkdir()
        (directory / "predictor.py").write_text(VERSION.format(version=release, **AS_IS))
        (directory / ".env").write_text(f"OBWORKER_WORKERS={release}\n")
    link, new = tmp_path / "current", tmp_path / "new"
    link.symlink_to("release-1")
    server = serve(served, cwd=tmp_path).wait_until_ready()
    new.symlink_to("release-2")
    new.rename(link)
    assert version(server) == 1
    reload(server, 2)
    assert version(server) == 2
    eventually(lambda: len(server.workers()) == 2)


def test_a_reload_by_settings_that_nothing_can_be_served_by_changes_nothing(
    serve: Serve, model: Path, write: Write, tmp_path: Path
) -> None:
    write(1)
    config = tmp_path / "config.toml"
    good = f"model = '{model}'\nworkers = 2\n"
    config.write_text(good)
    server = serve("--config", str(config)).wait_until_ready(2)
    for settings, complaint in {
        "workers = 2": "MODEL is missing: the directory to serve",
        f"model = '{model}/nowhere'": f"{model}/nowhere: no such file or directory",
        f"{good}threads = {'9' * 5000}": f"{config}: is not TOML: .*",
    }.items():
        config.write_text(settings)
        server.signal(signal.SIGHUP)
        server.wait_for_log(rf"reload failed: {complaint}; generation 1 serves on\n", within=5)
    assert "stopped" not in server.log()
    assert "Traceback" not in server.log()


def test_a_reload_goes_by_the_strategy_and_the_log_level_that_it_has_read(
    serve: Serve, model: Path, write: Write, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("reload_strategy = 'surge'\n")
    server = serve("--config", str(config), str(model)).wait_until_ready()
    write(2, in_init="self.predict = lambda: os.system('sleep 0.1 &')")
    config.write_text("reload_strategy = 'replace'\nlog_level = 'debug'\n")
    reload(server, 2)
    assert server.log().index("worker 0   stopped") < server.log().rindex("worker 0   cpu ready")
    assert server.request().status == 200
    server.wait_for_log("DEBUG .* reaped an orphan")


def standing(server: Server) -> dict[str, Any]:
    """Return what an operator sees of a server, but for times and what became of reloads."""
    port = int(server.wait_for_log(r"admin +http://127\.0\.0\.1:(\d+)/")[1])
    report = json.loads(request(port, "GET", "/healthz").body)
    slots = [{key: slot[key] for key in ("slot", "device", "pid")} for slot in report["slots"]]
    return {key: report[key] for key in ("status", "workers", "queue", "reloads")} | {
        "slots": slots
    }


@pytest.mark.parametrize(
    "changed",
    [
        *("workers = 1", "workers = 3", "workers = 3\nmin_ready = 3", "gpus = '1'"),
        *(
            "max_queue = 7",
            "log_file = '{log}'",
            "log_level = 'critical'",
            "api_key_file = '{keys}'",
        ),
        "limit_request_body = 1",
    ],
)
def test_a_reload_that_fails_changes_nothing(
    serve: Serve, model: Path, write: Write, tmp_path: Path, changed: str
) -> None:
    config, keys = tmp_path / "config.toml", tmp_path / "keys"
    keys.write_text("a-key-of-somebody\n")
    settings = "workers = 2\ngpus = '0'\n"
    config.write_text(settings)
    server = serve(
        *("--config", str(config), str(model)),
        environ={"CUDA_VISIBLE_DEVICES": "0,1", "OBWORKER_ADMIN_BIND": "127.0.0.1:0"},
    )
    server.wait_until_ready(2)
    before = standing(server)
    changes = changed.format(log=tmp_path / "log", keys=keys)
    kept = [line for line in settings.splitlines() if line.partition(" ")[0] not in changes]
    config.write_text("\n".join([*kept, changes]))
    write(2, in_init="1 / 0")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed: ")
    eventually(lambda: generations(server) == ["g1"] * 3, 5, "the old code alone")
    assert standing(server) == before
    assert Client(server.port, keep=False).post(body=b"{}").json["version"] == 1


def test_new_code_that_came_while_there_was_no_worker_has_to_be_tried_like_any_other(
    serve: Serve, model: Path, write: Write
) -> None:
    """It was in charge at once, and ended the service when it did not work."""
    server = serve(str(model)).wait_until_ready()
    (model / "importing").touch()
    write(2, at_import="while os.path.exists('importing'): time.sleep(0.02)", in_init="1 / 0")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloading: ")
    server.signal(signal.SIGWINCH)
    eventually(lambda: not server.workers())
    (model / "importing").unlink()
    eventually(lambda: len(server.log().split("imported ")) == 3, what="the import of the new code")
    server.signal(signal.SIGTTIN)
    server.wait_for_log("reload failed: .*ZeroDivisionError.*; generation 1 serves on")
    assert version(server) == 1


@pytest.mark.parametrize("size", [1, 3])
def test_a_reload_to_another_number_of_workers_has_it_when_it_is_over(
    serve: Serve, model: Path, write: Write, tmp_path: Path, size: int
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("workers = 2\n")
    server = serve("--config", str(config), str(model)).wait_until_ready(2)
    before = server.workers()
    go_on = tmp_path / "go-on"
    config.write_text(f"workers = {size}\n")
    write(2, at_import=f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)")
    server.signal(signal.SIGHUP)
    eventually(lambda: "g2" in generations(server), what="the import of version 2")
    eventually(lambda: server.request("GET", "/readyz").status == 200)
    assert server.workers() == before
    go_on.touch()
    server.wait_for_log("reloaded +generation 2 ")
    assert len(server.workers()) == size
    assert server.stop() == 0


def test_a_reload_that_fails_leaves_a_scaling_that_came_meanwhile(
    serve: Serve, model: Path, write: Write, tmp_path: Path
) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    server.signal(signal.SIGTTOU)
    eventually(lambda: sorted(server.workers()) == [0], what="one worker fewer")
    go_on = tmp_path / "go-on"
    write(2, at_import=f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n1 / 0")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloading: ")
    server.signal(signal.SIGTTIN)
    eventually(lambda: sorted(server.workers()) == [0, 1], what="one worker more")
    go_on.touch()
    server.wait_for_log("reload failed: ")
    write(3)
    reload(server, 3)
    assert sorted(server.workers()) == [0, 1]


def kill_mold(server: Server) -> None:
    for process in psutil.Process(server.pid).children():
        with suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith("obworker: mold "):
                process.kill()


def test_a_mold_that_died_is_made_again_and_the_workers_stay(
    serve: Serve, model: Path, write: Write
) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    before = {process.pid for process in server.workers().values()}
    kill_mold(server)
    eventually(lambda: server.log().count("imported ") == 2)
    server.workers()[1].kill()
    server.wait_until_ready(3)
    after = {process.pid for process in server.workers().values()}
    assert len(before & after) == 1
    assert "reloaded" not in server.log()


@pytest.mark.parametrize("way", [(), ("--preload", "off")], ids=["forked", "by-itself"])
def test_a_link_is_followed_anew_by_a_reload_and_not_before(
    serve: Serve, tmp_path: Path, way: tuple[str, ...]
) -> None:
    for number in (1, 2):
        directory = tmp_path / f"model-{number}"
        directory.mkdir()
        (directory / "weights").write_text(str(number))
        (directory / "predictor.py").write_text(
            "class Predictor:\n    def predict(self): return open('weights').read()\n"
        )
    link = tmp_path / "current"
    link.symlink_to("model-1")
    server = serve(*way, "./current", cwd=tmp_path).wait_until_ready()
    for generation, number in ((2, 2), (3, 1)):
        before = server.request().body
        link.unlink()
        link.symlink_to(f"model-{number}")
        assert server.request().body == before
        reload(server, generation)
        assert server.request().body == str(number).encode()


def test_code_that_has_changed_when_the_mold_died_is_rolled_out_and_never_mixed(
    serve: Serve, model: Path, write: Write
) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    write(2)
    kill_mold(server)
    server.wait_for_log("reloaded +generation 2 ")
    assert "the code has changed since it was loaded" in server.log()
    assert {version(server) for _ in range(10)} == {2}


def test_broken_code_that_lies_there_when_the_mold_dies_is_tried_and_not_served(
    serve: Serve, model: Path, write: Write
) -> None:
    server = serve("--workers", "2", str(model)).wait_until_ready(2)
    write(2, in_init="1 / 0")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed: .*; generation 1 serves on")
    kill_mold(server)
    eventually(lambda: server.log().count("reload failed: ") == 2, what="a second try")
    assert {version(server) for _ in range(10)} == {1}
    write(3)
    eventually(lambda: version(server) == 3, 40, "good code")
    assert server.log().count("reload failed: ") < 8


def test_a_mold_that_dies_in_the_middle_of_a_rollout_does_not_end_it(
    serve: Serve, model: Path, write: Write
) -> None:
    server = serve("--workers", "3", str(model)).wait_until_ready(3)
    write(2, in_init="time.sleep(0.3)")
    server.signal(signal.SIGHUP)
    server.wait_until_ready(4)
    kill_mold(server)
    server.wait_for_log("reloaded +generation ")
    assert {version(server) for _ in range(10)} == {2}
    assert "g1" not in generations(server)


def test_a_reload_whose_surroundings_are_gone_has_failed(
    serve: Serve, model: Path, write: Write, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    model.rename(release)
    server = serve(".", cwd=release).wait_until_ready()
    port = server.port
    for path in release.iterdir():
        path.unlink()
    release.rmdir()
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed: .*; generation 1 serves on")
    assert Client(port, keep=False).post().outcome is Outcome.ANSWERED


def test_a_rotation_while_code_is_loaded_ends_nothing(
    serve: Serve, model: Path, write: Write
) -> None:
    server = serve("--workers", "2", str(model))
    eventually(lambda: "g1" in generations(server), what="a mold")
    for _ in range(50):
        server.signal(signal.SIGUSR1)
    server.wait_until_ready(2)
    server.signal(signal.SIGHUP)
    eventually(lambda: "g2" in generations(server), what="a new mold")
    for _ in range(50):
        server.signal(signal.SIGUSR1)
    server.wait_for_log("reloaded +generation 2 ")


@pytest.mark.parametrize("preload", ["on", "off"])
def test_an_import_that_hangs_shows_where(
    serve: Serve, model: Path, write: Write, preload: str
) -> None:
    write(1, at_import="time.sleep(600)")
    limits = ("--load-timeout", "2", "--boot-timeout", "2")
    server = serve("--preload", preload, *limits, str(model))
    server.wait_for_log(r'predictor\.py", line 3 in <module>')
    server.signal(signal.SIGINT)
    server.wait()


@pytest.mark.parametrize("preload", ["off", "auto"])
def test_workers_import_by_themselves_where_a_fork_would_not_be_safe(
    serve: Serve, model: Path, write: Write, preload: str
) -> None:
    thread = (
        "import threading; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    )
    write(1, at_import=thread + "\nopen(f'import-{os.getpid()}', 'w').close()")
    server = serve("--workers", "2", "--preload", preload, str(model)).wait_until_ready(2)
    workers = {process.pid for process in server.workers().values()}
    imports = {int(path.name.split("-")[1]) for path in model.glob("import-*")}
    assert workers <= imports
    eventually(lambda: generations(server) == ["g1"] * 2, what="that code alone")
    assert {process.ppid() for process in server.workers().values()} == {server.pid}
    server.workers()[0].kill()
    server.wait_until_ready(3)
    write(2, at_import=thread)
    reload(server, 2)
    assert version(server) == 2
    write(3, at_import="1 / 0")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed: .*ZeroDivisionError.*; generation 2 serves on")
    assert version(server) == 2
    assert server.stop() == 0


@pytest.mark.parametrize(("at_import", "in_init", "code"), [("1 / 0", "pass", 4), ("", "1 / 0", 3)])
def test_a_start_without_a_mold_fails_with_the_same_codes(
    serve: Serve, model: Path, write: Write, at_import: str, in_init: str, code: int
) -> None:
    write(1, at_import, in_init)
    server = serve("--preload", "off", str(model))
    assert server.wait() == code
    assert "ZeroDivisionError" in server.log().splitlines()[-1]
