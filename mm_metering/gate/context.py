"""For whom code runs: the tenant bound to a request or a ``bind`` block; and the marks that functions carry.

The contextvar holds a mutable object. A contextvar that is set in a sync dependency or a thread is lost with that
thread's copy of the context; a write to the object is seen by everyone who holds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import partial
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar

from mm_metering.clock import Clock
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.events import whole_quantity
from mm_metering.core.identity import resource_name, tenant_id
from mm_metering.errors import InvalidInput, NotBound
from mm_metering.gate.admission import Admission, Wish
from mm_metering.gate.refusals import raise_if_refused

T = TypeVar("T")

_MARKS: Final = "__mm_metering_marks__"
_TAKES: Final = "__mm_metering_takes__"
_WRAPPED_AT_MOST: Final = 64
ADDED_AT_MOST: Final = 1_000
"""Most different things that one request may add."""


class Meter(Protocol):
    """What a request, and the code inside it, needs of a Metering."""

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def clock(self) -> Clock: ...

    def take(self, tenant: str, wishes: Sequence[Wish]) -> Coroutine[Any, Any, Admission]:
        """Counts all wishes or none. Raises UnknownTenant, and StoreUnavailable where an outage denies. If the caller
        is cancelled meanwhile, nothing stays counted."""
        ...

    async def reverse(self, admission: Admission, *, meters: Collection[str] | None = None) -> None:
        """Takes back what an admission counted, in these meters or in all. A second time changes nothing."""
        ...

    async def add(self, tenant: str, wishes: Sequence[Wish]) -> None:
        """States that this was used: never refused for a quota (C4)."""
        ...

    def add_soon(self, tenant: str, wishes: Sequence[Wish]) -> None:
        """The same from code that cannot wait; before ``flush`` and ``shutdown`` return it is done."""
        ...

    def from_sync(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs it for a caller that is not async, and waits. On an event loop's own thread that loop stands still
        meanwhile."""
        ...


class Mark(NamedTuple):
    """What one call of a function uses, fixed beforehand, or measured: the bytes of its response. Without a resource
    it is the template of the route."""

    event_type: str
    resource: str | None
    quantity: int | Literal["response_bytes"]


class Bound:
    """The tenant that code here runs for; "" in a request whose tenant was not identified yet.

    ``route`` is the request's template. ``admission`` is the request's one decision, ``pending`` what it will ask for,
    ``joined`` the marks it covers whose functions will be called. ``taken`` is what goes back if the request ends in
    an error (C2, C3); once it ``is_final`` nothing does. ``added`` is what is still to be written,
    ``unsettled`` what is to be called when it is over, by a name: who needs it no more takes it out.
    """

    __slots__ = (
        "added",
        "admission",
        "is_final",
        "joined",
        "meter",
        "pending",
        "route",
        "taken",
        "tenant",
        "unsettled",
    )

    def __init__(
        self,
        meter: Meter,
        tenant: str,
        route: str = "",
        pending: tuple[Wish, ...] = (),
        joined: tuple[Mark, ...] = (),
        *,
        admission: Admission | None = None,
        is_final: bool = False,
    ) -> None:
        self.meter: Meter = meter
        self.tenant: str = tenant
        self.route: str = route
        self.pending: tuple[Wish, ...] = pending
        self.joined: tuple[Mark, ...] = joined
        self.is_final: bool = is_final
        self.admission = admission
        self.taken: list[Admission] = [] if admission is None else [admission]
        self.added: dict[Wish, int] = {}
        self.unsettled: dict[str, Callable[[], None]] = {}

    async def identify(self, tenant: str) -> None:
        """Says for whom the request runs, and decides it now: Refused, UnknownTenant or StoreUnavailable end it.

        The same tenant again changes nothing; InvalidInput for another one.
        """
        tenant = tenant_id(tenant)
        if self.tenant and self.tenant != tenant:
            raise InvalidInput("tenant", "this request was decided for another tenant; identify it once")
        if not self.tenant:
            if self.pending:
                self.admission = await self._taken_for(tenant, self.pending)
                self.taken.append(self.admission)
            self.tenant = tenant

    async def take(self, *wishes: Wish) -> Admission:
        """Counts all wishes or raises the Refused that fits. What a request takes goes back if it ends in an error."""
        admission = await self._taken_for(self.tenant, wishes)
        if not self.is_final:
            self.taken.append(admission)
        return admission

    async def _taken_for(self, tenant: str, wishes: Sequence[Wish]) -> Admission:
        admission = await self.meter.take(tenant, wishes)
        raise_if_refused(admission.decisions, self.meter.clock.now())
        return admission

    def add(self, meter: str, quantity: int = 1, *, resource: str | None = None) -> None:
        """Says that this much more of a meter was used: a fact, counted also past the limit.

        From any depth, thread or background task of the request. It is written with the answer's first byte, and what
        comes later when the request is over; a request that ends in an error adds nothing.
        """
        name = self.meter.catalogue.meter(meter).name
        where = self.route if resource is None else resource_name(resource)
        self.add_wish(Wish("", where, whole_quantity(quantity), meter=name))

    def add_wish(self, wish: Wish) -> None:
        """The same of any wish; equal ones are summed."""
        what = wish._replace(quantity=0)
        if what not in self.added and len(self.added) >= ADDED_AT_MOST:
            raise InvalidInput("resource", f"one request adds to at most {ADDED_AT_MOST} resources")
        self.added[what] = self.added.get(what, 0) + wish.quantity

    def take_added(self) -> list[Wish]:
        """What is to be written now, and not again."""
        added, self.added = self.added, {}
        return [what._replace(quantity=amount) for what, amount in added.items()]

    def is_joined(self, what: Mark) -> bool:
        """Whether the request's one decision covered this mark. True once: a second call of its function takes."""
        for n, each in enumerate(self.joined):
            if each is what:
                self.joined = (*self.joined[:n], *self.joined[n + 1 :])
                return True
        return False


