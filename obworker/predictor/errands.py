"""Something to await is sent to an event loop by a thread that waits for what comes of it.

Theory of operation. An errand is one task from its first step to its last, in a copy of the context
of the thread that sent it. So whatever belongs to a task may span the items of a generator: a
``timeout()``, a cancel scope of anyio's, a context variable. An item is produced when the thread
asks for it, and not before: a slow reader pauses the generator. The errand is over when

    its value, or its last item, has reached the thread;
    the thread closes it: ``aclose()`` is awaited where the generator stands, at a ``yield``;
    it is given up, because nobody needs it any more: the task is cancelled where it stands.

The thread waits at a queue, which holds one outcome at most; the task waits for an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterator
from queue import SimpleQueue
from typing import NamedTuple, TypeGuard

from obworker.errors import RequestError

_STREAM = object()
_END = object()


class PredictCancelled(Exception):
    """Something cancelled predict, or predict itself did.

    Stands for asyncio's CancelledError: that is no Exception, and would end a server's thread.
    """


class Abandoned(RequestError):
    """Nobody waits for the response; the status is the one that nginx logs then."""

    status = 499
    reason = "Client Closed Request"


def is_awaitable(value: object) -> TypeGuard[Awaitable[object]]:
    """Say whether `value` is a coroutine or a future."""
    return hasattr(type(value), "__await__")


def is_async_iterable(value: object) -> TypeGuard[AsyncIterable[object]]:
    """Say whether `value` is an asynchronous generator, or is to be iterated as one."""
    return hasattr(type(value), "__aiter__")


class Errand(Iterator[object]):
    """Awaits `value` on `loop`; made, asked and closed by one thread, in another than the loop's.

    Where an asynchronous iterator comes of it, it is the iterator of the items.
    """

    def __init__(self, loop: AbstractEventLoop, value: object) -> None:
        self._loop = loop
        self._outcomes: SimpleQueue[object] = SimpleQueue()
        self._asked = asyncio.Event()
        self._closing = False
        self._given_up = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        # What is called by this has a copy of this thread's context, and so has a task it makes.
        loop.call_soon_threadsafe(self._begin, value)

    def result(self) -> object:
        """Wait for what comes of it.

        Raises:
            Abandoned: it was given up.
            PredictCancelled: it raised CancelledError for another reason.
            BaseException: whatever else it raised.
        """
        outcome = self._wait()
        return self if outcome is _STREAM else outcome

    def __next__(self) -> object:
        if self._ended:
            raise StopIteration
        self._loop.call_soon_threadsafe(self._asked.set)
        outcome = self._wait()
        if outcome is _END:
            raise StopIteration
        return outcome

    def close(self) -> None:
        """Close the generator; its ``finally`` has run when this returns."""
        if not self._ended:
            self._loop.call_soon_threadsafe(self._close)
            with contextlib.suppress(Abandoned):
                self._wait()

    def give_up(self) -> None:
        """Cancel what is awaited; any thread may ask for it, and too late."""
        self._loop.call_soon_threadsafe(self._give_up)

    def _wait(self) -> object:
        outcome = self._outcomes.get()
        if not isinstance(outcome, _Raised):
            self._ended = outcome is _END
            return outcome
        self._ended = True
        try:
            raise self._explain(outcome.error)
        finally:
            del outcome  # it refers to this frame by its traceback

    def _explain(self, error: BaseException) -> BaseException:
        if not isinstance(error, CancelledError):
            return error
        if self._given_up:
            return Abandoned()
        return PredictCancelled(*error.args).with_traceback(error.__traceback__)

    # the rest runs in the loop's thread

    def _begin(self, value: object) -> None:
        self._task = self._loop.create_task(self._run(value))

    def _close(self) -> None:
        self._closing = True
        self._asked.set()

    def _give_up(self) -> None:
        assert self._task is not None
        if not self._closing:  # what aclose() awaits is to be done
            self._given_up = True
            # Later: a task that is cancelled before its first step tells nobody of its end.
            self._loop.call_soon(self._task.cancel)

    async def _run(self, value: object) -> None:
        try:
            if is_awaitable(value):
                value = await value
            if is_async_iterable(value):
                self._outcomes.put(_STREAM)
                await self._hand_over(_as_generator(value))
                value = _END
            self._outcomes.put(value)
        except BaseException as error:  # noqa: BLE001  # the thread raises it, up to its seam
            self._outcomes.put(_Raised(error))

    async def _hand_over(self, items: AsyncGenerator[object, None]) -> None:
        """Produce an item whenever the thread asks for one."""
        async with contextlib.aclosing(items):
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    self._outcomes.put(await self._next(items))

    async def _next(self, items: AsyncGenerator[object, None]) -> object:
        try:
            await self._until_asked()
        except CancelledError as error:
            # Most likely by a timeout() around the yield at which the generator stands. It is to
            # hear of it there and at once: anyio cancels again and again until that is so.
            item = await items.athrow(error)
            await self._until_asked()
            return item
        return await anext(items)

    async def _until_asked(self) -> None:
        await self._asked.wait()
        self._asked.clear()
        if self._closing:
            raise StopAsyncIteration


class _Raised(NamedTuple):
    """An outcome that the thread is to raise."""

    error: BaseException


def _as_generator(items: AsyncIterable[object]) -> AsyncGenerator[object, None]:
    iterator = aiter(items)
    return iterator if isinstance(iterator, AsyncGenerator) else _pass_on(iterator)


async def _pass_on(iterator: AsyncIterator[object]) -> AsyncGenerator[object, None]:
    """Do what `iterator` does; a generator can be thrown at and closed in any case."""
    try:
        async for item in iterator:
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
