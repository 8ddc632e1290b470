"""For whom code runs: the tenant bound to a request or a ``bind`` block; and the marks that functions carry.

The contextvar holds a mutable object. A contextvar that is set in a sync dependency or a thread is lost with that
thread's copy of the context; a write to the object is seen by everyone who holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from mm_metering.core.identity import tenant_id
from mm_metering.errors import NotBound
from mm_metering.gate.admission import Admission

_MARKS = "__mm_metering_marks__"
_WRAPPED_AT_MOST = 64


@dataclass(slots=True, eq=False)
class Bound:
    """The tenant that code here runs for. ``taken`` is what goes back if the request ends in an error (C2, C3)."""

    tenant: str
    admission: Admission | None = None
    taken: list[Admission] = field(init=False)

    def __post_init__(self) -> None:
        self.taken = [] if self.admission is None else [self.admission]


_bound: ContextVar[Bound] = ContextVar("mm_metering_bound")


def current() -> Bound:
    """What is bound here; NotBound outside of a metered request and of ``bind``."""
    try:
        return _bound.get()
    except LookupError:
        raise NotBound(
            "no tenant is bound here: inside a request, install the middleware on the app and do not exempt this "
            "route; in a job or a script, wrap the call in: with metering.bind(tenant)"
        ) from None


def current_tenant() -> str:
    """The id of the bound tenant; NotBound without one."""
    return current().tenant


@contextmanager
def bind(tenant: str) -> Iterator[Bound]:
    """Run a block for a tenant, outside of a request or, for another tenant, inside of one."""
    bound = Bound(tenant_id(tenant))
    token = enter(bound)
    try:
        yield bound
    finally:
        leave(token)


def enter(bound: Bound) -> Token[Bound]:
    return _bound.set(bound)


def leave(token: Token[Bound]) -> None:
    """Undo ``enter``. A generator may be closed in another context than it began in; that one needs no undoing."""
    try:
        _bound.reset(token)
    except ValueError:
        return


class Mark(NamedTuple):
    """What one call of a function uses, fixed beforehand. Without a resource it is the template of the route."""

    event_type: str
    resource: str | None
    quantity: int


def mark(function: Callable[..., object], what: Mark) -> None:
    """Put a mark on a function, next to those it has; TypeError for a callable that cannot carry attributes."""
    try:
        setattr(function, _MARKS, (*getattr(function, _MARKS, ()), what))
    except AttributeError:
        raise TypeError(f"{function!r} cannot carry a mark; put @metered on the function itself") from None


def marks_of(function: Any) -> tuple[Mark, ...]:
    """The marks of a function, also below partials and decorators. Decorators that use functools.wraps copied them
    upwards already, so the outermost that has any has them all."""
    for _ in range(_WRAPPED_AT_MOST):
        found: tuple[Mark, ...] = getattr(function, _MARKS, ())
        inner = function.func if isinstance(function, partial) else getattr(function, "__wrapped__", None)
        if found or inner is None:
            return found
        function = inner
    return ()
