"""Raw requests and their expected outcomes, written from RFC 9112, RFC 9110 and RFC 3986."""

from __future__ import annotations

from corpus.entries import Entry, Found
from corpus.framing import FRAMING
from corpus.refused import REFUSED
from corpus.served import SERVED

CORPUS = [*SERVED, *REFUSED, *FRAMING]

__all__ = ["CORPUS", "Entry", "Found"]
