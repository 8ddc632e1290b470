"""A provider's stream as its caller sees it, with its usage read on the way. It keeps all that the SDK's object has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from mm_metering.ai.calls import AiCall
from mm_metering.ai.streams import StreamUsage


class _Tracked:
    def __init__(
        self, stream: Any, call: AiCall, write: Callable[[], Awaitable[None]], *, hides_usage: bool = False
    ) -> None:
        self._stream = stream
        self._hides_usage = hides_usage
        self._call = call
        self._write = write
        self._usage = StreamUsage(model=call.model)
        self._has_any = False
        call.left_behind = self.settle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _see(self, chunk: Any) -> Any:
        self._has_any = True
        self._usage.add(chunk)
        return chunk

    def _is_ours(self, chunk: Any) -> bool:
        """Whether the chunk was asked for by us alone: it holds usage and no choice."""
        return self._hides_usage and getattr(chunk, "choices", None) == [] and getattr(chunk, "usage", None) is not None

    def settle(self, error: BaseException | None = None) -> None:
        """By what was seen until now; nothing at all seen, by the error."""
        if self._has_any or error is None:
            call = self._call
            usage = self._usage.usage(input_tokens=call.input_tokens, max_output_tokens=call.most_written)
            call.settle_usage(usage)
        else:
            self._call.end(error)


class TrackedAsync(_Tracked):
    """Settled when it ends, is closed or breaks."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            while self._is_ours(chunk := self._see(await self._stream.__anext__())):
                pass
            return chunk
        except StopAsyncIteration:
            await self._done(None)
            raise
        except BaseException as error:
            await self._done(error)
            raise

    async def __aenter__(self) -> Self:
        if hasattr(self._stream, "__aenter__"):
            entered = await self._stream.__aenter__()
            self._stream = entered if hasattr(entered, "__anext__") else self._stream
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if hasattr(self._stream, "__aexit__"):
            await self._stream.__aexit__(kind, error, traceback)
        await self._done(error)

    async def aclose(self) -> None:
        """Closes the stream; what it has used until now is charged."""
        if (close := getattr(self._stream, "aclose", None) or getattr(self._stream, "close", None)) is not None:
            await close()
        await self._done(None)

    close = aclose

    async def _done(self, error: BaseException | None) -> None:
        self.settle(error)
        await self._write()


class TrackedSync(_Tracked):
    """The same for a stream that is not async."""

    def __init__(
        self,
        stream: Any,
        call: AiCall,
        write: Callable[[], Awaitable[None]],
        from_sync: Callable[[Any], Any],
        *,
        hides_usage: bool = False,
    ) -> None:
        super().__init__(stream, call, write, hides_usage=hides_usage)
        self._from_sync = from_sync

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            while self._is_ours(chunk := self._see(next(self._stream))):
                pass
            return chunk
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
