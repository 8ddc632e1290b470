"""The host's apps: what they are given, for whom a request runs, and what is otherwise in a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from starlette.types import ASGIApp

from mm_metering.core.identity import tenant_id
from mm_metering.errors import UnknownTenant
from mm_metering.gate.context import Bound, bind, bound_here, current
from mm_metering.gate.overrides import UNMETERED, instead, override
from mm_metering.gate.terms import Limits
from mm_metering.metering.limits import Limiting
from mm_metering.middleware.asgi import install
from mm_metering.middleware.callers import always, otherwise
from mm_metering.middleware.listing import RouteList, list_routes
from mm_metering.middleware.shapes import HeaderStyle, Shape
from mm_metering.middleware.tenants import Found, Resolver, found_id


class Hosting(Limiting):
    """What a host's app has of a Metering."""

    def install(
        self,
        app: Any,
        *,
        tenant: Resolver | None,
        exempt: Iterable[str] = (),
        headers: HeaderStyle = "standard",
        error_shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        """Adds the middleware to a Starlette or FastAPI app, innermost whatever the order of calls, the lifespan, and
        what operations cost to its OpenAPI.

        ``tenant`` finds the tenant's id in a request: ``from_header("x-org-id")``, or any callable on the scope; None
        where a dependency calls ``identify``. The other options are those of ``MeteringMiddleware``.
        """
        options: Any = {"exempt": exempt, "headers": headers, "error_shapes": error_shapes}
        self._hosts.append(install(app, metering=self, tenant=tenant, **options))
        self._apps.append(app)

    @property
    def apps(self) -> Sequence[ASGIApp]:
        """What it is installed on, in that order."""
        return tuple(self._apps)

    def list_routes(self) -> RouteList:
        """The apps' routes: what each costs, which are exempt, and which patterns match nothing."""
        return list_routes(self._hosts)

    async def identify(self, tenant: Found) -> None:
        """Says in a dependency for whom the request runs, where ``install(tenant=None)`` left it open, and decides it
        there. A refusal ends the request with its answer; None or a tenant that is not known is 401."""
        found = found_id(tenant)
        if found is None:
            raise UnknownTenant("identify: nobody is known by that; the request is refused")
        await self.startup()
        await bound_here().identify(found)

    def bind(self, tenant: str) -> AbstractContextManager[Bound]:
        """Runs a block for a tenant, outside of a request: jobs, scripts."""
        return bind(self, tenant)

    def current(self) -> Bound:
        """What is bound here, in a request or a ``bind`` block: its tenant, and ``add(meter, quantity)``."""
        return current()

    @contextmanager
    def override(
        self,
        *,
        tenant: str | None = None,
        plan: str | None = None,
        limits: Limits | None = None,
        allow: bool = False,
        deny: str | None = None,
        disabled: bool = False,
    ) -> Iterator[None]:
        """For tests: what is otherwise within a block, for all threads of this process. Nothing of it is written.

        tenant    who calls, whatever a request shows, also what ``identify`` is told
        plan      the plan that every tenant is on
        limits    by meter: a number in the longest window that the plan has for it, None for unlimited, or limits as
                  a plan has them: ``{"reports": 0, "api_calls": {"limit": 5, "per": "minute"}}``
        allow     nothing is refused, and all is counted
        deny      each take is refused for a reason, such as "quota-exceeded", and nothing is counted
        disabled  all passes, and nothing is counted or recorded; callers need not be known

        Blocks may be nested. InvalidInput for what contradicts itself.
        """
        with ExitStack() as stack:
            if tenant is not None:
                stack.enter_context(self._called_by(tenant_id(tenant)))
            if disabled:
                stack.enter_context(self.callers.instead(otherwise(UNMETERED)))
            stack.enter_context(
                override(
                    self.gate,
                    self.catalogue,
                    now=self.clock.now,
                    plan=plan,
                    limits=limits,
                    allow=allow,
                    deny=deny,
                    disabled=disabled,
                )
            )
            yield

    @contextmanager
    def _called_by(self, tenant: str) -> Iterator[None]:
        own = self.identify

        async def identify(_: Found) -> None:
            await own(tenant)

        with self.callers.instead(always(tenant)), instead(self, {"identify": identify}):
            yield
