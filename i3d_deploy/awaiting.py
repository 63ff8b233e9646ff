"""Waiting in asyncio for what blocks a thread, so that a wait that is cancelled leaves nothing running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


async def run(thread: Executor | None, function: Callable[[], T], *, stop: Callable[[], None] | None = None) -> T:
    """Call a function in a thread while the event loop goes on.

    Args:
        thread: Where it is called; None: in one of the event loop's own.
        function: It has ended when this returns or raises.
        stop: Called when the wait is cancelled, so that the function ends soon.

    Returns:
        Its result.

    Raises:
        asyncio.CancelledError: The wait was cancelled, whatever the function did then.
        Exception: What the function raised.
    """
    called = asyncio.get_running_loop().run_in_executor(thread, function)
    try:
        return await asyncio.shield(called)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        try:
            await until_done(called)
        finally:
            called.exception()  # seen, lest asyncio reports it
        raise


async def until_done(future: asyncio.Future[T]) -> None:
    """Wait for a future, also while being cancelled, which goes on once the future is done."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def each(things: Iterable[T] | AsyncIterable[T], thread: Executor) -> AsyncGenerator[T, None]:
    """Go through an iterable of either kind.

    Args:
        things: A plain one may block.
        thread: Where a plain one is asked for its next thing.
    """
    if isinstance(things, AsyncIterable):
        async for thing in things:
            yield thing
        return
    rest = iter(things)
    while (thing := await run(thread, lambda: next(rest, _END))) is not _END:
        yield thing
