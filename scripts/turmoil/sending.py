"""The different ways in which clients send requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from turmoil.links import Link
from turmoil.orders import Order

PAUSE_SECONDS = 0.03
SLOW_PIECE = 8


def whole(link: Link, orders: Sequence[Order], _: Random) -> None:
    """Send all requests at once; if there are several, they are pipelined."""
    link.send(b"".join(message(order) for order in orders))


def slowly(link: Link, orders: Sequence[Order], _: Random) -> None:
    """Send a few bytes at a time."""
    for order in orders:
        for piece in _pieces(message(order), SLOW_PIECE):
            link.send(piece)
            link.rest(PAUSE_SECONDS)


def chunked(link: Link, orders: Sequence[Order], random: Random) -> None:
    """Send the body in chunks, and pause between some of them."""
    for order in orders:
        link.send(_head(order, "Transfer-Encoding: chunked"))
        body = order.body()
        for piece in _pieces(body, random.randrange(1, len(body) // 3)):
            link.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            if random.random() < 0.2:
                link.rest(PAUSE_SECONDS)
        link.send(b"0\r\n\r\n")


def expecting(link: Link, orders: Sequence[Order], _: Random) -> None:
    """Send the body only after the server has responded with 100 (RFC 9110 10.1.1)."""
    for order in orders:
        body = order.body()
        link.send(_head(order, f"Content-Length: {len(body)}\r\nExpect: 100-continue"))
        head = link.hear_head()
        if head.status != 100:
            raise ValueError(f"{head} in place of 100")
        link.send(body)


def message(order: Order) -> bytes:
    """Return the bytes of a request with a Content-Length, as most clients send it."""
    body = order.body()
    return _head(order, f"Content-Length: {len(body)}") + body


def _head(order: Order, framing: str) -> bytes:
    return (
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Request-ID: {order.id}\r\n{framing}\r\n\r\n"
    ).encode()


def _pieces(whole: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(whole), size):
        yield whole[start : start + size]
