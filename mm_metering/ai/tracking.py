"""A provider's stream as its caller sees it, with its usage read on the way. It keeps all that the SDK's object has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from mm_metering.ai.calls import AiCall
from mm_metering.ai.reading import first, get
from mm_metering.ai.streams import StreamUsage, text_of
from mm_metering.errors import InvalidInput

Later: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]
"""Runs it in the background, and then writes what the call was."""

DRAIN_S: Final = 30.0
DRAIN_CHUNKS: Final = 20_000
"""For so long, and so many chunks at most, is a stream read on that its reader has left."""
CLOSE_S: Final = 1.0
_HIDDEN: Final = object()


def attach(
    call: AiCall,
    *,
    write: Callable[[], Awaitable[None]],
    from_sync: Callable[[Callable[[], Awaitable[None]]], None],
    later: Later,
) -> None:
    """From now on ``call.track`` knows streams: what one comes to is written by these."""

    def track(reply: Any, *, text: bool, drain: bool, hides_usage: bool) -> Any:
        if hasattr(reply, "__aiter__"):
            return TrackedAsync(reply, call, write, later=later if drain else None, text=text, hides_usage=hides_usage)
        if not _is_sync_stream(reply):
            return None
        if drain:
            raise InvalidInput("drain", "reads an async stream on in the background; read this one to its end yourself")
        return TrackedSync(reply, call, write, from_sync, text=text, hides_usage=hides_usage)

    call.tracker = track


def _is_sync_stream(reply: Any) -> bool:
    """Of a reply that is read by iterating. botocore's stream is no iterator, but can be closed."""
    return hasattr(reply, "__next__") or (hasattr(reply, "__iter__") and hasattr(reply, "close"))


class _Tracked:
    def __init__(
        self,
        stream: Any,
        call: AiCall,
        write: Callable[[], Awaitable[None]],
        *,
        text: bool = False,
        hides_usage: bool = False,
    ) -> None:
        self._stream = stream
        self._is_text = text
        self._hides_usage = hides_usage
        self._call = call
        self._write = write
        self._usage = StreamUsage(model=call.model)
        self._has_any = False
        call.left_behind = self.leave

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _see(self, chunk: Any) -> Any:
        self._has_any = True
        self._usage.add(chunk)
        return chunk

    def _shown(self, chunk: Any) -> Any:
        """What the reader gets of a chunk. One that was asked for by us alone is hidden: usage, and no choice."""
        self._see(chunk)
        if self._is_text:
            return text_of(chunk) or _HIDDEN
        is_ours = self._hides_usage and get(chunk, "choices") == [] and first(chunk, "usage") is not None
        return _HIDDEN if is_ours else chunk

    def leave(self) -> None:
        """Nobody reads on: it is what was seen until now."""
        self.settle(None)

    def settle(self, error: BaseException | None) -> None:
        """By what was seen until now; nothing at all seen, by the error."""
        if self._has_any or error is None:
            call = self._call
            usage = self._usage.usage(input_tokens=call.input_tokens, max_output_tokens=call.most_written)
            call.settle_usage(usage)
        else:
            self._call.end(error)


class TrackedAsync(_Tracked):
    """Settled when it ends, is closed or breaks. With ``later`` it is read on in the background where its reader has
    left, to hear what the provider bills; whether the text is wanted or not, it bills that."""

    def __init__(
        self,
        stream: Any,
        call: AiCall,
        write: Callable[[], Awaitable[None]],
        *,
        later: Later | None = None,
        text: bool = False,
        hides_usage: bool = False,
    ) -> None:
        super().__init__(stream, call, write, text=text, hides_usage=hides_usage)
        self._chunks = stream if hasattr(stream, "__anext__") else aiter(stream)
        self._later = later
        self._loop = None if later is None else asyncio.get_running_loop()
        self._reading: asyncio.Task[Any] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            while (shown := self._shown(await self._read())) is _HIDDEN:
                pass
            return shown
        except StopAsyncIteration:
            await self._done(None)
            raise
        except asyncio.CancelledError as error:
            if not self._drains():
                await self._done(error)
            raise
        except BaseException as error:
            await self._done(error)
            raise

    async def __aenter__(self) -> Self:
        if hasattr(self._stream, "__aenter__"):
            await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drains():
            return
        if hasattr(self._stream, "__aexit__"):
            await self._stream.__aexit__(kind, error, traceback)
        await self._done(error)

    async def aclose(self) -> None:
        """Closes the stream; what it has used until now is charged."""
        if not self._drains():
            await self._close()
            await self._done(None)

    close = aclose

    def leave(self) -> None:
        """Nobody reads on: it is what was seen until now, or what the rest says."""
        if not self._drains():
            self.settle(None)

    async def _close(self) -> None:
        if (close := getattr(self._stream, "aclose", None) or getattr(self._stream, "close", None)) is not None:
            await close()

    async def _done(self, error: BaseException | None) -> None:
        self.settle(error)
        await self._write()

    # -- reading on ---------------------------------------------------------------------------------------------------

    async def _read(self) -> Any:
        """The next chunk. What is to be read on is read in a task of its own, which outlives its reader."""
        if self._later is None:
            return await self._chunks.__anext__()
        if self._reading is None:
            self._reading = asyncio.create_task(_next(self._chunks))
        try:
            return await asyncio.shield(self._reading)
        finally:
            if self._reading.done():
                self._reading = None

    def _drains(self) -> bool:
        """Whether it is being read on from here, on the event loop that reads it."""
        if self._later is None or not self._call.is_open:
            return False
        if not self._call.goes_on:
            try:
                if asyncio.get_running_loop() is not self._loop:
                    return False
            except RuntimeError:
                return False
            self._call.goes_on = True
            self._later(self._rest())
        return True

    async def _rest(self) -> None:
        ended: Exception | None = None
        try:
            async with asyncio.timeout(DRAIN_S):
                for _ in range(DRAIN_CHUNKS):
                    self._see(await self._read())
        except StopAsyncIteration:
            pass
        except Exception as error:  # noqa: BLE001 - nobody is left to hear it: it is what was seen until then
            ended = error
        finally:
            self._call.goes_on = False
            self.settle(ended)
            if self._reading is not None:
                self._reading.cancel()
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=CLOSE_S)
        with suppress(Exception):
            await self._close()


async def _next(chunks: Any) -> Any:
    return await chunks.__anext__()


class TrackedSync(_Tracked):
    """The same for a stream that is not async."""

    def __init__(
        self,
        stream: Any,
        call: AiCall,
        write: Callable[[], Awaitable[None]],
        from_sync: Callable[[Any], Any],
        *,
        text: bool = False,
        hides_usage: bool = False,
    ) -> None:
        super().__init__(stream, call, write, text=text, hides_usage=hides_usage)
        self._chunks = stream if hasattr(stream, "__next__") else iter(stream)
        self._from_sync = from_sync

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            while (shown := self._shown(next(self._chunks))) is _HIDDEN:
                pass
            return shown
        except StopIteration:
            self._done(None)
            raise
        except BaseException as error:
            self._done(error)
            raise

    def __enter__(self) -> Self:
        if hasattr(self._stream, "__enter__"):
            self._stream.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if hasattr(self._stream, "__exit__"):
            self._stream.__exit__(kind, error, traceback)
        self._done(error)

    def close(self) -> None:
        """Closes the stream; what it has used until now is charged."""
        if hasattr(self._stream, "close"):
            self._stream.close()
        self._done(None)

    def _done(self, error: BaseException | None) -> None:
        self.settle(error)
        self._from_sync(self._write)
