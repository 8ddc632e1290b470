"""``@ai_call``: reserve, call, settle, around any function that asks a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Protocol, TypeVar, cast

from mm_metering.ai.budgets import Ai, Asked, OpenCall
from mm_metering.gate.context import current

F = TypeVar("F", bound=Callable[..., Any])
MODEL: Final = "model"
CAP: Final = "max_output_tokens"


class Host(Protocol):
    """What of a Metering is needed here."""

    ai: Ai


def ai_call(
    model: str,
    *,
    max_output_tokens: int | None = None,
    min_output_tokens: int = 64,
    input: Callable[..., object] | None = None,
    feature: str | None = None,
) -> Callable[[F], F]:
    """For the tenant that is bound where it is called. A def, an async def, a generator or an async generator.

    Where the function takes ``model`` and ``max_output_tokens`` it is given what it may use: perhaps the fallback,
    perhaps a lower cap. What it returns is the provider's reply; what it yields, the stream's chunks; a stream that it
    returns is settled when that ends. ``input`` says of its arguments what will be read; by default all of them are.
    Raises what ``metering.ai.reserve`` does, before the function is called.
    """

    def decorate(function: F) -> F:
        taken = _names(function)

        def asked(args: tuple[Any, ...], given: dict[str, Any]) -> Asked:
            read = input(*args, **given) if input is not None else [args, given]
            own = given.get(MODEL, model)
            most = given.get(CAP, max_output_tokens)
            options: dict[str, Any] = {
                "input": _readable(read),
                CAP: most,
                "min_output_tokens": min_output_tokens,
                "feature": feature,
            }
            return _host().ai.asked(current().tenant, own, **options)

        def told(opened: OpenCall, given: dict[str, Any]) -> dict[str, Any]:
            say = {MODEL: opened.call.model, CAP: opened.call.max_output_tokens}
            return given | {name: value for name, value in say.items() if name in taken}

        return cast(F, _wrapped(function, asked, told))

    return decorate


def _host() -> Host:
    return cast(Host, current().meter)


def _wrapped(function: Callable[..., Any], asked: Callable[..., Asked], told: Callable[..., dict[str, Any]]) -> Any:
    is_async = inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)
    return (_async if is_async else _sync)(function, asked, told)


def _async(function: Callable[..., Any], asked: Callable[..., Asked], told: Callable[..., dict[str, Any]]) -> Any:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def async_stream(*args: Any, **given: Any) -> AsyncIterator[Any]:
            ai = _host().ai
            opened = await ai.open(asked(args, given))
            tracked = ai.track(opened, function(*args, **told(opened, given)))
            try:
                async for chunk in tracked:
                    yield chunk
            finally:
                await tracked.aclose()

        return async_stream

    @functools.wraps(function)
    async def call(*args: Any, **given: Any) -> Any:
        ai = _host().ai
        opened = await ai.open(asked(args, given))
        try:
            reply = await function(*args, **told(opened, given))
        except BaseException as error:
            opened.call.end(error)
            await ai.write(opened)
            raise
        if hasattr(reply, "__anext__"):
            return ai.track(opened, reply)
        opened.call.settle(reply)
        await ai.write(opened)
        return reply

    return call


def _sync(function: Callable[..., Any], asked: Callable[..., Asked], told: Callable[..., dict[str, Any]]) -> Any:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **given: Any) -> Iterator[Any]:
            ai = _host().ai
            opened = ai.open_sync(asked(args, given))
            tracked = ai.track_sync(opened, function(*args, **told(opened, given)))
            try:
                yield from tracked
            finally:
                tracked.close()

        return stream

    @functools.wraps(function)
    def call_sync(*args: Any, **given: Any) -> Any:
        ai = _host().ai
        opened = ai.open_sync(asked(args, given))
        try:
            reply = function(*args, **told(opened, given))
        except BaseException as error:
            opened.call.end(error)
            ai.write_sync(opened)
            raise
        if hasattr(reply, "__next__"):
            return ai.track_sync(opened, reply)
        opened.call.settle(reply)
        ai.write_sync(opened)
        return reply

    return call_sync


def _names(function: Callable[..., Any]) -> frozenset[str]:
    """Which of the two it takes."""
    parameters = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return frozenset({MODEL, CAP})
    return frozenset({MODEL, CAP} & parameters.keys())


def _readable(value: object) -> object:
    """What is like JSON of it; other things are not sent to a model as they are."""
    match value:
        case str() | int() | float() | None:
            return value
        case dict():
            return {str(name): _readable(each) for name, each in value.items()}
        case list() | tuple():
            return [_readable(each) for each in value]
    return ""
