"""Parses the values of options; a ValueError says what is wrong, and what would be right."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from obworker.errors import did_you_mean

BYTE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
LARGEST = 2**31 - 1  # an int of the kernel and of C libraries
LAST_PORT = 65535

Value = TypeVar("Value")
Parse = Callable[[str], Any]


def whole_number(least: int, most: int = LARGEST) -> Parse:
    """Make a parser for a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def seconds(*, zero: bool) -> Parse:
    """Make a parser for a duration in seconds; `zero` says whether 0 (off) is allowed."""
    wanted = "a number of seconds, 0 for off" if zero else "a number of seconds above 0"

    def parse(text: str) -> float:
        is_number = re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text, re.ASCII)
        if not is_number or not (zero or float(text)):
            raise ValueError(f"{text!r} is not {wanted}")
        return float(text)

    return parse


def milliseconds(text: str) -> float:
    """Parse a number of milliseconds."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,3})?", text, re.ASCII):
        raise ValueError(f"{text!r} is not a number of milliseconds, such as 5 or 0.5")
    return float(text)


def size(text: str) -> int:
    """Parse a number of bytes with an optional binary unit: 8190, 64KiB, 100M."""
    match = re.fullmatch(r"(\d{1,15})\s*([kmg]?)(i?b)?", text.strip().lower(), re.ASCII)
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a size above 0 such as 8190, 64KiB or 100MiB")
    return int(match[1]) * BYTE_UNITS[match[2]]


def choice(*allowed: str) -> Parse:
    """Make a parser that takes one of `allowed`, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in allowed:
            nearest = did_you_mean(text.lower(), allowed)
            raise ValueError(f"{text!r} is not one of {', '.join(allowed)}{nearest}")
        return text.lower()

    return parse


def flag(text: str) -> bool:
    """Parse yes or no as people write them in files and environment variables."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is not true or false")


def nonempty(text: str) -> str:
    """Take any text but an empty one."""
    if not text:
        raise ValueError("is empty")
    return text


def absolute_path(text: str) -> str:
    """Make a path absolute: the predictor's process has another working directory."""
    try:
        return str(Path(nonempty(text)).absolute())
    except FileNotFoundError:
        raise ValueError(f"{text!r} is relative to a working directory that is gone") from None


def path_or_off(text: str) -> str:
    """Take a path, or the word off."""
    return "off" if text.lower() == "off" else absolute_path(text)


def host_name(text: str) -> str:
    """Check a host name or an address; only IPv6 addresses have colons."""
    if not _is_host(f"[{text}]" if ":" in text else nonempty(text)):
        raise ValueError(f"{text!r} is not a host such as localhost, 0.0.0.0 or ::1")
    return text


def address(text: str) -> str:
    """Check HOST:PORT, [IPV6]:PORT or unix:PATH; listeners.py takes it apart."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return "unix:" + absolute_path(text.removeprefix("unix:"))
    name, _, port = text.rpartition(":")
    if not (_is_host(name) and is_port(port)):
        raise ValueError(f"{text!r} is not HOST:PORT, [IPV6]:PORT or unix:PATH")
    return text


def is_port(text: str, least: int = 0) -> bool:
    """Whether a text is a port number, not below `least`."""
    return bool(re.fullmatch(r"\d{1,5}", text, re.ASCII)) and least <= int(text) <= LAST_PORT


def _is_host(text: str) -> bool:
    if not text.startswith("["):
        return bool(text) and ":" not in text
    try:
        ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return text.endswith("]")


def addresses(text: str) -> str:
    """Check a list of addresses, or of inherited descriptors: fd:N."""
    tokens = [_address_or_descriptor(token.strip()) for token in text.split(",")]
    inherited = [token.startswith("fd:") for token in tokens]
    if any(inherited) and not all(inherited):
        raise ValueError(f"{text!r}: either all are fd:N or none is")
    named = [token for token in tokens if not token.endswith(":0")]  # each port 0 is another one
    if len(set(named)) < len(named):
        raise ValueError(f"{text!r} has one of them twice")
    return ",".join(tokens)


def _address_or_descriptor(token: str) -> str:
    if not token.startswith("fd:"):
        return address(token)
    if not re.fullmatch(r"fd:(0|[1-9]\d{0,6})", token, re.ASCII):
        raise ValueError(f"{token!r} is not fd:N, the number of an inherited descriptor")
    return token


def address_or_off(text: str) -> str:
    """Check an address, or the word off."""
    return "off" if text.lower() == "off" else _or_off(address, text)


def size_or_off(text: str) -> int:
    """Parse a number of bytes; 0 or the word off is 0."""
    return 0 if text.strip().lower() in ("0", "off") else _or_off(size, text)


def _or_off(parse: Callable[[str], Value], text: str) -> Value:
    """Parse a text for which the word off would be valid, too."""
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{error}, or off") from None


def devices(text: str) -> str:
    """Check the form of a device list; whether the devices exist is checked at the start."""
    tokens = [token.strip() for token in text.split(",")]
    if tokens in (["auto"], ["none"]):
        return tokens[0]
    for token in tokens:
        if not re.fullmatch(r"\d{1,9}|(GPU|MIG)-.*", token, re.ASCII):
            raise ValueError(f"{text!r} is not auto, none or a list: 0,1 or GPU-1a2b,GPU-3c4d")
    return ",".join(tokens)


def file_mode(text: str) -> str:
    """Check the permissions of a file in octal."""
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise ValueError(f"{text!r} is not permissions in octal such as 660")
    return text


def networks(text: str) -> str:
    """Check a list of IP addresses and networks, or * for any."""
    tokens = [token.strip() for token in text.split(",")]
    return "*" if tokens == ["*"] else ",".join(map(_network, tokens))


def _network(token: str) -> str:
    parse = ipaddress.ip_network if "/" in token else ipaddress.ip_address
    try:
        return str(parse(token))
    except ValueError:
        raise ValueError(f"{token!r} is not an address or a network such as 10.0.0.0/8") from None


def origins(text: str) -> str:
    """Check a list of origins as browsers send them (RFC 6454 6.1), or * for any."""
    tokens = [token.strip() for token in text.split(",")]
    if tokens == ["*"]:
        return "*"
    for token in tokens:
        if not re.fullmatch(r"https?://[^/\s?#@]+", token):
            raise ValueError(f"{token!r} is not an origin such as https://app.example, nor *")
    return ",".join(tokens)
