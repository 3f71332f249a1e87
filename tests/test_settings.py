"""Every option by every way of giving it, and which way wins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from obworker import configuration, values
from obworker.configuration import Given
from obworker.errors import UsageError
from obworker.options import Option, as_text
from obworker.settings import (
    BATCHES,
    COROUTINES,
    HEALTH,
    KEYS,
    ONNX,
    OPTIONS,
    PLAIN,
    Settings,
    without_effect,
)

# a valid text for every option, and the value it must become; never the default
VALUES: dict[str, tuple[str, Any]] = {
    "model": ("./m", "./m"),
    "class": ("Other", "Other"),
    "model_path": ("a.onnx", "a.onnx"),
    "onnx_threads": ("2", 2),
    "onnx_providers": ("CUDAExecutionProvider, cpu", "cuda,cpu"),
    "onnx_option": (
        "execution_mode=ORT_PARALLEL, session.intra_op_thread_affinities=1,2;3,enable_mem_reuse =0",
        "execution_mode=parallel,session.intra_op_thread_affinities=1,2;3,enable_mem_reuse=0",
    ),
    "bind": ("[::1]:81, unix:/a,a:1", "[::1]:81,unix:/a,a:1"),
    "host": ("::1", "::1"),
    "port": ("81", 81),
    "backlog": ("5", 5),
    "unix_mode": ("660", "660"),
    "certfile": ("/tmp/c.pem", "/tmp/c.pem"),
    "keyfile": ("/tmp/k.pem", "/tmp/k.pem"),
    "ca_certs": ("/tmp/a.pem", "/tmp/a.pem"),
    "proxy_headers": ("yes", True),
    "forwarded_allow_ips": ("10.0.0.0/8, ::1", "10.0.0.0/8,::1"),
    "api_key_file": ("/tmp/keys", "/tmp/keys"),
    "cors_origin": ("https://a.example, http://b:8080", "https://a.example,http://b:8080"),
    "max_queue": ("0", 0),
    "max_connections": ("9", 9),
    "workers": ("3", 3),
    "threads": ("2", 2),
    "async_concurrency": ("8", 8),
    "max_batch_size": ("16", 16),
    "max_batch_wait_ms": ("2.5", 2.5),
    "gpus": ("0, 1", "0,1"),
    "workers_per_gpu": ("2", 2),
    "gpus_per_worker": ("0", 0),
    "cpu_affinity": ("Auto", "auto"),
    "preload": ("OFF", "off"),
    "tracebacks": ("On", "on"),
    "reload_strategy": ("surge", "surge"),
    "max_requests": ("100", 100),
    "max_requests_jitter": ("10", 10),
    "max_worker_memory": ("2GiB", 2 << 30),
    "admin_bind": ("unix:/tmp/a", "unix:/tmp/a"),
    "min_ready": ("2", 2),
    "health_interval": ("1", 1.0),
    "health_timeout": ("2", 2.0),
    "control_socket": ("/tmp/c", "/tmp/c"),
    "timeout": ("0", 0.0),
    "load_timeout": ("1.5", 1.5),
    "boot_timeout": ("2", 2.0),
    "graceful_timeout": ("3", 3.0),
    "keep_alive": ("0", 0.0),
    "header_timeout": ("4", 4.0),
    "body_timeout": ("5", 5.0),
    "queue_timeout": ("6", 6.0),
    "limit_request_line": ("1K", 1024),
    "limit_request_fields": ("7", 7),
    "limit_request_field_size": ("2KiB", 2048),
    "limit_request_body": ("1g", 1 << 30),
    "min_body_rate": ("off", 0),
    "log_file": ("/tmp/l", "/tmp/l"),
    "access_log_file": ("/tmp/a", "/tmp/a"),
    "log_level": ("DEBUG", "debug"),
    "access_log": ("no", False),
    "access_log_format": ("JSON", "json"),
}
every_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)


def layer(source: str, **texts: str) -> dict[str, Given]:
    return {key: Given(text, source, key) for key, text in texts.items()}


def test_every_option_is_tried_here() -> None:
    assert set(VALUES) == set(KEYS)


@every_option
def test_a_text_becomes_the_same_value_wherever_it_was_written(
    option: Option, tmp_path: Path
) -> None:
    text, value = VALUES[option.key]
    file = tmp_path / "c.toml"
    file.write_text(f"{option.key} = '{text}'\n")
    assert getattr(Settings(), option.field) != value
    for given in (
        configuration.from_command_line({option.key: text}),
        configuration.from_environ({option.variable: text}),
        configuration.from_file(file),
    ):
        resolved, sources = configuration.resolve(given)
        assert getattr(resolved, option.field) == value
        assert set(sources) == {option.key}


@every_option
def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    option: Option, tmp_path: Path
) -> None:
    text, value = VALUES[option.key]
    default = getattr(Settings(), option.field)
    other = as_text(default) or text
    file = tmp_path / "c.toml"
    for winner in range(3):
        texts = [text if number == winner else other for number in range(3)]
        file.write_text(f"{option.key} = '{texts[2]}'\n")
        layers = [
            configuration.from_command_line({option.key: texts[0]}),
            configuration.from_environ({option.variable: texts[1]}),
            configuration.from_file(file),
        ]
        resolved, sources = configuration.resolve(*layers[winner:])
        assert getattr(resolved, option.field) == value
        assert sources[option.key].startswith(("command line", "environment", "file")[winner])


@every_option
def test_a_default_can_be_written_as_it_is_shown(option: Option) -> None:
    default = getattr(Settings(), option.field)
    if default is not None:
        resolved, _ = configuration.resolve(layer("x", **{option.key: as_text(default)}))
        assert resolved == Settings()


@pytest.mark.parametrize("key", ["log_file", "access_log_file"])
def test_a_path_of_a_log_is_meant_from_where_it_is_read(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resolved, _ = configuration.resolve(layer("x", **{key: "logs/a"}))
    assert getattr(resolved, key) == str(tmp_path / "logs" / "a")


@pytest.mark.parametrize(
    ("given", "lacks", "said"),
    [
        (["max_batch_size"], {}, ""),
        ([], {BATCHES: "none", ONNX: "no"}, ""),
        (["workers", "onnx_threads"], {BATCHES: "none"}, ""),
        (["max_batch_size", "workers"], {BATCHES: "none"}, "--max-batch-size: none"),
        (
            ["onnx_threads", "health_interval", "model_path"],
            {ONNX: "no", HEALTH: "ill"},
            "--model-path, --onnx-threads: no; --health-interval: ill",
        ),
        (["threads", "async_concurrency"], {PLAIN: "async"}, "--threads: async"),
        (["threads", "async_concurrency"], {COROUTINES: "plain"}, "--async-concurrency: plain"),
    ],
)
def test_what_was_given_and_has_no_effect_is_said_with_the_reason(
    given: list[str], lacks: dict[str, str], said: str
) -> None:
    assert without_effect(given, lacks) == said


def test_an_empty_variable_counts_as_not_set() -> None:
    assert configuration.from_environ({"OBWORKER_WORKERS": ""}) == {}


@pytest.mark.parametrize(
    ("environ", "unknown"),
    [
        ({"OBWORKER_WORKERS": "1", "OBWORKER_CONFIG": "x"}, []),
        ({"OBWORKER_SLOT": "0", "OBWORKER_DEVICES": ""}, []),
        ({"OBWORKER_WORKER": "1", "OBWORKER_": "", "OTHER": ""}, ["OBWORKER_", "OBWORKER_WORKER"]),
    ],
)
def test_variables_that_name_no_option_are_known(
    environ: dict[str, str], unknown: list[str]
) -> None:
    assert configuration.unknown_variables(environ) == unknown


@pytest.mark.parametrize(
    ("toml", "field", "value"),
    [
        ("workers = 4", "workers", 4),
        ("workers = '4'", "workers", 4),
        ("workers-per-gpu = 2", "workers_per_gpu", 2),
        ("timeout = 2.5", "timeout", 2.5),
        ("timeout = 1_000_000", "timeout", 1e6),
        ("timeout = 1234567.0", "timeout", 1234567.0),
        ("limit_request_body = 123456789", "limit_request_body", 123456789),
        ("gpus = [1, 0]", "gpus", "1,0"),
        ("gpus = ['GPU-a', 'GPU-b']", "gpus", "GPU-a,GPU-b"),
        ("access_log = false", "access_log", False),
        ("bind = ['a:1', 'unix:/b']", "bind", "a:1,unix:/b"),
        ("bind = ['fd:3', 'fd:4']", "bind", "fd:3,fd:4"),
        ("bind = ['a:0', 'a:0']", "bind", "a:0,a:0"),
        ("log_level = 'Error'", "log_level", "error"),
        ("unix_mode = '660'", "unix_mode", "660"),
        ("timeout = 0.000001", "timeout", 1e-6),
        ("\ufeffworkers = 4", "workers", 4),
    ],
)
def test_a_file_may_use_the_types_of_toml(
    toml: str, field: str, value: Any, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(toml)
    resolved, _ = configuration.resolve(configuration.from_file(tmp_path / "c.toml"))
    assert getattr(resolved, field) == value


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("unix_mode = 0o660", 'unix_mode: permissions are text such as "660", not a number'),
        ("timeout = 1e-7", "timeout: '0.0000001' is not a number of seconds, 0 for off"),
        ("timeout = nan", "timeout: 'NaN' is not a number of seconds, 0 for off"),
        ("workers = 1.9999999", "workers: '1.9999999' is not a whole number from 1 to 1024"),
        ("log_file = 'a\\u0000b'", "log_file: no value has a NUL byte"),
        ("bind = ['unix:\\u0000b']", "bind: no value has a NUL byte"),
    ],
)
def test_a_value_of_a_file_that_would_be_another_is_refused(
    toml: str, complaint: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(toml.replace("'", '"'))
    with pytest.raises(UsageError, match=f"^{re.escape(f'{file}: {complaint}')}$"):
        configuration.resolve(configuration.from_file(file))


@pytest.mark.parametrize(
    "value", ["9" * 5000, "0x" + "f" * 5000, "[" * 5000, "{a=" * 5000], ids=lambda text: text[:3]
)
def test_a_value_that_python_cannot_read_is_refused(value: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"workers = {value}")
    with pytest.raises(UsageError, match=rf"^{file}: is not TOML: "):
        configuration.from_file(file)


def test_a_path_that_is_relative_to_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for key, text in (("log_file", "log"), ("bind", "unix:socket"), ("control_socket", "socket")):
        with pytest.raises(UsageError, match=r"^--that: .* is relative to a working directory"):
            configuration.resolve({key: Given(text, "command line", "--that")})


def test_a_file_says_each_thing_once_however_it_is_spelled(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("max_queue = 1\nmax-queue = 2")
    with pytest.raises(UsageError, match=rf"^{file}: max_queue is set twice$"):
        configuration.from_file(file)


WRONG: dict[str, list[str]] = {
    "host": ["", "[::1]", "127.0.0.1:80", "unix:/a", "::1,127.0.0.1"],
    "port": ["", "-1", "65536", "http", "1.0", " 1", "1_0", "٣", "0x10"],
    "workers": ["0", "1025", "two", "1e3"],
    "backlog": ["0", "-5", "2147483648", "9" * 5000],
    "max_queue": ["-1", "2147483648"],
    "timeout": ["-1", "nan", "inf", "1e3", "5s", ".5", "1.", "1.0000001", "10000000000"],
    "max_batch_wait_ms": ["", "-1", "nan", "1e3", "5ms", "1.0001"],
    "graceful_timeout": ["0", "0.0", "0.000000"],
    "limit_request_body": ["0", "-1", "1.5M", "1TB", "k", "1 0"],
    "log_level": ["warn", "", "verbose"],
    "access_log": ["", "maybe", "2"],
    "class": [""],
    "bind": [
        *("", "here", "1.2.3.4", ":80", "a:b", "a:65536", "a:" + "9" * 5000, "unix:", "1.2.3.4:-1"),
        *("::1:80", "[::1]", "[::1:80", "::1]:80", "[1.2.3.4]:80", "[]:80", "[a]:80"),
        *("a:1,", ",a:1", "a:1,a:1", "a:1,b", "fd:", "fd:x", "fd:-1", "fd:3,a:1", "fd:3,fd:3"),
        "fd:3,fd:03",
    ],
    "admin_bind": ["", "on", "a:1,b:1", "unix:"],
    "control_socket": [""],
    "unix_mode": ["", "9", "rw-", "1777", "66"],
    "forwarded_allow_ips": ["", "localhost", "10.0.0.1/8", "*,::1"],
    "cors_origin": ["", "app.example", "https://a/b", "*,https://a", "null"],
    "onnx_threads": ["0", "-1", "many"],
    "onnx_providers": [
        *("", "cuda,", "auto,cpu", "cpu,CPUExecutionProvider", "a b", "foo", "cuda,foo"),
    ],
    "onnx_option": [
        *("", "enable_mem_pattern", "x=", "=1", "enable_mem_pattern=maybe", "log_severity_level=5"),
        *("graph_optimization_level=99", "intra_op_num_threads=2", "session.allow_spinning=1"),
        "enable_mem_pattern=1,enable_mem_pattern=0",
    ],
    "gpus": ["", ",", "0,", "all", "-1", "0;1", "auto,0", "none,none", "UUID", "9" * 5000],
}


@pytest.mark.parametrize(
    ("key", "text"), [(key, text) for key, texts in WRONG.items() for text in texts]
)
def test_a_text_that_is_no_value_is_refused_by_the_name_it_was_given(key: str, text: str) -> None:
    with pytest.raises(UsageError, match=r"^--that: "):
        configuration.resolve({key: Given(text, "command line", "--that")})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "enable_mem_patern=1",
            r"no session option of onnxruntime \(did you mean 'enable_mem_patt",
        ),
        ("x=1", "x: is no session option of onnxruntime; docs/onnx.md lists them: enable_cpu_mem"),
        ("execution_mode=quick", "execution_mode: 'quick' is not one of sequential, parallel"),
        ("=1", "'=1' is not KEY=VALUE such as"),
        ("intra_op_num_threads=2", "'intra_op_num_threads' is what --onnx-threads says"),
        ("session.disable_prepacking=2", "session.disable_prepacking: '2' is not true or false"),
    ],
)
def test_a_wrong_session_option_says_what_would_be_right(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=f"^--onnx-option: .*{complaint}"):
        configuration.resolve({"onnx_option": Given(text, "command line", "--onnx-option")})


def test_options_of_a_provider_are_its_own() -> None:
    resolved, _ = configuration.resolve(layer("x", onnx_option="ep.cuda.anything=1,2"))
    assert resolved.onnx_option == "ep.cuda.anything=1,2"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("8190", 8190),
        ("64k", 65536),
        ("64 KiB", 65536),
        ("1MB", 1 << 20),
        ("2G", 2 << 30),
    ],
)
def test_a_size_has_binary_units(text: str, value: int) -> None:
    assert values.size(text) == value


@pytest.mark.parametrize(
    ("layers", "listen"),
    [
        ([{"bind": "a:1"}], ("a:1", "0.0.0.0", None)),
        ([{"port": "2"}, {"bind": "a:1"}], (None, "0.0.0.0", 2)),
        ([{"host": "b"}, {}, {"bind": "a:1"}], (None, "b", None)),
        ([{"bind": "a:1"}, {"port": "2", "host": "b"}], ("a:1", "b", 2)),
        ([{}, {"bind": "a:1"}, {"port": "2"}], ("a:1", "0.0.0.0", 2)),
    ],
)
def test_the_first_to_speak_of_the_address_decides(
    layers: list[dict[str, str]], listen: tuple[str | None, str, int | None]
) -> None:
    resolved, _ = configuration.resolve(*(layer("x", **texts) for texts in layers))
    assert (resolved.bind, resolved.host, resolved.port) == listen


@pytest.mark.parametrize("other", ["host", "port"])
def test_two_addresses_of_the_same_source_are_refused(other: str) -> None:
    with pytest.raises(UsageError, match=f"bind and {other} both say where to listen"):
        configuration.resolve(layer("x", bind="a:1", **{other: "1"}))


def test_keys_variables_and_flags_are_one_name() -> None:
    for option in OPTIONS:
        assert option.variable == f"OBWORKER_{option.key.upper()}"
        if option.key != "model":
            assert option.flags[-1] == "--" + option.key.replace("_", "-")
        assert option.help.endswith(".")
    assert len({flag for option in OPTIONS for flag in option.flags}) == sum(
        len(option.flags) for option in OPTIONS
    )
