"""The kinds of servers, each with its own options, files and way of reloading."""

from __future__ import annotations

import importlib.metadata
import re
import signal
import subprocess
import sys
from pathlib import Path

from scorecards import models
from scorecards.models import Model
from scorecards.servers import Ended, Options, Server, Verdict
from scorecards.waiting import Late

RELOAD_SECONDS = 60.0
SETTLE_SECONDS = 8.0


class Obworker(Server):
    """obworker of this checkout."""

    name = "obworker"
    listening = re.compile(r"serving +http://\S+?:(\d+)/")

    @classmethod
    def version(cls) -> str:
        """Return its name and version."""
        return f"obworker {importlib.metadata.version('obworker')}"

    @classmethod
    def deploy(cls, model: Model, directory: Path) -> None:
        """Put predictor.py in place."""
        models.write(directory, "predictor.py", model.source())

    @classmethod
    def deploy_script(cls, text: str, directory: Path) -> None:
        """Put start.sh in place."""
        models.write(directory, "start.sh", text)

    def command(self) -> list[str]:
        """Return the module to run and its arguments."""
        options = self.options
        return [
            *("obworker", "--host", "127.0.0.1", "--port", "0", "--gpus", "none"),
            *("--workers", str(options.workers), "--no-access-log"),
            *("--admin-bind", "127.0.0.1:0" if options.admin else "off"),
            *("--control-socket", str(self._control_socket)),
            *_arguments(options),
            str(self.model_directory(self.directory)),
        ]

    @property
    def _control_socket(self) -> Path:
        return self.directory / "control"

    @property
    def admin_port(self) -> int:
        """The port that it logs for its admin process."""
        return int(self.wait_for_log(r"admin +http://\S+?:(\d+)/")[1])

    def reload(self) -> Verdict:
        """Run `obworker reload --wait`."""
        try:
            ended = self.order("reload", "--wait", within=RELOAD_SECONDS)
        except subprocess.TimeoutExpired:
            raise Late(f"reload --wait: not within {RELOAD_SECONDS:g} s") from None
        return Verdict(ended.returncode, ended.stderr.strip())

    def order(self, *words: str, within: float) -> subprocess.CompletedProcess[str]:
        """Run one of obworker's commands."""
        return subprocess.run(
            [sys.executable, "-m", "obworker", *words, "--control-socket", self._control_socket],
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )


class Gunicorn(Server):
    """gunicorn with its default kind of worker."""

    name = "gunicorn"
    worker_class = "sync"
    listening = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")

    @classmethod
    def version(cls) -> str:
        """Return its name, version and kind of worker."""
        return f"gunicorn {importlib.metadata.version('gunicorn')}, {cls.worker_class}"

    @classmethod
    def deploy(cls, model: Model, directory: Path) -> None:
        """Put predictor.py in place, with the WSGI callable."""
        models.write(directory, "predictor.py", model.source() + models.WSGI_ADAPTER)

    def command(self) -> list[str]:
        """Return the module to run and its arguments."""
        options = self.options
        jitter = (options.max_requests or 0) // 10
        return [
            *("gunicorn", "--bind", "127.0.0.1:0", "--workers", str(options.workers)),
            *("--worker-class", self.worker_class, "--no-control-socket"),
            *_arguments(options),
            *("--max-requests-jitter", f"{jitter}", "predictor:application"),
        ]

    def reload(self) -> Verdict:
        """Send HUP, and wait until all workers are new, the server ends, or the time is up."""
        known = len(self.noted("ready"))
        self.signal(signal.SIGHUP)
        try:
            self.wait_for_more("ready", known, self.options.workers, SETTLE_SECONDS)
        except (Ended, Late) as outcome:
            return Verdict(None, str(outcome))
        return Verdict(None)


class GunicornThreads(Gunicorn):
    """gunicorn with its threaded worker, which keeps connections."""

    name = "gunicorn-gthread"
    worker_class = "gthread"


KINDS: dict[str, type[Server]] = {kind.name: kind for kind in (Obworker, Gunicorn, GunicornThreads)}


def _arguments(options: Options) -> list[str]:
    """Return the given options that all kinds of servers call by the same names."""
    given = {
        "--timeout": options.timeout,
        "--graceful-timeout": options.graceful_timeout,
        "--max-requests": options.max_requests,
    }
    return [
        word for flag, value in given.items() if value is not None for word in (flag, f"{value:g}")
    ]
