"""Several requests become one call of predict_batch, and its list becomes their outcomes.

Theory of operation. Each request becomes an `Item`, whose arguments are found in a context of its
own. An error there, such as a body that is not JSON, fails this item and no other. The rest is
divided by batch_key; each part is one call, in the order of their first requests. If a call raises,
it is repeated once for each of its items alone, so that one bad request does not fail the others.
If it returns something else than a list of the right length, it is not repeated: it would do the
same again. Requests whose clients have gone are left out of calls.

predict_batch runs in a context that belongs to no single request. What a request's own context
holds, such as Flask's request, is not there, even if the batch has one item.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from obworker.predictor import reply
from obworker.predictor.arguments import Call
from obworker.predictor.deadline import extension
from obworker.predictor.encoding import ReplyError
from obworker.predictor.errands import Abandoned, Errand, is_async_iterable
from obworker.predictor.traces import summarise
from obworker.request_context import about_request, request_id, set_request_id

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from obworker.predictor.injection import BatchPlan, Plan
    from obworker.predictor.loop import PredictorLoop

log = logging.getLogger("obworker.predictor")

Resolvers = dict[str, Callable[[Call], object]]

DEFAULT_SIZE = 8
TRIED_ALONE = "predict_batch for %d requests raised %s; each is tried alone"


class BatchLimits(NamedTuple):
    """The most requests in one call, and how many seconds the first waits for others."""

    size: int = DEFAULT_SIZE
    wait: float = 0.0


class Item:
    """One request of a batch, from its environ to its outcome: a value or an exception.

    Items with the same `key` may share a call. `id` is the request's id.
    """

    __slots__ = ("_arguments", "_error", "_resolvers", "_value", "call", "context", "id", "key")

    def __init__(self, environ: WSGIEnvironment, resolvers: Resolvers) -> None:
        self.call = Call(environ)
        self.context = copy_context()
        self.id = ""
        self.key: Hashable = None
        self._resolvers = resolvers
        self._arguments: dict[str, object] = {}
        self._value: object = None
        self._error: BaseException | None = None

    def argument(self, name: str) -> object:
        """Return the argument of that name; it is made once."""
        if name not in self._arguments:
            self._arguments[name] = self._resolvers[name](self.call)
        return self._arguments[name]

    def settle(self, value: object) -> None:
        """Set the outcome; an exception counts as one that predict raises."""
        if isinstance(value, BaseException):
            self._error = value
        elif reply.is_stream(value) or is_async_iterable(value):
            kind = type(value).__name__
            self._error = ReplyError(f"a {kind} from predict_batch; only predict can stream")
        else:
            self._value = value

    @property
    def is_lost(self) -> bool:
        """Whether the client has gone, as far as the server tells."""
        ask = self.call.environ.get("obworker.is_lost")
        return ask is not None and ask()

    @property
    def has_failed(self) -> bool:
        """Whether the outcome is an exception."""
        return self._error is not None

    def outcome(self, _call: Call) -> object:
        """Return the outcome, or raise it; called once."""
        if self._error is None:
            return self._value
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # it refers to this frame by its traceback


class Reader:
    """Makes items from requests, for one predictor.

    `introduce` prepares the context of a request, `prepare` does so for Flask.
    """

    def __init__(
        self,
        plan: BatchPlan,
        batch_key: Callable[..., object] | None,
        resolvers: Resolvers,
        *,
        introduce: Callable[[WSGIEnvironment], object],
        prepare: Callable[[Call], object] | None,
    ) -> None:
        self._plan = plan
        self._resolvers = resolvers
        self._introduce = introduce
        self._prepare = prepare
        self._find_key = _key_finder(plan.key, batch_key, resolvers)

    def bind(self, predict_batch: Callable[..., object]) -> Callable[[Sequence[Item]], object]:
        """Return a call of `predict_batch` with a list for each argument."""
        columns = {name: partial(_column, name) for name in self._resolvers}
        return self._plan.predict.bind(predict_batch, columns)

    def read(self, environ: WSGIEnvironment) -> Item:
        """Make an item with its arguments and its key; an exception becomes its outcome."""
        item = Item(environ, self._resolvers)
        item.context.run(self._fill, item)
        return item

    def _fill(self, item: Item) -> None:
        self._introduce(item.call.environ)
        item.id = request_id()
        try:
            if self._prepare is not None:
                self._prepare(item.call)
            for name in self._plan.predict.names:
                item.argument(name)
            item.key = _hashable(self._find_key(item))
        except BaseException as error:  # noqa: BLE001  # the request seam: the item raises it there
            item.settle(error)


def _key_finder(
    plan: Plan | None, batch_key: Callable[..., object] | None, names: Iterable[str]
) -> Callable[[Item], object]:
    """Return what finds the key of an item: batch_key, or None for all without one."""
    if plan is None or batch_key is None:
        return lambda _: None  # all may share a call
    return plan.bind(batch_key, {name: partial(_cell, name) for name in names})


def _cell(name: str, item: Item) -> object:
    return item.argument(name)


def _column(name: str, items: Sequence[Item]) -> list[object]:
    return [item.argument(name) for item in items]


def _hashable(key: object) -> Hashable:
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(f"batch_key: {error}") from None
    return key


class Batcher:
    """Calls predict_batch of one predictor.

    At most `most_calls` are made at once, each inside the context manager that `surroundings`
    makes. `examine` returns whether an error means that the GPU is lost; then nothing is repeated.
    """

    def __init__(
        self,
        predict_batch: Callable[..., object],
        reader: Reader,
        loop: PredictorLoop,
        *,
        examine: Callable[[BaseException], bool],
        most_calls: int | None,
        surroundings: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._predict_batch = reader.bind(predict_batch)
        self._reader = reader
        self._loop = loop
        self._gate = threading.Semaphore(most_calls) if most_calls else contextlib.nullcontext()
        self._examine = examine
        self._surroundings = surroundings

    def items(self, environs: Sequence[WSGIEnvironment]) -> list[Item]:
        """Return an item for each request."""
        return [self._reader.read(environ) for environ in environs]

    def settle(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Give each item an outcome; after each call yield the items that have just got theirs.

        An empty list is yielded before a failed call is repeated: that takes more time.
        """
        sound = yield from _without_failed(items)
        for part in parted(sound):
            yield from self._call_awaited(part)

    def _call_awaited(self, items: list[Item]) -> Iterator[list[Item]]:
        """Make a call for the items whose clients are still there."""
        for item in items:
            if item.is_lost:
                item.settle(Abandoned())
        sound = yield from _without_failed(items)
        if sound:
            yield from self._call(sound)

    def _call(self, items: list[Item]) -> Iterator[list[Item]]:
        outcome = copy_context().run(self._call_together, items)
        if isinstance(outcome, BaseException):
            if len(items) > 1 and self._may_try_alone(outcome):
                with about_request(_name(items)):
                    log.warning(TRIED_ALONE, len(items), summarise(outcome))
                yield []
                for item in items:
                    yield from self._call_awaited([item])
                return
            outcome = [outcome] * len(items)
        for item, result in zip(items, outcome, strict=True):
            item.settle(result)
        yield items

    def _may_try_alone(self, error: BaseException) -> bool:
        return not isinstance(error, KeyboardInterrupt | Abandoned) and not self._examine(error)

    def _call_together(self, items: list[Item]) -> Sequence[object] | BaseException:
        """Make one call; return its results, or the exception that it raised."""
        set_request_id(_name(items))
        try:
            return self._results(items)
        except BaseException as error:  # noqa: BLE001  # the request seam: the items raise it there
            return error

    def _results(self, items: list[Item]) -> Sequence[object]:
        extension.set(items[0].call.environ.get("obworker.extend_deadline"))
        with self._gate, self._surroundings():
            results = self._predict_batch(items)
            results = self._loop.settle(results, partial(_when_all_are_lost, items))
            if isinstance(results, Errand):  # its task would wait for ever to be asked
                results.close()
        return align(results, len(items))


