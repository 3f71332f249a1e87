"""A thread has an event loop await something, and waits for the outcome.

Theory of operation. An errand is one task, from beginning to end, in a copy of the context of the
thread that made it. So what belongs to a task can span several items of a generator: a
``timeout()``, a cancel scope of anyio, a context variable. Each item is produced only when the
thread asks for it, so a slow reader pauses the generator. The errand ends when

    its value or its last item was passed to the thread;
    the thread closes it: ``aclose()`` of the generator, which stands at a ``yield``, is awaited;
    it is given up because nobody needs the outcome any more: the task is cancelled.

The thread waits on a queue, which holds one outcome at most; the task waits for an event.
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
    """predict was cancelled, by itself or by something else than its server.

    Replaces asyncio's CancelledError, which is not an Exception and would end a server's thread.
    """


class Abandoned(RequestError):
    """The client has gone; the status is the one that nginx logs for this."""

    status = 499
    reason = "Client Closed Request"


def is_awaitable(value: object) -> TypeGuard[Awaitable[object]]:
    """Return whether `value` can be awaited: a coroutine or a future."""
    return hasattr(type(value), "__await__")


def is_async_iterable(value: object) -> TypeGuard[AsyncIterable[object]]:
    """Return whether `value` is an asynchronous iterable, such as an asynchronous generator."""
    return hasattr(type(value), "__aiter__")


class Errand(Iterator[object]):
    """Awaits `value` on `loop`; made, iterated and closed by one thread, not the loop's.

    If the outcome is an asynchronous iterator, the errand is an iterator of its items.
    """

    def __init__(self, loop: AbstractEventLoop, value: object) -> None:
        self._loop = loop
        self._outcomes: SimpleQueue[object] = SimpleQueue()
        self._asked = asyncio.Event()
        self._closing = False
        self._given_up = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        # The call runs in a copy of this thread's context, and so does the task that it makes.
        loop.call_soon_threadsafe(self._begin, value)

    def result(self) -> object:
        """Wait for the outcome, and return it.

        Raises:
            Abandoned: it was given up.
            PredictCancelled: it was cancelled in another way.
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
        """Cancel the task; any thread may call this, at any time."""
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
            del outcome  # its traceback refers to this frame

    def _explain(self, error: BaseException) -> BaseException:
        if not isinstance(error, CancelledError):
            return error
        if self._given_up:
            return Abandoned()
        return PredictCancelled(*error.args).with_traceback(error.__traceback__)

    # what follows runs in the loop's thread

    def _begin(self, value: object) -> None:
        self._task = self._loop.create_task(self._run(value))

    def _close(self) -> None:
        self._closing = True
        self._asked.set()

    def _give_up(self) -> None:
        assert self._task is not None
        if not self._closing:  # what aclose() awaits must not be cancelled
            self._given_up = True
            # Not at once: a task that is cancelled before its first step would give no outcome.
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
            # Most likely from a timeout() around the yield at which the generator stands. It must
            # be raised there at once: anyio repeats the cancellation until it is.
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
    """An outcome that the thread must raise."""

    error: BaseException


def _as_generator(items: AsyncIterable[object]) -> AsyncGenerator[object, None]:
    iterator = aiter(items)
    return iterator if isinstance(iterator, AsyncGenerator) else _pass_on(iterator)


async def _pass_on(iterator: AsyncIterator[object]) -> AsyncGenerator[object, None]:
    """Wrap an iterator in a generator, which always has athrow() and aclose()."""
    try:
        async for item in iterator:
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
