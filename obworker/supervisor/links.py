"""Links between the master and the process in each seat: a channel, and what is known so far.

A link exists from before its process is requested until that is reaped; its channel may be closed
sooner.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from obworker.supervisor.gpus import Device
from obworker.supervisor.messages import Channel, Failed
from obworker.supervisor.scoreboard import Cause
from obworker.supervisor.slots import Seat


@dataclass
class Link:
    """The link of a seat to its process.

    `reason` and `cause` are why the process ends, if known: for people, and for the counters.
    `device` is what it was given: the plan that this came from may be forgotten before it ends.
    """

    channel: Channel
    device: Device
    failure: Failed | None = None
    reason: str = ""
    cause: Cause | None = None
    lost_device: str = ""
    """The error of its GPU, if that has failed."""
    hung_up: bool = False
    """Whether the process closed it, as the kernel does when one ends, before we killed it."""


class Links:
    """The links of all seats that have one."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._links: dict[tuple[int, int], Link] = {}

    def open(self, seat: Seat, device: Device, on_message: Callable[[Seat], None]) -> Channel:
        """Link a seat that has none; return the process's end of the channel.

        Raises:
            OSError: there are no descriptors left.
        """
        ours, theirs = Channel.pair()
        ours.set_blocking(False)
        self._links[_key(seat)] = Link(ours, device)
        self._selector.register(ours, selectors.EVENT_READ, partial(on_message, seat))
        return theirs

    def of(self, seat: Seat) -> Link:
        """Return the link of a seat that has one."""
        return self._links[_key(seat)]

    def find(self, seat: Seat) -> Link | None:
        """Return the link of a seat, if it has one."""
        return self._links.get(_key(seat))

    def close(self, seat: Seat) -> Link:
        """Close the link of a seat, forget it, and return it."""
        link = self._links.pop(_key(seat))
        self.hang_up(link)
        return link

    def hang_up(self, link: Link) -> None:
        """Close the channel of a link, if it is still open."""
        if not link.channel.is_closed:
            self._selector.unregister(link.channel)
            link.channel.close()


def _key(seat: Seat) -> tuple[int, int]:
    return seat.slot, seat.number
