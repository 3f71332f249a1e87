"""The command line for click, made from the options in settings; it only collects text."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from obworker.configuration import CONFIG_VARIABLE
from obworker.errors import EXIT_INTERRUPTED, ObworkerError, UsageError
from obworker.options import Option
from obworker.printing import STANDARD_OUTPUT
from obworker.settings import OPTIONS

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
MODEL_HELP = "Serve the predictor.py or the start.sh in the directory MODEL over HTTP."
SCRIPT_HELP = "Serve the class of this predictor.py over HTTP."
EPILOG = """\b
Commands for a running obworker (a MODEL of such a name: obworker ./status)
  obworker status    obworker reload    obworker scale N    obworker stop
  obworker stacks SLOT                  each has a --help
\b
For a model whose memory all workers share
  obworker prepack MODEL.onnx           has a --help
\b
Every option is also an environment variable and a key of the file:
  --workers 4        OBWORKER_WORKERS=4        workers = 4
The command line wins over the environment, the environment over the file.
\b
Signals     TERM: finish the requests in progress, then stop. INT, QUIT: stop.
            HUP: reload. TTIN, TTOU: a worker more, fewer. USR1: reopen logs.
Exit codes  0: stopped. 2: usage. 3: no worker could start. 4: predictor.py
            could not be loaded. 5: GPUs failed. With a start.sh: its own.
"""


class _Command(click.Command):
    """A command whose help shows options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group, in the order of declaration."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                group = parameter.group if isinstance(parameter, _Option) else "Configuration"
                groups.setdefault(group, []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


class _Option(click.Option):
    """A click option made from one of ours; it passes the text on, without parsing it."""

    def __init__(self, option: Option) -> None:
        self.group = option.group
        flags = list(option.flags)
        if option.is_flag:
            flags = [f"{option.flags[-1]}/--no-{option.flags[-1].removeprefix('--')}"]
        super().__init__(
            [option.key, *flags],
            default=None,
            help=f"{option.help}  [default: {option.default}]",
            metavar=option.metavar,
            type=bool if option.is_flag else str,
            multiple=option.is_repeatable,
            callback=_join if option.is_repeatable else None,
        )


def _join(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> Any:
    """Join the values of a repeated option, as they are written in the environment."""
    return ",".join(texts) if texts else None


def make_command(name: str, *, takes_model: bool) -> click.Command:
    """Make the command-line parser; without a model argument, there is no --class either."""
    parameters: list[click.Parameter] = [
        _Option(option)
        for option in OPTIONS
        if option.flags[-1].startswith("-") and (takes_model or option.key != "class")
    ]
    if takes_model:
        parameters.insert(0, click.Argument(["model"], required=False, metavar="MODEL"))
    return _Command(
        name,
        params=[*parameters, *_options_about_options()],
        callback=lambda **values: values,
        help=MODEL_HELP if takes_model else SCRIPT_HELP,
        epilog=EPILOG,
        context_settings=CONTEXT,
    )


def _options_about_options() -> list[click.Parameter]:
    file = f"TOML file with settings.  [{CONFIG_VARIABLE}]"
    shown = "Show every setting and where it came from."
    return [
        click.Option(["-c", "--config"], metavar="FILE", help=file),
        click.Option(["--print-config"], is_flag=True, help=shown),
        click.Option(["--version"], is_flag=True, help="Show the version."),
    ]


def parse(command: click.Command, arguments: Sequence[str]) -> dict[str, Any] | int:
    """Return the values given, or an exit code where click has printed all, such as --help."""
    with to_standard_output():  # --help
        values = invoke(command, arguments)
    return values if isinstance(values, dict) else int(values)


def invoke(command: click.Command, arguments: Sequence[str], context: object = None) -> Any:
    """Return what a command returns, or an exit code where click has printed all."""
    try:
        return command.main(
            list(arguments), prog_name=command.name, standalone_mode=False, obj=context
        )
    except click.UsageError as error:
        raise UsageError(error.format_message(), hint=f"{command.name} --help") from error
    except click.Abort:
        return EXIT_INTERRUPTED


@contextlib.contextmanager
def to_standard_output() -> Iterator[None]:
    """Turn errors of printing into an error of one line; exit silently if the reader has gone.

    Raises:
        ObworkerError: it cannot be written, for example because the disk is full.
        SystemExit: the reader has gone.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # or Python would try again at its exit, and print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), STANDARD_OUTPUT)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from error
        raise ObworkerError(f"standard output: {error.strerror}") from error
