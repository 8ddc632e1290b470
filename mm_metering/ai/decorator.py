"""``@ai_call``: reserve, call, settle, around any function that asks a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Final, Protocol, TypeVar, cast

from mm_metering.ai.budgets import Ai
from mm_metering.ai.calls import AiCall
from mm_metering.ai.reservation import Reservation
from mm_metering.errors import InvalidInput
from mm_metering.gate.context import current

F = TypeVar("F", bound=Callable[..., Any])
Args = tuple[Any, ...]
Given = dict[str, Any]
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
    """For the tenant that is bound where it is called. A def, an async def, a generator or an async generator; also a
    method, a partial, or an object that is called.

    Where the function takes ``model`` and ``max_output_tokens`` it is given what it may use: perhaps the fallback,
    perhaps a lower cap. What it returns is the provider's reply; what it yields, the stream's chunks; a stream that it
    returns is settled when that ends. ``input`` says of its arguments what will be read; by default all of them are.
    Raises what ``metering.ai.reserve`` does, before the function is called.
    """

    def decorate(function: F) -> F:
        taken = _Taken(function)

        def reserved(args: Args, given: Given) -> Reservation:
            read = input(*args, **given) if input is not None else [args, given]
            return cast(Host, current().meter).ai.reserve(
                current().tenant,
                taken.get(MODEL, args, given, model),
                input=_plain(read),
                max_output_tokens=taken.get(CAP, args, given, max_output_tokens),
                min_output_tokens=min_output_tokens,
                feature=feature,
            )

        return cast(F, functools.wraps(function)(_wrapped(function, reserved, taken.told)))

    return decorate


class _Taken:
    """Which of the two a function takes, and where among its positional arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        parameters = inspect.signature(function).parameters
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        self._names = {name for name in (MODEL, CAP) if takes_any or name in parameters}
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        by_place = [each.name for each in parameters.values() if each.kind in kinds]
        self._places = {name: by_place.index(name) for name in self._names if name in by_place}

    def get(self, name: str, args: Args, given: Given, usual: Any) -> Any:
        """What its caller gave, or else the usual."""
        place = self._places.get(name, len(args))
        value = args[place] if place < len(args) else given.get(name)
        return usual if value is None else value

    def told(self, call: AiCall, args: Args, given: Given) -> tuple[Args, Given]:
        """The arguments, with what the call may use."""
        values, told = list(args), dict(given)
        for name in self._names:
            place = self._places.get(name, len(values))
            if place < len(values):
                values[place] = getattr(call, name)
            else:
                told[name] = getattr(call, name)
        return tuple(values), told


def _wrapped(
    function: Callable[..., Any],
    reserved: Callable[[Args, Given], Reservation],
    told: Callable[[AiCall, Args, Given], tuple[Args, Given]],
) -> Callable[..., Any]:
    def ask(call: AiCall, args: Args, given: Given) -> Any:
        values, names = told(call, args, given)
        return function(*values, **names)

    async def async_stream(*args: Any, **given: Any) -> AsyncIterator[Any]:
        async with reserved(args, given) as call:
            tracked = call.track(ask(call, args, given))
            try:
                async for chunk in tracked:
                    yield chunk
            finally:
                await tracked.aclose()

    async def async_call(*args: Any, **given: Any) -> Any:
        async with reserved(args, given) as call:
            return call.track(await ask(call, args, given))

    def stream(*args: Any, **given: Any) -> Iterator[Any]:
        with reserved(args, given) as call:
            tracked = call.track(ask(call, args, given))
            try:
                yield from tracked
            finally:
                tracked.close()

    def plain_call(*args: Any, **given: Any) -> Any:
        with ExitStack() as stack:
            reservation = reserved(args, given)
            call = stack.enter_context(reservation)
            reply = ask(call, args, given)
            if not inspect.isawaitable(reply):
                return call.track(reply)
            stack.pop_all()
            return _awaited(reply, reservation, call)

    asked = _called(function)
    for is_kind, wrapper in (
        (inspect.isasyncgenfunction, async_stream),
        (inspect.iscoroutinefunction, async_call),
        (inspect.isgeneratorfunction, stream),
    ):
        if is_kind(asked):
            return wrapper
    return plain_call


async def _awaited(reply: Awaitable[Any], reservation: Reservation, call: AiCall) -> Any:
    """Of a def that hands on what is to be awaited."""
    async with AsyncExitStack() as stack:
        stack.push_async_exit(reservation)
        return call.track(await reply)


def _called(function: Any) -> Any:
    """What runs when it is called: inside of partials, and of an object whose class has ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__


def _plain(value: object) -> object:
    try:
        return _readable(value)
    except RecursionError as error:
        raise InvalidInput("input", "is nested in itself or too deeply to be sent; send plain messages") from error


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
