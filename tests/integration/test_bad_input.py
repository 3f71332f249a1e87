"""Whatever is wrong with what obworker is given ends in one line and an exit code."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from harness import MARK, ROOT, command, eventually

PRIVILEGED_FROM = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 1, 2, 10

GOOD = "class Predictor:\n    def predict(self, json): return json\n"
NEEDS_ONNX = (
    "class Predictor:\n"
    "    def __init__(self, onnx): pass\n"
    "    def predict(self, json): return json\n"
)
PRELOADS = (
    "import sys\n"
    "class Predictor:\n"
    "    @classmethod\n"
    "    def preload(cls): {}\n"
    "    def __init__(self, preloaded): pass\n"
    "    def predict(self, json): return json\n"
)
# What Python 3.11 and 3.12 cannot show: they look for __notes__.
ODD = """
class Odd(Exception):
    def __getattr__(self, name): raise KeyError(name)
"""
ERROR = "obworker: error: "
# Of a traceback; the stacks that faulthandler writes, without a comma, are whole.
OUR_TRACEBACK = re.compile(rf'File "{re.escape(str(ROOT))}/obworker[^"]*", line \d+, in')
USAGE, BOOT, LOAD = 2, 3, 4


@dataclass(frozen=True)
class Case:
    """A mistake, and the line and the hint it must lead to, as patterns."""

    code: int
    error: str
    hint: str | None = None
    predictor: str | None = GOOD
    files: Mapping[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    model: str | None = "{model}"
    before: str = ""


@dataclass(frozen=True)
class Ended:
    """What a run that ended by itself left behind."""

    code: int
    output: str
    errors: list[str]
    seconds: float


@pytest.fixture
def run() -> Iterator[Callable[..., Ended]]:
    """Run obworker until it ends; nothing that it started may be left."""
    mark = uuid.uuid4().hex

    def run_to_end(
        *argv: str, environ: Mapping[str, str] | None = None, drop: Callable[[], None] | None = None
    ) -> Ended:
        began = time.monotonic()
        ended = subprocess.run(
            command(*argv),
            env={**os.environ, **(environ or {}), MARK: mark},
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=30,
            check=False,
            preexec_fn=drop,
        )
        seconds = time.monotonic() - began
        eventually(lambda: not marked(mark), 2, "end of all processes")
        output = ended.stdout + ended.stderr
        assert not OUR_TRACEBACK.search(output), output
        return Ended(ended.returncode, output, ended.stderr.splitlines(), seconds)

    yield run_to_end
    for pid in marked(mark):
        psutil.Process(pid).kill()


def marked(mark: str) -> list[int]:
    return [process.pid for process in psutil.process_iter() if is_marked(process, mark)]


def is_marked(process: psutil.Process, mark: str) -> bool:
    try:
        environ = Path(f"/proc/{process.pid}/environ").read_bytes()
        return mark.encode() in environ and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def check(ended: Ended, code: int, error: str, hint: str | None) -> None:
    lines = ended.errors
    expected = [ERROR + error] if hint is None else [ERROR + error, "hint: " + hint]
    assert len(lines) >= len(expected), ended.output
    for line, pattern in zip(lines[-len(expected) :], expected, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}\n{ended.output}"
    assert sum(line.startswith(ERROR) for line in lines) == 1, ended.output
    assert ended.code == code, ended.output
    assert ended.seconds < 20


def predicts(init: str = "pass", top: str = "", parameters: str = "self") -> str:
    return (
        f"import os, signal, sys\n{top}\nclass Predictor:\n"
        f"    def __init__({parameters}): {init}\n    def predict(self): return 1\n"
    )


LOADING = {
    "a command that is misspelled": Case(
        USAGE,
        r"statsu: there is no such file or directory",
        r"did you mean the command obworker status\?",
        model="statsu",
    ),
    "missing directory": Case(
        USAGE, r"\S+/nowhere: there is no such file or directory", model="{model}/nowhere"
    ),
    "name too long": Case(LOAD, r"a{300}: File name too long", model="a" * 300),
    "empty directory": Case(LOAD, r"\S+/model: no predictor\.py; there is nothing", predictor=None),
    "no predictor.py but another script": Case(
        LOAD,
        r"\S+/model: no predictor\.py; there is README\.md, serve\.py",
        r"name the file itself: obworker \S+/model/serve\.py",
        predictor=None,
        files={"serve.py": GOOD, "README.md": ""},
    ),
    "a file that is no script": Case(
        LOAD,
        r"\S+/data\.txt is neither a directory nor a \.py file",
        files={"data.txt": ""},
        model="{model}/data.txt",
    ),
    "syntax error": Case(
        LOAD, r"predictor\.py:3: SyntaxError: .+", predictor="import os\n\ndef broken(:\n    pass\n"
    ),
    "indentation": Case(
        LOAD, r"predictor\.py:2: IndentationError: .+", predictor="if True:\nx = 1\n"
    ),
    "null byte": Case(LOAD, r"predictor\.py.*: (SyntaxError|ValueError): .+", predictor="x = '\0'"),
    "bytes that are not UTF-8": Case(
        LOAD, r"predictor\.py.*: (SyntaxError|UnicodeDecodeError): .+", predictor="x = '\udcff'"
    ),
    "missing module": Case(
        LOAD,
        r"predictor\.py:2: ModuleNotFoundError: No module named 'no_such_module'",
        r"pip install no_such_module, or add no_such_module to requirements\.txt .*",
        predictor="import os\nimport no_such_module.part\n",
    ),
    "missing module of a helper": Case(
        LOAD,
        r"helper\.py:1: ModuleNotFoundError: No module named 'cv3'",
        r"pip install cv3, .*",
        predictor="import helper\n" + GOOD,
        files={"helper.py": "import cv3\n"},
    ),
    "missing name": Case(
        LOAD,
        r"predictor\.py:1: ImportError: cannot import name 'nothing' from 'os'.*",
        predictor="from os import nothing\n",
    ),
    "exception": Case(
        LOAD,
        r"predictor\.py:2: RuntimeError: no weights here",
        predictor="def load():\n    raise RuntimeError('no weights here\\nsecond line')\nload()\n",
    ),
    "exception of many characters": Case(
        LOAD, r"predictor\.py:1: ValueError: 数{300}…", predictor="raise ValueError('数' * 100_000)"
    ),
    "exception without words": Case(
        LOAD, r"predictor\.py:1: ValueError", predictor="raise ValueError"
    ),
    "exception with a surrogate": Case(
        LOAD, r"predictor\.py:1: ValueError: .+", predictor="raise ValueError(chr(0xdcff))"
    ),
    "exception group of its own kind": Case(
        LOAD,
        r"predictor\.py:2: Stop: because",
        predictor="class Stop(BaseException): pass\nraise Stop('because')\n",
    ),
    "interrupt": Case(
        LOAD, r"(predictor\.py:1: )?KeyboardInterrupt:?.*", predictor="raise KeyboardInterrupt\n"
    ),
    "sys.exit(0)": Case(
        LOAD,
        r"predictor\.py:2: called sys\.exit\(0\) while being imported",
        predictor="import sys\nsys.exit(0)\n",
    ),
    "sys.exit with a text": Case(
        LOAD,
        r"predictor\.py:2: called sys\.exit\('no GPU'\) while being imported",
        predictor="import sys\nsys.exit('no GPU')\n",
    ),
    "os._exit(0)": Case(
        LOAD,
        r"\S+: the process that imports it exited with code 0",
        predictor="import os\nos._exit(0)\n",
    ),
    "segfault": Case(
        LOAD,
        r"\S+: the process that imports it was killed by SIGSEGV",
        predictor="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
        before=r'predictor\.py", line 2 in <module>',
    ),
    "killed": Case(
        LOAD,
        r"\S+: the process that imports it was killed by SIGKILL",
        predictor="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    ),
    "import that hangs": Case(
        LOAD,
        r"\S+: the process that imports it took longer than 2 s, see --load-timeout, and was"
        r" killed by SIGKILL",
        predictor="import time\ntime.sleep(600)\n",
        argv=("--load-timeout", "2"),
        before=r'predictor\.py", line 2 in <module>',
    ),
    "no class": Case(
        LOAD,
        r"predictor\.py: no class with a predict method; it defines nothing",
        predictor="x = 1\n",
    ),
    "no class with predict": Case(
        LOAD,
        r"predictor\.py: no class with a predict method; it defines Model",
        predictor="class Model:\n    def forward(self): pass\n",
    ),
    "two classes": Case(
        LOAD,
        r"predictor\.py: several classes have predict: One, Two",
        r"choose with --class NAME, or call one of them Predictor",
        predictor=GOOD.replace("Predictor", "One") + GOOD.replace("Predictor", "Two"),
    ),
    "a class that is not there": Case(
        LOAD,
        r"predictor\.py: no class 'Predicter' \(did you mean 'Predictor'\?\); there is Predictor",
        argv=("--class", "Predicter"),
    ),
    "no predict in Predictor": Case(
        LOAD,
        r"predictor\.py: .*predict.*|.*has no predict method",
        predictor="class Predictor: pass\n",
    ),
    "async run": Case(
        LOAD,
        r"Predictor\.run is async def; it must be a plain function: .*",
        predictor="class Predictor:\n    def predict(self): pass\n    async def run(self): pass\n",
    ),
    "unknown parameter of __init__": Case(
        LOAD,
        r"Predictor\.__init__: unknown parameter 'onx' \(did you mean 'onnx'\?\);"
        r" known are onnx, config",
        predictor=predicts(parameters="self, onx"),
    ),
    "unknown parameter of predict": Case(
        LOAD,
        r"Predictor\.predict: unknown parameter 'jsn' \(did you mean 'json'\?\);"
        r" known are json, payload, data, params, args, headers, request",
        predictor=GOOD.replace("self, json", "self, jsn"),
    ),
    "a parameter of predict in __init__": Case(
        LOAD,
        r"Predictor\.__init__: unknown parameter 'json'; json is for predict; known are .*",
        predictor=predicts(parameters="self, json"),
    ),
    "no onnx file": Case(
        LOAD,
        r"\S+/model: no \.onnx file for the parameter onnx; there is predictor\.py",
        predictor=NEEDS_ONNX,
    ),
    "two onnx files": Case(
        LOAD,
        r"\S+/model: several \.onnx files: a\.onnx, b\.onnx",
        r"choose one: --model-path a\.onnx",
        predictor=NEEDS_ONNX,
        files={"a.onnx": "", "b.onnx": ""},
    ),
    "preloaded without a preload": Case(
        LOAD,
        r"Predictor\.__init__: preloaded is what preload\(\) returns, and there is none: .*",
        predictor=PRELOADS.format("pass").replace("classmethod", "property"),
    ),
    "a coroutine as preload": Case(
        LOAD,
        r"Predictor\.preload is async def; it must be a plain function: @classmethod .*",
        predictor=PRELOADS.format("pass").replace("def preload", "async def preload"),
    ),
    "a model path that is not there": Case(
        USAGE,
        r"--model-path c\.onnx: no such file or directory",
        predictor=NEEDS_ONNX,
        files={"a.onnx": ""},
        argv=("--model-path", "c.onnx"),
    ),
    "an exception that cannot be shown": Case(
        LOAD,
        r"predictor\.py:4: Odd: seen",
        predictor=ODD + "raise Odd('seen')",
        before=r"raise Odd\('seen'\)",
    ),
    "a model path that is too long": Case(
        LOAD, r"a{300}: File name too long", argv=("--model-path", "a" * 300)
    ),
    "a model path that is not there, and nobody asks for": Case(
        USAGE,
        r"--model-path c\.onnx: no such file or directory",
        argv=("--model-path", "c.onnx"),
    ),
    "a model path that is not there, beside a start.sh": Case(
        USAGE,
        r"--model-path c\.onnx: no such file or directory",
        files={"start.sh": "exec sleep 60"},
        argv=("--model-path", "c.onnx"),
    ),
}

BOOTING = {
    "an exception in __init__ that cannot be shown": Case(
        BOOT,
        r"predictor\.py:5: Predictor\.__init__ raised Odd: seen",
        predictor=ODD + "class Predictor:\n"
        "    def __init__(self): raise Odd('seen')\n"
        "    def predict(self): pass\n",
        before=r"raise Odd\('seen'\)",
    ),
    "exception in __init__": Case(
        BOOT,
        r"predictor\.py:4: Predictor\.__init__ raised ZeroDivisionError: division by zero",
        predictor=predicts("1 / 0"),
        before="Traceback",
    ),
    "exception of many characters in __init__": Case(
        BOOT,
        r"predictor\.py:2: Predictor\.__init__ raised ValueError: 数{300}…",
        predictor=predicts("raise_()", "def raise_(): raise ValueError('数' * 100_000)"),
    ),
    "exception of many lines in __init__": Case(
        BOOT,
        r"predictor\.py:2: Predictor\.__init__ raised ValueError: \"quoted\"",
        predictor=predicts(
            "raise_()", "def raise_(): raise ValueError('\"quoted\"' + '\\n' * 100_000)"
        ),
    ),
    "sys.exit(0) in __init__": Case(
        BOOT,
        r"predictor\.py:4: Predictor\.__init__ called sys\.exit\(0\)",
        predictor=predicts("sys.exit(0)"),
    ),
    "interrupt in __init__": Case(
        BOOT,
        r".*(KeyboardInterrupt|exited with code \d+).*",
        predictor=predicts("raise KeyboardInterrupt"),
    ),
    "os._exit(0) in __init__": Case(
        BOOT,
        r"no worker became ready: the last one exited with code 0 while it booted",
        predictor=predicts("os._exit(0)"),
        before=r"exited with code 0 while it booted; replacing it in",
    ),
    "killed in __init__": Case(
        BOOT,
        r"no worker became ready: the last one was killed by SIGKILL while it booted",
        predictor=predicts("os.kill(os.getpid(), signal.SIGKILL)"),
    ),
    "exception in preload": Case(
        BOOT,
        r"predictor\.py:4: Predictor\.preload raised ZeroDivisionError: division by zero",
        predictor=PRELOADS.format("1 / 0"),
        before=r"Traceback .*\n  File \"\S+predictor\.py\", line 4, in preload",
    ),
    "sys.exit(0) in preload": Case(
        BOOT,
        r"predictor\.py:4: Predictor\.preload called sys\.exit\(0\)",
        predictor=PRELOADS.format("sys.exit(0)"),
    ),
    "exception in a preload of each worker's own": Case(
        BOOT,
        r"predictor\.py:4: Predictor\.preload raised ZeroDivisionError: division by zero",
        predictor=PRELOADS.format("1 / 0"),
        argv=("--preload", "off"),
    ),
    "corrupt onnx file": Case(
        BOOT,
        r"a\.onnx cannot be loaded: \w+: .+",
        predictor=NEEDS_ONNX,
        files={"a.onnx": "not a model"},
    ),
    "empty onnx file": Case(
        BOOT, r"a\.onnx cannot be loaded: \w+: .+", predictor=NEEDS_ONNX, files={"a.onnx": ""}
    ),
}
SECONDS_TEXT = r"is not a number of seconds"
OPTIONS = {
    "no model": Case(
        USAGE, r"MODEL is missing: the directory to serve", r"obworker --help", model=None
    ),
    "two models": Case(
        USAGE, r"Got unexpected extra argument \(\S+/model\)", r"obworker --help", argv=("more",)
    ),
    "unknown option": Case(
        USAGE, r"No such option.*--worker.*--workers.*", r"obworker --help", argv=("--worker", "2")
    ),
    "option without its value": Case(
        USAGE,
        r"Option '--workers' requires an argument\.",
        r"obworker --help",
        argv=("--workers",),
        model=None,
    ),
    "whole number": Case(
        USAGE, r"--workers: 'two' is not a whole number from 1 to 1024", argv=("--workers", "two")
    ),
    "whole number below": Case(
        USAGE, r"--workers: '0' is not a whole number from 1 to 1024", argv=("--workers", "0")
    ),
    "whole number in other digits": Case(
        USAGE, r"--workers: '٢' is not a whole number from 1 to 1024", argv=("--workers", "٢")
    ),
    "port": Case(
        USAGE, r"--port: '65536' is not a whole number from 0 to 65535", argv=("--port", "65536")
    ),
    "whole number above": Case(
        USAGE,
        r"--backlog: '9999999999' is not a whole number from 1 to 2147483647",
        argv=("--backlog", "9999999999"),
    ),
    "seconds": Case(
        USAGE, r"--timeout: '5s' is not a number of seconds, 0 for off", argv=("--timeout", "5s")
    ),
    "seconds above 0": Case(
        USAGE,
        r"--graceful-timeout: '0' is not a number of seconds above 0",
        argv=("--graceful-timeout", "0"),
    ),
    "infinite seconds": Case(
        USAGE, r"--timeout: 'inf' is not a number of seconds, 0 for off", argv=("--timeout", "inf")
    ),
    "size": Case(
        USAGE,
        r"--limit-request-body: '1TB' is not a size above 0 such as 8190, 64KiB or 100MiB",
        argv=("--limit-request-body", "1TB"),
    ),
    "choice": Case(
        USAGE,
        r"--log-level: 'warn' is not one of debug, info, warning, error"
        r" \(did you mean 'warning'\?\)",
        argv=("--log-level", "warn"),
    ),
    "address": Case(
        USAGE,
        r"--bind: 'here' is not HOST:PORT, \[IPV6\]:PORT or unix:PATH",
        argv=("--bind", "here"),
    ),
    "empty text": Case(USAGE, r"--class: is empty", argv=("--class", "")),
    "bind and port": Case(
        USAGE,
        r"--bind and --port both say where to listen",
        r"give the one or the other",
        argv=("--bind", "127.0.0.1:0", "--port", "0"),
    ),
    "environment": Case(
        USAGE,
        r"OBWORKER_WORKERS: 'many' is not a whole number from 1 to 1024",
        environ={"OBWORKER_WORKERS": "many"},
    ),
    "flag in the environment": Case(
        USAGE,
        r"OBWORKER_ACCESS_LOG: 'maybe' is not true or false",
        environ={"OBWORKER_ACCESS_LOG": "maybe"},
    ),
    "config file in the environment": Case(
        USAGE,
        r"--config: cannot read /nowhere\.toml: No such file or directory",
        environ={"OBWORKER_CONFIG": "/nowhere.toml"},
    ),
    "no name of a config file": Case(USAGE, r"--config: is empty", argv=("--config", "")),
    "no config file": Case(
        USAGE,
        r"--config: cannot read \S+/no\.toml: No such file or directory",
        argv=("--config", "{model}/no.toml"),
    ),
    "config file is a directory": Case(
        USAGE, r"--config: cannot read \S+: Is a directory", argv=("--config", "{model}")
    ),
    "config file is no TOML": Case(
        USAGE,
        r"\S+/c\.toml: is not TOML: .+",
        files={"c.toml": "workers: 2\n"},
        argv=("--config", "{model}/c.toml"),
    ),
    "config file is no text": Case(
        USAGE,
        r"\S+/c\.toml: is not TOML: .+",
        files={"c.toml": "\udcff"},
        argv=("--config", "{model}/c.toml"),
    ),
    "unknown key": Case(
        USAGE,
        r"\S+/c\.toml: unknown key 'worker' \(did you mean 'workers'\?\); known keys: model, .*",
        files={"c.toml": "worker = 2\n"},
        argv=("--config", "{model}/c.toml"),
    ),
    "table in the config file": Case(
        USAGE,
        r"\S+/c\.toml: (unknown key 'server'|server: a value is).*",
        files={"c.toml": "[server]\nport = 1\n"},
        argv=("--config", "{model}/c.toml"),
    ),
    "table for a key": Case(
        USAGE,
        r"\S+/c\.toml: workers: a value is text, a number, true, false or a list of them",
        files={"c.toml": "workers = {a = 1}\n"},
        argv=("--config", "{model}/c.toml"),
    ),
    "wrong type in the config file": Case(
        USAGE,
        r"\S+/c\.toml: workers: 'true' is not a whole number from 1 to 1024",
        files={"c.toml": "workers = true\n"},
        argv=("--config", "{model}/c.toml"),
    ),
    "fraction in the config file": Case(
        USAGE,
        r"\S+/c\.toml: workers: '1\.5' is not a whole number from 1 to 1024",
        files={"c.toml": "workers = 1.5\n"},
        argv=("--config", "{model}/c.toml"),
    ),
    "list in the config file": Case(
        USAGE,
        r"\S+/c\.toml: workers: '1,2' is not a whole number from 1 to 1024",
        files={"c.toml": "workers = [1, 2]\n"},
        argv=("--config", "{model}/c.toml"),
    ),
    "the same key twice in two spellings": Case(
        USAGE,
        r"\S+/c\.toml: .*log.level.*",
        files={"c.toml": "log-level = 'info'\nlog_level = 'debug'\n"},
        argv=("--config", "{model}/c.toml"),
    ),
    "host that is no host": Case(
        USAGE, r"cannot listen on a\.\.b:\d+: 'a\.\.b' is no host", argv=("--bind", "a..b:1")
    ),
    "socket file with a name too long": Case(
        USAGE,
        r"cannot listen on unix:\S+: AF_UNIX path too long",
        argv=("--bind", "unix:/tmp/" + "x" * 120),
    ),
    "start.sh with a socket file": Case(
        USAGE,
        r"--bind: 'unix:/tmp/s': a start\.sh can only be told a port",
        files={"start.sh": "exit 0\n"},
        argv=("--bind", "unix:/tmp/s"),
    ),
    "start.sh with two ports": Case(
        USAGE,
        r"--bind: '0\.0\.0\.0:1,0\.0\.0\.0:2': a start\.sh can only be told a port",
        files={"start.sh": "exit 0\n"},
        argv=("--bind", "0.0.0.0:1", "--bind", "0.0.0.0:2"),
    ),
    "start.sh with a descriptor": Case(
        USAGE,
        r"--bind: 'fd:3': a start\.sh can only be told a port",
        files={"start.sh": "exit 0\n"},
        argv=("--bind", "fd:3"),
    ),
    "start.sh with a certificate": Case(
        USAGE,
        r"--certfile: a start\.sh listens by itself, and has to speak TLS by itself",
        files={"start.sh": "exit 0\n"},
        argv=("--certfile", "/c"),
    ),
    "descriptor that nobody passed": Case(
        USAGE,
        r"--bind fd:77: Bad file descriptor",
        r"the program that starts obworker must pass a socket that is bound or listens",
        argv=("--bind", "fd:77"),
    ),
    "certificate that is not there": Case(
        USAGE,
        r"--certfile: cannot read /nowhere/cert\.pem: No such file or directory",
        argv=("--certfile", "/nowhere/cert.pem"),
    ),
    "key without a certificate": Case(
        USAGE, r"--keyfile: there is no --certfile", "it is for TLS", argv=("--keyfile", "/k")
    ),
    "no process to fork a worker": Case(
        BOOT,
        r"no worker became ready: the last one ended while it was forked",
        predictor="import os\nos.register_at_fork(after_in_child=lambda: os._exit(7))\n" + GOOD,
    ),
    "port of the platform": Case(
        USAGE,
        r"OPENBAYES_SERVING_PORT: 'http' is not a port from 0 to 65535",
        environ={"OPENBAYES_SERVING_PORT": "http", "OPENBAYES_SERVING_PRODUCTION": ""},
    ),
    "a value that no line may hold": Case(
        USAGE,
        r"--workers: '1\\n2' is not a whole number from 1 to 1024",
        argv=("--workers", "1\n2"),
    ),
    "script port": Case(
        USAGE,
        r"PORT: '99999' is not a port from 1 to 65535",
        files={"start.sh": "exit 0\n"},
        environ={"PORT": "99999"},
    ),
}
LISTEN = ("--host", "127.0.0.1", "--port", "0")
SAYS_WHERE = {
    "bind and port",
    "port",
    "address",
    "port of the platform",
    "script port",
    "host that is no host",
    "socket file with a name too long",
    "start.sh with a socket file",
    "start.sh with two ports",
    "start.sh with a descriptor",
    "descriptor that nobody passed",
}
CASES = {**LOADING, **BOOTING, **OPTIONS}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_and_an_exit_code(
    name: str, model: Path, run: Callable[..., Ended]
) -> None:
    case = CASES[name]
    files = dict(case.files)
    if case.predictor is not None:
        files["predictor.py"] = case.predictor
    for file, text in files.items():
        (model / file).write_text(text, encoding="utf-8", errors="surrogateescape")
    places = [text.replace("{model}", str(model)) for text in case.argv]
    listen = () if name in SAYS_WHERE else LISTEN
    target = [] if case.model is None else [case.model.replace("{model}", str(model))]
    ended = run(*listen, *places, *target, environ=case.environ)
    check(ended, case.code, case.error, case.hint)
    if case.before:
        assert re.search(case.before, ended.output), ended.output


def test_an_unknown_variable_is_warned_of(run: Callable[..., Ended]) -> None:
    ended = run("/nowhere", environ={"OBWORKER_WORKER": "2"})
    assert ended.code == USAGE
    assert ended.errors[0].startswith("obworker: warning: OBWORKER_WORKER names no option")


def test_no_other_line_is_written_for_a_mistake_in_the_command_line(
    run: Callable[..., Ended], model: Path
) -> None:
    (model / "predictor.py").write_text(GOOD)
    ended = run("--workers", "two", str(model))
    assert ended.output == f"{ERROR}--workers: 'two' is not a whole number from 1 to 1024\n"


def drop_capabilities(*numbers: int) -> None:
    libc = ctypes.CDLL(None)
    for number in numbers:
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


def obey_permissions() -> None:
    """Have root read what its permissions let it read, and no more, as everybody has to."""
    drop_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)


@pytest.mark.parametrize("unreadable", ["{model}", "{model}/predictor.py", "{model}/.env"])
@pytest.mark.parametrize("served", ["{model}", "{model}/predictor.py"])
def test_what_may_not_be_read_is_one_line(
    run: Callable[..., Ended], model: Path, unreadable: str, served: str
) -> None:
    (model / "predictor.py").write_text(GOOD)
    (model / ".env").touch()
    secret = Path(unreadable.format(model=model))
    mode = secret.stat().st_mode
    secret.chmod(0)
    ended = run(*LISTEN, served.format(model=model), drop=obey_permissions)
    secret.chmod(mode)
    if unreadable.endswith(".env"):
        check(ended, USAGE, rf"{secret}: cannot be read: .*Permission denied.*", None)
    else:
        named = rf"({secret}|{served.format(model=model)}): Permission denied"
        check(ended, LOAD, named, r"obworker runs as uid \d+, which must be able to .*")


@pytest.mark.parametrize("bind", [False, True])
def test_a_port_in_use_is_one_line(run: Callable[..., Ended], model: Path, bind: bool) -> None:
    (model / "predictor.py").write_text(GOOD)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        where = ["--bind", f"127.0.0.1:{port}"] if bind else ["--host", "127.0.0.1"]
        ended = run(*where, *([] if bind else ["--port", str(port)]), str(model))
    check(
        ended,
        USAGE,
        rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use",
        r"another program serves there: stop it, or use --port",
    )


def drop_privileged_ports() -> None:
    drop_capabilities(CAP_NET_BIND_SERVICE)


def test_a_privileged_port_is_one_line(run: Callable[..., Ended], model: Path) -> None:
    first = int(PRIVILEGED_FROM.read_text())
    if first <= 81:
        pytest.skip(f"ports from {first} on are free for all (net.ipv4.ip_unprivileged_port_start)")
    (model / "predictor.py").write_text(GOOD)
    drop = drop_privileged_ports if os.geteuid() == 0 else None
    ended = run("--host", "127.0.0.1", "--port", "81", str(model), drop=drop)
    check(
        ended,
        USAGE,
        r"cannot listen on 127\.0\.0\.1:81: Permission denied",
        r"ports below 1024 need root or CAP_NET_BIND_SERVICE: use --port 8080",
    )


def test_a_host_that_does_not_exist_is_one_line(run: Callable[..., Ended], model: Path) -> None:
    (model / "predictor.py").write_text(GOOD)
    ended = run("--host", "no.such.host.invalid", "--port", "0", str(model))
    check(ended, USAGE, r"cannot listen on no\.such\.host\.invalid:0: .+", None)


def test_a_unix_socket_in_a_missing_directory_is_one_line(
    run: Callable[..., Ended], model: Path
) -> None:
    (model / "predictor.py").write_text(GOOD)
    ended = run("--bind", f"unix:{model}/none/socket", str(model))
    check(ended, USAGE, r"cannot listen on unix:\S+: No such file or directory", None)


def test_a_unix_socket_path_that_is_too_long_is_one_line(
    run: Callable[..., Ended], model: Path
) -> None:
    (model / "predictor.py").write_text(GOOD)
    ended = run("--bind", f"unix:{model}/{'x' * 150}", str(model))
    check(ended, USAGE, r"cannot listen on unix:\S+: .+", None)


def test_a_script_that_is_a_link_to_nothing_is_one_line(
    run: Callable[..., Ended], model: Path
) -> None:
    (model / "predictor.py").write_text(GOOD)
    (model / "start.sh").symlink_to("nowhere")
    ended = run(*LISTEN, str(model))
    check(ended, LOAD, rf"{model}/start\.sh is a directory, or a link to nothing", None)


def test_a_script_without_bash_is_one_line(
    run: Callable[..., Ended], model: Path, tmp_path: Path
) -> None:
    (model / "start.sh").write_text("exit 0\n")
    ended = run("--port", "1234", str(model), environ={"PATH": str(tmp_path)})
    check(ended, LOAD, r".*bash.*", None)
    assert shutil.which("bash")


def test_a_broken_dotenv_does_not_stop_the_start(run: Callable[..., Ended], model: Path) -> None:
    (model / "predictor.py").write_text("raise ValueError('got here')\n")
    (model / ".env").write_text("what is this\n=\nA='unclosed\n")
    ended = run(*LISTEN, str(model))
    check(ended, LOAD, r"predictor\.py:1: ValueError: got here", None)


def test_a_dotenv_that_is_no_text_is_one_line(run: Callable[..., Ended], model: Path) -> None:
    (model / "predictor.py").write_text(GOOD)
    (model / ".env").write_bytes(b"A=\xff\n")
    ended = run(*LISTEN, str(model))
    check(ended, USAGE, r".*\.env.*", None)


def test_a_dotenv_with_a_null_byte_is_one_line(run: Callable[..., Ended], model: Path) -> None:
    (model / "predictor.py").write_text(GOOD)
    (model / ".env").write_bytes(b"A=a\0b\n")
    ended = run(*LISTEN, str(model))
    check(ended, USAGE, r".*\.env.*", None)
