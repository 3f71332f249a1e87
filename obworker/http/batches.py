"""Requests that wait are answered together: one call for as many as are here, up to a size.

Theory of operation. A batch is *open* from its first request until an executor takes it, or until
it is full. To the queue an open batch is a free executor, so whatever makes a request begin puts it
there: what came with the same look at the sockets, what has waited here, and what waits in the
exchange. When it is opened an executor is free:

    beside    The batch is given to the executor at once. While that wakes up, and while somebody
              else holds the wheel, more may come.
    inline    It begins when the loop has seen to all that happened.
    waiting   With `wait`, either begins when the first request is that old. One that has waited as
              long in the queue waits no more.

So with no wait, none is ever added for a request alone: batches form of what has to wait anyway.

The application answers a batch in steps: what it calls for some requests it yields as what answers
each of them, and they are sent. The deadlines of the others begin anew then. What answers runs in
the cycle of its request, so framing, logs, refusals and mistakes are what they are without batches;
but a response is made whole before it is sent, for a client that is slow to read must not hold up
the others. For whom nobody waits any more, `obworker.is_lost` in the environ tells.
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
    """What answers requests at once, how many, and how many seconds the first waits for others.

    `answer_all` yields what answers some of them, by their places, until there is one for each; it
    may yield nothing where more time is needed.
    """

    answer_all: AnswerAll
    size: int
    wait: float


class Member(NamedTuple):
    """A request in a batch; `done` gets the rest of its response, with the wheel in hand."""

    cycle: Cycle
    done: Done


Members = dict[int, Member]
"""Those of a batch that are yet to be answered, by their places."""


Rests = list[tuple[Member, bytes]]
"""Members that are answered, and what is left of their responses to be sent."""


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
        """How long a batch takes of late, in seconds."""
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
        """Have no batch wait for others from now on: hardly any will come."""
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
        """Answer a batch; return what is yet to be sent: who takes it finds what to do next."""
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
    """Have what answers some requests do so; return what is left to send."""
    return [(member, member.cycle.run(application)) for member, application in answered]


def _enters(cycle: Cycle) -> bool:
    """Have a cycle enter predict; say whether it could, and anybody waits for it."""
    try:
        cycle.enter()
    except (ClientGoneError, MemoryError, OSError):  # to be run alone it enters again
        return False
    return True


def _told(answer_all: AnswerAll, environs: Sequence[Environ], left: Members) -> Iterator[Answers]:
    """Yield what the application does; what it raises, each cycle that is left raises."""
    try:
        yield from answer_all(environs)
    except GeneratorExit:  # nobody asks any more: Ctrl-C has ended what did
        raise
    except BaseException as error:  # noqa: BLE001  # the request seam of each takes it
        yield [(place, partial(_raise, error)) for place in left]


def _raise(error: BaseException, _environ: Environ, _start_response: StartResponse) -> NoReturn:
    raise error


def _let_go_on(cycles: Sequence[Cycle]) -> None:
    """Give those that are yet to be answered their time anew; one speaks for all if it is over.

    The last one first: of the first a monitor knows that its deadline comes first, and looks for
    another when that has moved.
    """
    for place in reversed(range(len(cycles))):
        cycles[place].is_led = place > 0
        cycles[place].renew_deadline()


def _environ_of(cycle: Cycle, left: Members) -> Environ:
    """Return the environ of one, which tells how to give all more time, and who has left."""
    cycle.environ["obworker.extend_deadline"] = partial(_extend_deadlines, left)
    cycle.environ["obworker.is_lost"] = partial(_is_lost, cycle)
    return cycle.environ


def _is_lost(cycle: Cycle) -> bool:
    return cycle.client_gone


def _extend_deadlines(left: Members, seconds: float) -> None:
    for member in list(left.values()):
        member.cycle.extend_deadline(seconds)
