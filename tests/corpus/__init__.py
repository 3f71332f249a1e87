"""Raw requests and their outcomes, written for this project from RFC 9112, 9110 and 3986."""

from __future__ import annotations

from corpus.entries import Entry, Found
from corpus.framing import FRAMING
from corpus.refused import REFUSED
from corpus.served import SERVED

CORPUS = [*SERVED, *REFUSED, *FRAMING]

__all__ = ["CORPUS", "Entry", "Found"]
