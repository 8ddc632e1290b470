"""``Depends(quota("reports"))``: a limit as a dependency, and ``message_quota``: one take per websocket message."""

# Annotations are real objects here: FastAPI reads those of a callable instance and could not resolve their text.

from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, TypeVar

from starlette.websockets import WebSocket

from mm_metering.core.decision import Decision
from mm_metering.core.events import whole_quantity
from mm_metering.errors import InvalidEvent
from mm_metering.gate.admission import Wish
from mm_metering.gate.context import Asking, current

T = TypeVar("T")


class Quota(Asking):
    """A dependency that consumes, or ends the request with the refusal that fits. Its value is the Decision."""

    def __init__(self, meter: str, quantity: int) -> None:
        self.meter = meter
        self.quantity = quantity
        self.asks: tuple[Wish, ...] = (Wish("", "", quantity, meter=meter),)

    def __repr__(self) -> str:
        return f"quota({self.meter!r}, {self.quantity})"

    async def __call__(self) -> Decision:
        bound = current()
        admission = await bound.take(Wish("", bound.route, self.quantity, meter=self.meter))
        return admission.on(self.meter, self.quantity)


class MeteredSocket:
    """The messages of a websocket, each taken before the handler sees it.

    One that is refused ends the connection: the client gets the problem as JSON and close code 1008. What was taken
    for earlier messages stays counted.
    """

    def __init__(self, websocket: WebSocket, quota: Quota) -> None:
        self.websocket = websocket
        self._quota = quota

    async def receive_text(self) -> str:
        return await self._taken(await self.websocket.receive_text())

    async def receive_bytes(self) -> bytes:
        return await self._taken(await self.websocket.receive_bytes())

    async def receive_json(self) -> Any:
        return await self._taken(await self.websocket.receive_json())

    async def iter_text(self) -> AsyncIterator[str]:
        """Text messages until the client goes away."""
        async for message in self.websocket.iter_text():
            yield await self._taken(message)

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        """Binary messages until the client goes away."""
        async for message in self.websocket.iter_bytes():
            yield await self._taken(message)

    async def _taken(self, message: T) -> T:
        await self._quota()
        return message


class MessageQuota:
    """A dependency that gives a websocket whose inbound messages are metered."""

    def __init__(self, each: Quota) -> None:
        self.each = each

    async def __call__(self, websocket: WebSocket) -> MeteredSocket:
        return MeteredSocket(websocket, self.each)


@lru_cache(maxsize=1024)
def quota(meter: str, quantity: int = 1) -> Quota:
    """``Depends(quota("reports"))``: consumes from a meter after the dependencies before it, or refuses.

    The same arguments give the same object, so that ``app.dependency_overrides[quota("reports")]`` works in tests. It
    shows in OpenAPI. Raises InvalidEvent for a quantity below 1.
    """
    return Quota(_name(meter), whole_quantity(quantity))


@lru_cache(maxsize=1024)
def message_quota(meter: str, quantity: int = 1) -> MessageQuota:
    """``Depends(message_quota("ws_messages"))``: a ``MeteredSocket``, which consumes per inbound message."""
    return MessageQuota(quota(meter, quantity))


def _name(meter: str) -> str:
    if not meter:
        raise InvalidEvent("meter", 'name a meter of the catalogue, such as "reports"')
    return meter