def _without_failed(items: Sequence[Item]) -> Generator[list[Item], None, list[Item]]:
    """Yield the items that have failed already, if any; return the others."""
    failed = [item for item in items if item.has_failed]
    sound = [item for item in items if not item.has_failed]
    if failed:
        yield failed
    return sound


def parted(items: Iterable[Item]) -> list[list[Item]]:
    """Divide items by key, in the order of the first of each part."""
    parts: dict[Hashable, list[Item]] = {}
    for item in items:
        parts.setdefault(item.key, []).append(item)
    return list(parts.values())


def align(results: object, count: int) -> Sequence[object]:
    """Return the results for each of `count` requests, or an error for each if they do not fit."""
    if not isinstance(results, list | tuple):
        kind = "stream" if isinstance(results, Errand) else type(results).__name__
        problem = f"a {kind} from predict_batch; it must be a list of {count}, one for each request"
    elif len(results) != count:
        problem = f"a list of {len(results)} from predict_batch for {count} requests"
    else:
        return results
    return [ReplyError(problem) for _ in range(count)]


def _name(items: Sequence[Item]) -> str:
    """Return the id of a call for the log: that of the first item, and how many others it has."""
    others = len(items) - 1
    return f"{items[0].id}+{others}" if others else items[0].id


def _when_all_are_lost(items: Sequence[Item], call: Callable[[], object]) -> None:
    """Have `call` called when the clients of all items have gone."""
    waited_for = list(items)

    def lose_one() -> None:
        waited_for.pop()
        if not waited_for:
            call()

    for item in items:
        on_lost = item.call.environ.get("obworker.on_lost")
        if on_lost is not None:
            on_lost(lose_one)
