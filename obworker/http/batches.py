"""Requests that wait are answered together, in one call for several of them.

Theory of operation. A batch is *open* from its first request until an executor takes it, or until
it is full. To the queue an open batch looks like a free executor. So every request that the queue
begins goes into it: those that arrived in the same turn of the loop, those that waited in this
worker, and those that wait in the exchange. A batch is only opened when an executor is free:

    beside    The batch is given to the executor at once. More requests can join while the executor
              wakes up, and while another thread holds the wheel.
    inline    It begins when the loop has handled all events of this turn.
    waiting   With a `wait`, either begins when the first request is that old. The time that it has
              waited in the queue counts.

So without a `wait` no request is ever delayed: a batch consists of what has to wait anyway.

The application answers a batch in steps. After each of its calls it yields what answers the
requests of that call, which are sent at once; the deadlines of the others begin anew. Each response
is made in the cycle of its request, so framing, logs and errors are the same as without batches.
But it is made whole before it is sent, as a client that is slow to read must not delay the others.
`obworker.is_lost` in the environ says whether the client of a request has gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from obworker.http.answer import ClientGoneError
from obworker.http.cycle import Application, Cycle, StartResponse

if TYPE_CHECKING:
    from obworker.http.environ import Environ
    from obworker.http.executors import Done, Executors
    from obworker.http.reactor import Reactor

Answers = Sequence[tuple[int, Application]]
AnswerAll = Callable[["Sequence[Environ]"], Iterable[Answers]]


class Batching(NamedTuple):
    """How requests are answered together: by what, up to how many, and the longest wait.

    `answer_all` yields the answers to some of them, with their places, until each has one; it may
    yield an empty sequence to begin the deadlines anew. The first waits `wait` seconds for others.
    """

    answer_all: AnswerAll
    size: int
    wait: float


class Member(NamedTuple):
    """A request in a batch; `done`, called with the wheel held, takes the rest of its response."""

    cycle: Cycle
    done: Done


Members = dict[int, Member]
"""The members of a batch that are not answered yet, by their places."""


Rests = list[tuple[Member, bytes]]
"""Members that are answered, each with the part of its response that is still to be sent."""


class Batch:
    """Requests that will be answered together."""

    __slots__ = ("has_begun", "members")

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.has_begun = False


class Batches:
    """The executors as the queue sees them, where requests are answered in batches.

    `on_busy` is called when a batch that was open leaves no executor free. Methods are for who
    holds the wheel.
    """

    def __init__(
        self,
        batching: Batching,
        reactor: Reactor,
        executors: Executors,
        on_busy: Callable[[], None],
    ) -> None:
        self._batching = batching
        self._reactor = reactor
        self._executors = executors
        self._on_busy = on_busy
        self._open: Batch | None = None

    @property
    def is_inline(self) -> bool:
        """Whether a batch that begins keeps the loop until it is over."""
        return self._executors.is_inline

    @property
    def average(self) -> float:
        """The moving average of the time that a batch takes, in seconds."""
        return self._executors.average

    @property
    def busy(self) -> bool:
        """Whether a request submitted now would have to wait for a batch to end."""
        return self._open is None and self._executors.busy

    def submit(self, cycle: Cycle, done: Done) -> None:
        """Have a request answered in the batch that is open, or in a new one."""
        batch = self._open
        is_new = batch is None
        if batch is None:
            self._open = batch = Batch()
        batch.members.append(Member(cycle, done))
        if len(batch.members) >= self._batching.size:
            self._open = None
            self._begin(batch)
        elif is_new:
            self._begin_later(batch, cycle.received + self._batching.wait - time.monotonic())

    def stop_waiting(self) -> None:
        """Let no batch wait for others from now on: hardly any will come."""
        self._batching = self._batching._replace(wait=0.0)
        if self._open is not None:
            self._reactor.post(self._begin, self._open)

    def _begin_later(self, batch: Batch, seconds: float) -> None:
        if seconds > 0 and self._batching.wait:
            self._reactor.call_later(seconds, self._begin, batch)
        elif self.is_inline:
            self._reactor.post(self._begin, batch)
        else:
            self._begin(batch)

    def _begin(self, batch: Batch) -> None:
        if not batch.has_begun:
            batch.has_begun = True
            self._executors.submit(partial(self._run, batch), self._finish)

    def _close(self, batch: Batch) -> None:
        """Let no more requests into a batch."""
        if self._open is batch:
            self._open = None
            if self.busy and not self.is_inline:
                self._on_busy()

    # on an executor's thread

    def _run(self, batch: Batch) -> Rests:
        """Answer a batch; return what is still to be sent."""
        self._executors.call(self._close, batch)
        members, batch.members = batch.members, []  # a timer may refer to the batch for longer
        present: list[Member] = []
        gone: list[Member] = []
        for member in members:
            (present if _enters(member.cycle) else gone).append(member)
        rests = _run((member, None) for member in gone)
        left = dict(enumerate(present))
        environs = [_environ_of(member.cycle, left) for member in present]
        _let_go_on([member.cycle for member in present])
        for answers in _told(self._batching.answer_all, environs, left):
            rests += _run((left.pop(place), application) for place, application in answers)
            if left:
                self._executors.call(self._finish, rests)
                rests = []
                _let_go_on([member.cycle for member in left.values()])
        return rests

    def _finish(self, rests: Rests) -> None:
        for member, rest in rests:
            self._reactor.call_safely(member.done, rest)


def _run(answered: Iterable[tuple[Member, Application | None]]) -> Rests:
    """Run the answers to some requests; return what is left to send."""
    return [(member, member.cycle.run(application)) for member, application in answered]


def _enters(cycle: Cycle) -> bool:
    """Have a cycle enter predict; return False where it cannot, or its client has gone."""
    try:
        cycle.enter()
    except (ClientGoneError, MemoryError, OSError):  # its own run meets the error again
        return False
    return True


def _told(answer_all: AnswerAll, environs: Sequence[Environ], left: Members) -> Iterator[Answers]:
    """Yield what the application yields; whatever it raises, every cycle that is left raises."""
    try:
        yield from answer_all(environs)
    except GeneratorExit:  # Ctrl-C has ended the caller
        raise
    except BaseException as error:  # noqa: BLE001  # the request seam of each takes it
        yield [(place, partial(_raise, error)) for place in left]


def _raise(error: BaseException, _environ: Environ, _start_response: StartResponse) -> NoReturn:
    raise error


def _let_go_on(cycles: Sequence[Cycle]) -> None:
    """Renew the deadlines of those that are not answered yet; the first reports for all of them.

    Starting with the last: a monitor shows the first deadline, and searches again when that moves.
    """
    for place in reversed(range(len(cycles))):
        cycles[place].is_led = place > 0
        cycles[place].renew_deadline()


def _environ_of(cycle: Cycle, left: Members) -> Environ:
    """Return an environ with what gives all of them more time, and what says who has left."""
    cycle.environ["obworker.extend_deadline"] = partial(_extend_deadlines, left)
    cycle.environ["obworker.is_lost"] = partial(_is_lost, cycle)
    return cycle.environ


def _is_lost(cycle: Cycle) -> bool:
    return cycle.client_gone


def _extend_deadlines(left: Members, seconds: float) -> None:
    for member in list(left.values()):
        member.cycle.extend_deadline(seconds)
