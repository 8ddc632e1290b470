"""``@metered``: what one call of an endpoint uses, besides the request itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mm_metering.core.events import UsageEvent, whole_quantity
from mm_metering.gate.context import Mark, mark

F = TypeVar("F", bound=Callable[..., Any])


def metered(event_type: str, *, resource: str | None = None, quantity: int = 1) -> Callable[[F], F]:
    """Mark an endpoint: its events join the request's one decision, which falls before the endpoint runs.

    The function itself is returned, so the decorator works above and below ``@app.post``, on def and async def, and
    several marks add up. ``resource`` is what is used (``report_pdf``); by default the template of the route.
    Raises InvalidEvent, at import, for an event that could not be recorded.
    """
    UsageEvent(tenant="a mark", event_type=event_type, resource="/" if resource is None else resource)
    what = Mark(event_type, resource, whole_quantity(quantity))

    def decorate(function: F) -> F:
        mark(function, what)
        return function

    return decorate
