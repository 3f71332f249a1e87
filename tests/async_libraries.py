"""The asynchronous HTTP libraries, behind the same calls as the blocking ones."""

from __future__ import annotations

import abc
import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx
from harness import Reply
from libraries import POOL, TIMEOUT, Call, Library, reply


class AsyncLibrary(Library):
    """A library with an event loop of its own, which runs only during a call."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._open())

    def _send(self, call: Call) -> Reply:
        return self._loop.run_until_complete(self._post(call))

    def stream(self, path: str) -> Iterator[bytes]:
        parts = self._parts(path)
        while part := self._loop.run_until_complete(anext(parts, b"")):
            yield part

    def load(self, path: str, over: threading.Event) -> list[Reply]:
        async def post() -> list[Reply]:
            replies = []
            while not over.is_set():
                replies.append(await self._post(Call("POST", path, b"", {})))
            return replies

        async def post_at_once() -> list[Reply]:
            posts = await asyncio.gather(*(post() for _ in range(POOL)))
            return [reply for replies in posts for reply in replies]

        return self._loop.run_until_complete(post_at_once())

    def close(self) -> None:
        self._loop.run_until_complete(self._leave())
        self._loop.close()

    @abc.abstractmethod
    async def _open(self) -> None: ...

    @abc.abstractmethod
    async def _post(self, call: Call) -> Reply: ...

    @abc.abstractmethod
    def _parts(self, path: str) -> AsyncIterator[bytes]: ...

    @abc.abstractmethod
    async def _leave(self) -> None: ...


async def one_by_one(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


class AsyncHttpx(AsyncLibrary):
    """The asynchronous client of httpx."""

    async def _open(self) -> None:
        self._client = httpx.AsyncClient(base_url=self._base, timeout=TIMEOUT, trust_env=False)

    async def _post(self, call: Call) -> Reply:
        content = call.body if isinstance(call.body, bytes) else one_by_one(call.body)
        answer = await self._client.request(
            call.method, call.path, content=content, headers=call.headers
        )
        return reply(answer.status_code, answer.headers, answer.content)

    async def _parts(self, path: str) -> AsyncIterator[bytes]:
        async with self._client.stream("POST", path) as answer:
            async for part in answer.aiter_raw():
                yield part

    async def _leave(self) -> None:
        await self._client.aclose()


class Aiohttp(AsyncLibrary):
    """aiohttp with a session."""

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT))

    async def _post(self, call: Call) -> Reply:
        url = self._base + call.path
        # aiohttp warns about large bodies that are not files
        data = io.BytesIO(call.body) if isinstance(call.body, bytes) else one_by_one(call.body)
        request = self._session.request(call.method, url, data=data, headers=call.headers)
        async with request as answer:
            return reply(answer.status, answer.headers, await answer.read())

    async def _parts(self, path: str) -> AsyncIterator[bytes]:
        async with self._session.post(self._base + path) as answer:
            async for part in answer.content.iter_any():
                yield part

    async def _leave(self) -> None:
        await self._session.close()
