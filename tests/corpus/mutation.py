"""Makes broken requests from entries of the corpus, by random edits."""

from __future__ import annotations

from random import Random

from corpus import CORPUS
from corpus.served import SERVED

# Pieces of requests, and bytes that must not be in one.
TOKENS = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b"\t", b" ", b"\x0b", b"\x7f", b"\xff", b"\xa0"),
    *(b":", b",", b";", b'"', b"\\", b"/", b"*", b"%", b"#", b"[", b"@", b"_", b"0x", b"+", b"-"),
    *(b"0", b"1", b"9" * 20, b"f" * 16, b"GET", b"HTTP/1.1", b"HTTP/1.0", b"http://a", b"a" * 5000),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked", b"Host: b\r\n"),
    *(b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n", b";a=b", b"X: y\r\n"),
]
MOST_EDITS = 4
LONGEST_SLICE = 20


def mutated(random: Random) -> bytes:
    """Return an entry's bytes after a few edits."""
    raw = random.choice(random.choice((SERVED, CORPUS))).raw
    for _ in range(random.randint(1, MOST_EDITS)):
        raw = random.choice(EDITS)(raw, random)
    return raw


def cut(raw: bytes, random: Random) -> list[bytes]:
    """Return the bytes in up to three pieces."""
    first, second = sorted((random.randint(0, len(raw)), random.randint(0, len(raw))))
    return [piece for piece in (raw[:first], raw[first:second], raw[second:]) if piece]


def insert(raw: bytes, random: Random) -> bytes:
    at = random.randint(0, len(raw))
    return raw[:at] + random.choice(TOKENS) + raw[at:]


def replace(raw: bytes, random: Random) -> bytes:
    start, end = _slice(raw, random)
    return raw[:start] + random.choice(TOKENS) + raw[end:]


def remove(raw: bytes, random: Random) -> bytes:
    start, end = _slice(raw, random)
    return raw[:start] + raw[end:]


def repeat(raw: bytes, random: Random) -> bytes:
    start, end = _slice(raw, random)
    return raw[:end] + raw[start:]


def splice(raw: bytes, random: Random) -> bytes:
    """Replace the rest of the bytes by the rest of another entry."""
    other = random.choice(CORPUS).raw
    return raw[: random.randint(0, len(raw))] + other[random.randint(0, len(other)) :]


def append(raw: bytes, random: Random) -> bytes:
    return raw + random.choice(CORPUS).raw


def _slice(raw: bytes, random: Random) -> tuple[int, int]:
    start = random.randint(0, len(raw))
    return start, start + random.randint(1, LONGEST_SLICE)


EDITS = [insert, replace, remove, repeat, splice, append]
