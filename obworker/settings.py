"""Every option, declared once: type, default, help, environment variable, file key.

The command line, ``--help``, ``--print-config``, the configuration file, the environment and
docs/configuration.md all come from the fields of `Settings`. Values arrive as text from wherever
they were written and are parsed in one place, so a mistake reads the same everywhere.

Precedence: command line, environment (``OBWORKER_*``), file, default (configuration.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from obworker.onnx_options import AUTO, providers, session_options, thread_count
from obworker.options import option, options_of
from obworker.values import (
    LAST_PORT,
    absolute_path,
    address_or_off,
    addresses,
    choice,
    devices,
    file_mode,
    flag,
    host_name,
    milliseconds,
    networks,
    nonempty,
    origins,
    path_or_off,
    seconds,
    size,
    size_or_off,
    whole_number,
)

LOG_LEVELS = ("debug", "info", "warning", "error")

# What an option may need: a supervisor, or something of the predictor.
SUPERVISOR = "supervisor"
ONNX = "onnx"
BATCHES = "predict_batch"
HEALTH = "health"
PLAIN = "def predict"
COROUTINES = "async def predict"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The value of every option. Times are seconds, sizes are bytes."""

    # fmt: off
    model: str | None = option(
        "MODEL", metavar="MODEL", parse=nonempty, group="Model", shown="required",
        help="Directory with a predictor.py or a start.sh, or the path of a predictor.py.",
    )
    class_name: str | None = option(
        "--class", metavar="NAME", parse=nonempty, group="Model",
        shown="Predictor, or the only class with predict",
        help="Class in predictor.py to serve.",
    )
    model_path: str | None = option(
        "--model-path", metavar="PATH", parse=nonempty, group="Model",
        shown="the only *.onnx beside predictor.py",
        needs=ONNX,
        help="ONNX file, or the directory to look for it in.",
    )
    onnx_threads: int = option(
        "--onnx-threads", metavar="N", parse=thread_count, group="ONNX", default=1,
        needs=ONNX,
        help="Threads that one call of the onnx session uses. With 1 all workers can share a"
        " session that was made before the fork; with more each makes its own.",
    )
    onnx_providers: str = option(
        "--onnx-providers", metavar="LIST", parse=providers, group="ONNX", default=AUTO,
        needs=ONNX,
        help="Execution providers of the onnx session in order of preference, such as cuda,cpu."
        " auto: the worker's device, where onnxruntime can use it, and the CPU.",
    )
    onnx_option: str | None = option(
        "--onnx-option", metavar="KEY=VALUE", parse=session_options, group="ONNX", shown="none",
        repeatable=True,
        needs=ONNX,
        help="Option of the onnx session, such as graph_optimization_level=enable_basic or"
        " session.intra_op.allow_spinning=0; may be repeated.",
    )
    bind: str | None = option(
        "-b", "--bind", metavar="ADDRESS", parse=addresses, group="Server", repeatable=True,
        shown="HOST:PORT from --host and --port",
        help="Address to serve on: HOST:PORT, [IPV6]:PORT, unix:PATH or, inherited, fd:N. A list"
        " serves on all; the option may be repeated.",
    )
    host: str = option(
        "--host", metavar="HOST", parse=host_name, group="Server",
        default="0.0.0.0",  # noqa: S104 the contract's
        help="Host to serve on.",
    )
    port: int | None = option(
        "--port", metavar="PORT", parse=whole_number(0, LAST_PORT), group="Server",
        shown="80 in production, 8080 in a gear, else $OPENBAYES_SERVING_PORT or 25252",
        help="Port to serve on; 0 takes a free one. For a start.sh, the port it will listen on.",
    )
    backlog: int = option(
        "--backlog", metavar="N", parse=whole_number(1), group="Server", default=2048,
        help="Connections the kernel may hold before a worker accepts them.",
    )
    unix_mode: str | None = option(
        "--unix-mode", metavar="MODE", parse=file_mode, group="Server", shown="as the umask says",
        help="Permissions of the unix sockets of --bind and --admin-bind, in octal, such as 660.",
    )
    certfile: str | None = option(
        "--certfile", metavar="PATH", parse=absolute_path, group="Server", shown="no TLS",
        help="Certificate chain in PEM form: serve HTTPS. A reload reads it again.",
    )
    keyfile: str | None = option(
        "--keyfile", metavar="PATH", parse=absolute_path, group="Server",
        shown="in the file of the certificate",
        help="Private key of --certfile in PEM form.",
    )
    ca_certs: str | None = option(
        "--ca-certs", metavar="PATH", parse=absolute_path, group="Server",
        shown="clients need no certificate",
        help="Certificates of authorities: a client must have one that they have signed.",
    )
    proxy_headers: bool = option(
        "--proxy-headers", parse=flag, group="Server", default=False,
        help="Believe the X-Forwarded-* fields of the proxies in --forwarded-allow-ips.",
    )
    forwarded_allow_ips: str = option(
        "--forwarded-allow-ips", metavar="LIST", parse=networks, group="Server",
        default="127.0.0.1,::1",
        help="Addresses and networks of trusted proxies, or * for any. A unix socket is trusted.",
    )
    api_key_file: str | None = option(
        "--api-key-file", metavar="PATH", parse=absolute_path, group="Server",
        shown="no key is asked for",
        help="File of API keys, one a line: a request must have one of them. A reload reads it"
        " again.",
    )
    cors_origin: str | None = option(
        "--cors-origin", metavar="LIST", parse=origins, group="Server", shown="none",
        help="Origins whose web pages may use the service, such as https://app.example, or *.",
    )
    tracebacks: str = option(
        "--tracebacks", metavar="WHEN", parse=choice("auto", "on", "off"), group="Server",
        default="auto",
        help="Whether the answer to a request whose predict raised has the traceback: auto (not in"
        " production), on, or off. The log always has it.",
    )
    max_queue: int | None = option(
        "--max-queue", metavar="N", parse=whole_number(0), group="Server",
        shown="100 for each worker",
        help="Requests that may wait for a free worker; past it 503.",
    )
    max_connections: int = option(
        "--max-connections", metavar="N", parse=whole_number(1), group="Server", default=10000,
        help="Connections of a worker; past it the one that is idle longest is closed.",
    )
    workers: int | None = option(
        "-w", "--workers", metavar="N", parse=whole_number(1, 1024), group="Workers",
        shown="--workers-per-gpu for each GPU, else 1",
        help="Worker processes.",
    )
    threads: int = option(
        "--threads", metavar="N", parse=whole_number(1, 1024), group="Workers", default=1,
        needs=PLAIN,
        help="Calls of predict at once in each worker.",
    )
    async_concurrency: int = option(
        "--async-concurrency", metavar="N", parse=whole_number(1, 1024), group="Workers",
        default=64,
        needs=COROUTINES,
        help="Calls of an async predict at once in each worker; --threads is for any other.",
    )
    max_batch_size: int | None = option(
        "--max-batch-size", metavar="N", parse=whole_number(1, 4096), group="Workers",
        shown="8, or what config.batch says; 1 where predict is there, too",
        needs=BATCHES,
        help="Most requests in a call of predict_batch. 1: no batches.",
    )
    max_batch_wait_ms: float | None = option(
        "--max-batch-wait-ms", metavar="MS", parse=milliseconds, group="Workers",
        shown="0, or what config.batch says",
        needs=BATCHES,
        help="Milliseconds that a request waits for others to share its call. 0: none, and only"
        " requests that have to wait anyway share one.",
    )
    gpus: str = option(
        "--gpus", metavar="LIST", parse=devices, group="Workers", default="auto",
        help="GPUs to use: auto, none, or a list of indices or UUIDs. Indices count what"
        " CUDA_VISIBLE_DEVICES leaves visible.",
    )
    workers_per_gpu: int = option(
        "--workers-per-gpu", metavar="N", parse=whole_number(1, 1024), group="Workers", default=1,
        needs=SUPERVISOR,
        help="Workers for each GPU where --workers is not given.",
    )
    gpus_per_worker: int = option(
        "--gpus-per-worker", metavar="N", parse=whole_number(0, 1024), group="Workers", default=1,
        help="GPUs that each worker has. 0: all of them, as for a model that is spread over them.",
    )
    cpu_affinity: str = option(
        "--cpu-affinity", metavar="HOW", parse=choice("auto", "none"), group="Workers",
        default="none",
        needs=SUPERVISOR,
        help="Cores that a worker may use: auto (some of its own, near its GPU where that is"
        " known), or none (all).",
    )
    preload: str = option(
        "--preload", metavar="WHEN", parse=choice("auto", "on", "off"), group="Workers",
        default="auto",
        needs=SUPERVISOR,
        help="Import predictor.py, call its preload() and make the onnx session once, then fork the"
        " workers: auto (unless that made forking unsafe), on, or off (each worker does it all).",
    )
    reload_strategy: str = option(
        "--reload-strategy", metavar="HOW", parse=choice("auto", "surge", "replace"),
        group="Workers", default="auto",
        needs=SUPERVISOR,
        help="How a worker is replaced: surge (the new one is ready before the old one goes),"
        " replace (the old one goes first), or auto (surge, unless memory is too short for two).",
    )
    max_requests: int = option(
        "--max-requests", metavar="N", parse=whole_number(0), group="Workers", default=0,
        needs=SUPERVISOR,
        help="Replace a worker after so many requests, the new one ready first. 0: never.",
    )
    max_requests_jitter: int | None = option(
        "--max-requests-jitter", metavar="N", parse=whole_number(0), group="Workers",
        shown="a tenth of --max-requests",
        needs=SUPERVISOR,
        help="Raise --max-requests by up to N, at random for each worker.",
    )
    max_worker_memory: int = option(
        "--max-worker-memory", metavar="SIZE", parse=size_or_off, group="Workers", default=0,
        shown="off",
        needs=SUPERVISOR,
        help="Replace a worker whose resident memory is above this, the new one ready first.",
    )
    admin_bind: str | None = option(
        "--admin-bind", metavar="ADDRESS", parse=address_or_off, group="Health",
        shown="127.0.0.1:25253, where it is free",
        needs=SUPERVISOR,
        help="Address of /livez, /readyz, /healthz and /metrics: HOST:PORT, [IPV6]:PORT, unix:PATH"
        " or off.",
    )
    min_ready: int = option(
        "--min-ready", metavar="N", parse=whole_number(1, 1024), group="Health", default=1,
        needs=SUPERVISOR,
        help="Workers that must be ready before the service is: for /readyz and systemd.",
    )
    health_interval: float = option(
        "--health-interval", metavar="SECONDS", parse=seconds(zero=True), group="Health",
        default=10.0,
        needs=HEALTH,
        help="How often a worker calls the predictor's health(), if it has one. 0: never.",
    )
    health_timeout: float = option(
        "--health-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Health",
        default=5.0,
        needs=HEALTH,
        help="Longest health() may take; longer replaces the worker, as three failures in a row"
        " do.",
    )
    control_socket: str | None = option(
        "--control-socket", metavar="PATH", parse=path_or_off, group="Health",
        shown="PID.sock in $XDG_RUNTIME_DIR/obworker, /run/obworker or /tmp/obworker-UID",
        needs=SUPERVISOR,
        help="Unix socket for obworker status, reload, scale, stop and stacks; or off.",
    )
    timeout: float = option(
        "-t", "--timeout", metavar="SECONDS", parse=seconds(zero=True), group="Timeouts",
        default=300.0,
        help="Longest a predict may take; then the client gets 504 and the worker is replaced."
        " 0: no limit.",
    )
    load_timeout: float = option(
        "--load-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=600.0,
        needs=SUPERVISOR,
        help="Longest the import of predictor.py and its preload() may take.",
    )
    boot_timeout: float = option(
        "--boot-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=600.0,
        needs=SUPERVISOR,
        help="Longest a worker may take to build the predictor, or a start.sh to answer.",
    )
    graceful_timeout: float = option(
        "--graceful-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=25.0,
        needs=SUPERVISOR,
        help="Longest a stop waits for requests in progress; then processes are killed.",
    )
    keep_alive: float = option(
        "--keep-alive", metavar="SECONDS", parse=seconds(zero=True), group="Timeouts", default=75.0,
        help="How long an idle connection is kept open. 0: one request a connection.",
    )
    header_timeout: float = option(
        "--header-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=10.0,
        help="Longest a client may take to send a request's header, from its first byte.",
    )
    body_timeout: float = option(
        "--body-timeout", metavar="SECONDS", parse=seconds(zero=False), group="Timeouts",
        default=30.0,
        help="Longest a client may pause while it sends a body or reads an answer.",
    )
    queue_timeout: float = option(
        "--queue-timeout", metavar="SECONDS", parse=seconds(zero=True), group="Timeouts",
        default=60.0,
        help="Longest a request may wait for a free worker; then 503. 0: no limit.",
    )
    limit_request_line: int = option(
        "--limit-request-line", metavar="SIZE", parse=size, group="Limits", default=8190,
        help="Longest request line in bytes; past it 414.",
    )
    limit_request_fields: int = option(
        "--limit-request-fields", metavar="N", parse=whole_number(1), group="Limits", default=100,
        help="Most header fields in a request; past it 431.",
    )
    limit_request_field_size: int = option(
        "--limit-request-field-size", metavar="SIZE", parse=size, group="Limits", default=8190,
        help="Longest header field in bytes; past it 431.",
    )
    limit_request_body: int = option(
        "--limit-request-body", metavar="SIZE", parse=size, group="Limits",
        default=100 << 20, shown="100MiB",
        help="Largest request body, such as 100MiB; past it 413.",
    )
    min_body_rate: int = option(
        "--min-body-rate", metavar="SIZE", parse=size_or_off, group="Limits", default=100,
        help="Least bytes per second, over each --body-timeout, at which a client must send a body"
        " and read an answer; slower ones are cut off.",
    )
    log_file: str | None = option(
        "--log-file", metavar="PATH", parse=absolute_path, group="Logging", shown="standard error",
        help="File for the log, appended to; opened again on SIGUSR1.",
    )
    access_log_file: str | None = option(
        "--access-log-file", metavar="PATH", parse=absolute_path, group="Logging",
        shown="standard output",
        help="File for the access log, appended to; opened again on SIGUSR1.",
    )
    log_level: str = option(
        "--log-level", metavar="LEVEL", parse=choice(*LOG_LEVELS), group="Logging", default="info",
        help=f"Least severity to log: {', '.join(LOG_LEVELS)}.",
    )
    access_log: bool = option(
        "--access-log", parse=flag, group="Logging", default=True, help="Log every request.",
    )
    access_log_format: str = option(
        "--access-log-format", metavar="FORMAT", parse=choice("text", "json"), group="Logging",
        default="text", help="Lines of the access log: text or json.",
    )
    # fmt: on

    @property
    def onnx(self) -> dict[str, Any]:
        """The options of the onnx session, as arguments of plan_session."""
        return {
            "threads": self.onnx_threads,
            "providers": self.onnx_providers,
            "options": self.onnx_option,
        }


OPTIONS = tuple(options_of(Settings))
KEYS = {option.key: option for option in OPTIONS}


def without_effect(given: Collection[str], lacks: Mapping[str, str]) -> str:
    """Return which of the given options have no effect, and why; empty if all have one.

    `lacks` has what is missing of that which an option may need, with the reason.
    """
    idle: dict[str, list[str]] = {}
    for key, told in KEYS.items():
        if key in given and told.needs in lacks:
            idle.setdefault(lacks[told.needs], []).append(told.flags[-1])
    return "; ".join(f"{', '.join(flags)}: {reason}" for reason, flags in idle.items())
