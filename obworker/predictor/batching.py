"""Several requests become one call of predict_batch, and its list becomes their outcomes.

Theory of operation. Each request is an `Item` with a context of its own, in which its arguments are
found: what is wrong with one, such as a body that is no JSON, keeps that one out of the call and no
other. The rest is parted by batch_key, and each part is a call, in the order of their first
requests. A call that raises is made again for each of its items alone, once, so that one bad
request does not fail its neighbours; a call that ends but gives no list of the right length is not,
for it would do so again. Nothing is called for whom nobody waits any more.

predict_batch runs in a context that belongs to all of them: what a context holds for one request,
Flask's request for example, is not there, also where there is only one.
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

from obworker.log import about_request, request_id, set_request_id
from obworker.predictor import reply
from obworker.predictor.arguments import Call
from obworker.predictor.deadline import extension
from obworker.predictor.encoding import ReplyError
from obworker.predictor.errands import Abandoned, Errand, is_async_iterable
from obworker.predictor.traces import summarise

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from obworker.predictor.injection import BatchPlan, Binding, Plan
    from obworker.predictor.loop import PredictorLoop

log = logging.getLogger("obworker.predictor")

Resolvers = dict[str, Callable[[Call], object]]

DEFAULT_SIZE = 8
TRIED_ALONE = "predict_batch for %d requests raised %s; each is tried alone"


class BatchLimits(NamedTuple):
    """How many requests one call may be for, and how many seconds the first waits for others."""

    size: int = DEFAULT_SIZE
    wait: float = 0.0


class Item:
    """One request of a batch, from its environ to what came of it.

    It goes together with others of its `key`; `id` is what the log calls it.
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
        """Return what predict would get by that name; found once."""
        if name not in self._arguments:
            self._arguments[name] = self._resolvers[name](self.call)
        return self._arguments[name]

    def settle(self, value: object) -> None:
        """Keep what predict_batch gave for it; an exception stands for one that predict raises."""
        if isinstance(value, BaseException):
            self._error = value
        elif reply.is_stream(value) or is_async_iterable(value):
            kind = type(value).__name__
            self._error = ReplyError(f"a {kind} from predict_batch; only predict can stream")
        else:
            self._value = value

    @property
    def is_lost(self) -> bool:
        """Whether nobody waits for it any more; a server may tell."""
        ask = self.call.environ.get("obworker.is_lost")
        return ask is not None and ask()

    @property
    def has_failed(self) -> bool:
        """Whether an exception came of it."""
        return self._error is not None

    def outcome(self, _call: Call) -> object:
        """Return what came of it, or raise it; called once."""
        if self._error is None:
            return self._value
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # it refers to this frame by its traceback


class Reader:
    """Makes items of requests, for one predictor.

    `introduce` puts into a request's context what belongs there, and `prepare` what Flask needs.
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

    def columns(self) -> Binding[Sequence[Item]]:
        """Return what calls predict_batch with a list for each name."""
        return self._plan.predict.bind({name: partial(_column, name) for name in self._resolvers})

    def read(self, environ: WSGIEnvironment) -> Item:
        """Make an item with its arguments and its key; what is raised there comes of it."""
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
    """Return what calls batch_key with the arguments of an item, where there is one."""
    if plan is None or batch_key is None:
        return lambda _: None  # any two go together
    return partial(plan.bind({name: partial(_cell, name) for name in names}).call, batch_key)


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

    At most `most_calls` of its calls are under way at once. `surroundings` is entered for each.
    `examine` says of an error whether the GPU is lost, after which no call is to be made.
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
        self._predict_batch = partial(reader.columns().call, predict_batch)
        self._reader = reader
        self._loop = loop
        self._gate = threading.Semaphore(most_calls) if most_calls else contextlib.nullcontext()
        self._examine = examine
        self._surroundings = surroundings

    def items(self, environs: Sequence[WSGIEnvironment]) -> list[Item]:
        """Return an item for each request."""
        return [self._reader.read(environ) for environ in environs]

    def settle(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Have something come of each item; yield those of which it just has.

        An empty list is yielded, too: before calls are made that follow on one that failed.
        """
        sound = yield from _without_failed(items)
        for part in parted(sound):
            yield from self._call_awaited(part)

    def _call_awaited(self, items: list[Item]) -> Iterator[list[Item]]:
        """Make a call for those that somebody waits for."""
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
        """Return what came of one call, be it that it raised."""
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
    """Yield those of which an error came already, if any; return the others."""
    failed = [item for item in items if item.has_failed]
    sound = [item for item in items if not item.has_failed]
    if failed:
        yield failed
    return sound


def parted(items: Iterable[Item]) -> list[list[Item]]:
    """Return items that may go together, in the order of the first of each part."""
    parts: dict[Hashable, list[Item]] = {}
    for item in items:
        parts.setdefault(item.key, []).append(item)
    return list(parts.values())


def align(results: object, count: int) -> Sequence[object]:
    """Return what predict_batch gave, for each of `count` requests; else the error for each."""
    if not isinstance(results, list | tuple):
        kind = "stream" if isinstance(results, Errand) else type(results).__name__
        problem = f"a {kind} from predict_batch; it must be a list of {count}, one for each request"
    elif len(results) != count:
        problem = f"a list of {len(results)} from predict_batch for {count} requests"
    else:
        return results
    return [ReplyError(problem) for _ in range(count)]


def _name(items: Sequence[Item]) -> str:
    """Return what a log calls them: the first one's id, and how many more there are."""
    others = len(items) - 1
    return f"{items[0].id}+{others}" if others else items[0].id


def _when_all_are_lost(items: Sequence[Item], call: Callable[[], object]) -> None:
    """Have a call made once nobody waits for any of the items."""
    waited_for = list(items)

    def lose_one() -> None:
        waited_for.pop()
        if not waited_for:
            call()

    for item in items:
        on_lost = item.call.environ.get("obworker.on_lost")
        if on_lost is not None:
            on_lost(lose_one)
