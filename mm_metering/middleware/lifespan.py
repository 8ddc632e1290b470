"""The app's lifespan with ours around it."""

from __future__ import annotations

from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mm_metering.errors import MeteringError


class Opens(Protocol):
    """What has a life: opened before the app starts, checked when its routes are known, closed after it has stopped."""

    app: ASGIApp

    async def open(self) -> None: ...

    def check(self) -> None: ...

    async def close(self) -> None: ...


class Lifespan:
    """The app's lifespan with ours around it: open before it starts, close after it has stopped."""

    def __init__(self, middleware: Opens, send: Send, receive: Receive) -> None:
        self._middleware = middleware
        self._send = send
        self._receive = receive
        self._first: Message | None = None
        self._failure: Exception | None = None
        self._is_closed = False

    async def run(self, scope: Scope) -> None:
        self._first = await self._receive()
        try:
            await self._middleware.open()
        except Exception as error:
            await self._send(_failed("startup", error))
            raise
        try:
            await self._middleware.app(scope, self.receive, self.send)
        finally:
            if not self._is_closed:
                await self._middleware.close()

    async def receive(self) -> Message:
        first, self._first = self._first, None
        return first or await self._receive()

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._check()
            case "lifespan.startup.failed" if self._failure:
                message = _failed("startup", self._failure)
            case "lifespan.shutdown.complete":
                message = await self._close() or message
        await self._send(message)

    def _check(self) -> None:
        """The routes are known only now, since an app may add some while it starts. Raising ends its own lifespan."""
        try:
            self._middleware.check()
        except MeteringError as error:
            self._failure = error
            raise

    async def _close(self) -> Message | None:
        self._is_closed = True
        try:
            await self._middleware.close()
        except MeteringError as error:
            return _failed("shutdown", error)
        return None


def _failed(phase: str, error: Exception) -> Message:
    """The server logs this message: one line, without a traceback."""
    return {"type": f"lifespan.{phase}.failed", "message": f"mm_metering: {' '.join(str(error).split())}"}
