"""``@metered``: what one call of a function uses, besides the request itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from mm_metering.core.events import UsageEvent, whole_quantity
from mm_metering.errors import InvalidEvent, Refused
from mm_metering.gate.admission import Wish
from mm_metering.gate.context import Bound, Mark, current, mark, takes

F = TypeVar("F", bound=Callable[..., Any])
Quantity: TypeAlias = int | Callable[..., int] | Literal["response_bytes"]
RESPONSE_BYTES: Final = "response_bytes"


def metered(
    event_type: str,
    *,
    resource: str | None = None,
    quantity: Quantity = 1,
    otherwise: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Meter a function: on an endpoint its events join the request's one decision, which falls before it runs.

    Works above and below ``@app.post``, on def and async def, generators too; the signature stays and several marks
    add up. Called from elsewhere (a helper, a job under ``bind``) the function takes by itself, each time.

    resource   what is used (``report_pdf``); by default the template of the route, or outside of one its own name
    quantity   units, at least 1; a callable(*args, **kwargs) of the call's arguments, which takes by itself (0 takes
               nothing); or "response_bytes": the bytes of the response's body, recorded when it was sent (endpoints)
    otherwise  called with the same arguments instead of raising, when this is refused; the function then takes by
               itself

    Raises InvalidEvent, at import, for an event that could not be recorded. A call raises the Refused that fits, and
    NotBound outside of a request and of ``bind``.
    """
    UsageEvent(tenant="a mark", event_type=event_type, resource="/" if resource is None else resource)
    fixed = 1 if callable(quantity) else quantity if quantity == RESPONSE_BYTES else whole_quantity(quantity)
    taking = _Taking(Mark(event_type, resource, fixed), quantity if callable(quantity) else None, otherwise)
    if fixed == RESPONSE_BYTES and otherwise:
        raise InvalidEvent("otherwise", "bytes are counted when they were sent, so they are never refused")

    def decorate(function: F) -> F:
        if not inspect.isroutine(function):  # a class-based endpoint, a partial: its call is not ours to change
            if not taking.is_fixed:
                raise TypeError(f"{function!r}: put @metered with a callable quantity or otherwise on a function")
            mark(function, taking.what)
            return function
        call = _wrapped(function, taking)
        takes(call, taking.what)
        if taking.is_fixed:
            mark(call, taking.what)
        return cast(F, call)

    return decorate


class _Taking:
    """What a call takes."""

    def __init__(self, what: Mark, quantity: Callable[..., int] | None, otherwise: Callable[..., Any] | None) -> None:
        self.what = what
        self._quantity = quantity
        self._otherwise = otherwise

    @property
    def is_fixed(self) -> bool:
        """Whether it can be part of a decision that falls before the call."""
        return self._quantity is None and self._otherwise is None

    async def admit(self, function: Callable[..., Any], bound: Bound, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Take, and say what to call: the function, or what is to be called instead."""
        wish = self._wish(function, bound, args, kwargs)
        try:
            if wish.quantity:
                await bound.take(wish)
        except Refused:
            if self._otherwise is None:
                raise
            return self._otherwise
        return function

    def _wish(self, function: Callable[..., Any], bound: Bound, args: Any, kwargs: Any) -> Wish:
        event_type, resource, quantity = self.what
        if quantity == RESPONSE_BYTES:
            raise InvalidEvent(
                "quantity", "response_bytes is for endpoints; a helper knows what it used: give a number"
            )
        if not bound.meter.catalogue.meters_of(event_type, resource):
            raise InvalidEvent("event_type", f"{event_type!r} counts in no meter of the catalogue")
        amount = quantity if self._quantity is None else whole_quantity(self._quantity(*args, **kwargs), least=0)
        return Wish(event_type, resource or bound.route or function.__qualname__, amount)


def _wrapped(function: Callable[..., Any], taking: _Taking) -> Callable[..., Any]:
    """The function with a take before each call, of the same kind as it was."""
    if inspect.isasyncgenfunction(function):
        call = _async_generator(function, taking)
    elif inspect.iscoroutinefunction(function):
        call = _coroutine(function, taking)
    else:
        call = _generator(function, taking) if inspect.isgeneratorfunction(function) else _plain(function, taking)
    return wraps(function)(_at_home(call, function))


def _at_home(call: Callable[..., Any], function: Callable[..., Any]) -> FunctionType:
    """The call with the globals of the function it stands for: frameworks look there for what its annotations name.
    So a call's own names are all local to the function that makes it."""
    assert isinstance(call, FunctionType)
    home = getattr(function, "__globals__", call.__globals__)
    return FunctionType(call.__code__, home, call.__name__, call.__defaults__, call.__closure__)


def _coroutine(function: Callable[..., Any], taking: _Taking) -> Callable[..., Any]:
    target, isawaitable = _target, inspect.isawaitable

    async def call(*args, **kwargs):  # type: ignore[no-untyped-def]
        result = (await target(function, taking, args, kwargs))(*args, **kwargs)
        return await result if isawaitable(result) else result

    return call


def _plain(function: Callable[..., Any], taking: _Taking) -> Callable[..., Any]:
    target = _target_for_sync

    def call(*args, **kwargs):  # type: ignore[no-untyped-def]
        return target(function, taking, args, kwargs)(*args, **kwargs)

    return call


def _generator(function: Callable[..., Any], taking: _Taking) -> Callable[..., Any]:
    target = _target_for_sync

    def call(*args, **kwargs):  # type: ignore[no-untyped-def]
        return (yield from target(function, taking, args, kwargs)(*args, **kwargs))

    return call


def _async_generator(function: Callable[..., Any], taking: _Taking) -> Callable[..., Any]:
    target = _target

    async def call(*args, **kwargs):  # type: ignore[no-untyped-def]
        inner = (await target(function, taking, args, kwargs))(*args, **kwargs)
        step = anext(inner)
        while True:
            try:
                value = await step
            except StopAsyncIteration:
                return
            try:
                sent = yield value
            except GeneratorExit:
                await inner.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - the inner generator says what becomes of it
                step = inner.athrow(error)
            else:
                step = inner.asend(sent)

    return call


async def _target(function: Callable[..., Any], taking: _Taking, args: Any, kwargs: Any) -> Callable[..., Any]:
    bound = current()
    if bound.is_joined(taking.what):
        return function
    return await taking.admit(function, bound, *args, **kwargs)


def _target_for_sync(function: Callable[..., Any], taking: _Taking, args: Any, kwargs: Any) -> Callable[..., Any]:
    bound = current()
    if bound.is_joined(taking.what):
        return function
    return bound.meter.from_sync(partial(taking.admit, function, bound, *args, **kwargs))