_bound: ContextVar[Bound] = ContextVar("mm_metering_bound")


def bound_here() -> Bound:
    """What is bound here, identified or not; NotBound outside of a metered request and of ``bind``."""
    try:
        return _bound.get()
    except LookupError:
        raise NotBound(
            "no tenant is bound here: inside a request, install the middleware on the app and do not exempt this "
            "route; in a job or a script, wrap the call in: with metering.bind(tenant)"
        ) from None


def bound_or_none() -> Bound | None:
    return _bound.get(None)


def current() -> Bound:
    """What is bound here; NotBound outside of a metered request and of ``bind``, and before ``identify``."""
    bound = bound_here()
    if not bound.tenant:
        raise NotBound("this request has no tenant yet: call metering.identify(tenant) in an earlier dependency")
    return bound


@contextmanager
def bind(meter: Meter, tenant: str) -> Iterator[Bound]:
    """Run a block for a tenant, outside of a request or, for another tenant, inside of one."""
    bound = Bound(meter, tenant_id(tenant), is_final=True)
    token = enter(bound)
    try:
        yield bound
    finally:
        leave(token)
        for settle in tuple(bound.unsettled.values()):
            settle()
        if added := bound.take_added():
            meter.add_soon(bound.tenant, added)


enter: Callable[[Bound], Token[Bound]] = _bound.set


def leave(token: Token[Bound]) -> None:
    """Undo ``enter``. A generator may be closed in another context than it began in; that one needs no undoing."""
    try:
        _bound.reset(token)
    except ValueError:
        return


def mark(function: Callable[..., object], what: Mark) -> None:
    """Put a mark on a function, next to those it has, and on what it wraps: whichever of them becomes an endpoint
    carries it. TypeError for a callable that cannot carry attributes; what it wraps may be one."""
    for n, each in enumerate(_inwards(function)):
        try:
            setattr(each, _MARKS, (*getattr(each, _MARKS, ()), what))
        except AttributeError:
            if n == 0:
                raise TypeError(f"{each!r} cannot carry a mark; put @metered on the function itself") from None


def marks_of(function: Any) -> tuple[Mark, ...]:
    """The marks of a function, also below partials and decorators. Decorators that use functools.wraps copied them
    upwards already, so the outermost that has any has them all."""
    return next(filter(None, (getattr(each, _MARKS, ()) for each in _inwards(function))), ())


class Asking:
    """A dependency that takes when the framework calls it; ``asks`` is for those who tell people what a route costs."""

    asks: tuple[Wish, ...] = ()


def takes(function: Callable[..., object], what: Mark) -> None:
    """This function takes the mark when it is called, unless a request's one decision covered it."""
    setattr(function, _TAKES, what)


def taken_when_called(function: Any) -> tuple[Mark, ...]:
    """The marks that a call of this function takes by itself: those of the decorators that stand in the way of the
    call. A decorator above the framework's does not."""
    found = (getattr(each, _TAKES, None) for each in _inwards(function))
    return tuple({id(what): what for what in found if what is not None}.values())


def _inwards(function: Any) -> Iterator[Any]:
    """The function, and what it wraps."""
    for _ in range(_WRAPPED_AT_MOST):
        yield function
        function = function.func if isinstance(function, partial) else getattr(function, "__wrapped__", None)
        if function is None:
            return
