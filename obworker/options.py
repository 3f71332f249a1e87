"""How an option is declared, and how the rest of the program sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from obworker.values import Parse, file_mode, flag

ENVIRONMENT_PREFIX = "OBWORKER_"


def option(
    *flags: str,
    parse: Parse,
    group: str,
    help: str,
    metavar: str | None = None,
    default: Any = None,
    shown: str | None = None,
    repeatable: bool = False,
    needs: str = "",
) -> Any:
    """Declare one option.

    `metavar` names its value, None for a flag; `shown` describes a default that is worked out at
    the start. If the value is a list, the option may be `repeatable`. It has no effect without what
    it `needs`.
    """
    facts = {
        "key": flags[-1].lstrip("-").replace("-", "_").lower(),
        "flags": flags,
        "parse": parse,
        "group": group,
        "help": help,
        "metavar": metavar,
        "default": shown or as_text(default),
        "is_repeatable": repeatable,
        "needs": needs,
    }
    return dataclasses.field(default=default, metadata=facts)


class Option(NamedTuple):
    """One option as the command line, the file and the documentation need to see it."""

    field: str
    key: str
    flags: tuple[str, ...]
    parse: Parse
    group: str
    help: str
    metavar: str | None
    default: str
    is_repeatable: bool
    needs: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def is_flag(self) -> bool:
        """Whether it has no value on the command line."""
        return self.parse is flag

    @property
    def is_octal(self) -> bool:
        """Whether its value is octal: a number that TOML has parsed does not show its base."""
        return self.parse is file_mode


def options_of(settings: Any) -> Iterator[Option]:
    """Return the options that the fields of a dataclass declare."""
    for field in dataclasses.fields(settings):
        yield Option(field.name, **field.metadata)


def as_text(value: object) -> str:
    """Write a value as it could be given: no fraction for whole numbers, no exponent."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{Decimal(str(value)).normalize():f}" if isinstance(value, float) else str(value)
