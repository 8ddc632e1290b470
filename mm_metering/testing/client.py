"""``MeteringClient``: a host's app over HTTP without a network, as any tenant."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from mm_metering.core.identity import tenant_id
from mm_metering.errors import InvalidInput, MeteringError
from mm_metering.metering import Metering
from mm_metering.middleware.callers import AS_TENANT, as_told, headers_of


class MeteringClient(TestClient):
    """Starlette's TestClient with the app's lifespan run: ``with MeteringClient(app, metering) as client:``. The app
    runs on a thread of its own, so that sync and async tests may use it alike."""

    __test__ = False

    def __init__(
        self, app: ASGIApp, metering: Metering, *, headers: Mapping[str, str] | None = None, tenant: str | None = None
    ) -> None:
        super().__init__(app if tenant is None else _Told(app, tenant), headers=dict(headers or {}))
        self.metering = metering
        self._served = app
        self._told = ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        if not self.metering.callers.resolvers:
            super().__exit__()
            raise MeteringError(
                "metering_client: the app of metering_app is metered by another Metering than the one of the fixture "
                "metering, or by none; return the one that installed it: metering.install(app, tenant=...)"
            )
        self._told.enter_context(self.metering.callers.instead(as_told))
        return self

    def __exit__(self, *error: Any) -> None:
        self._told.close()
        super().__exit__(*error)

    def as_tenant(
        self, tenant: str, *, plan: str | None = None, headers: Mapping[str, str] | None = None
    ) -> MeteringClient:
        """The same app, called by that tenant; ``plan`` puts it on one before.

        It sends the header that the app's ``from_header`` reads. Where another resolver asks, that one is passed over
        for these requests, unless ``headers`` say what it reads, such as a key or a token.
        """
        tenant_id(tenant)
        resolvers = [each for each in self.metering.callers.resolvers if each is not None]
        if not resolvers and headers is None:
            raise InvalidInput(
                "headers",
                "must be given, since a dependency of this app says who calls: as_tenant(..., headers={...}) with what "
                "it reads; or set app.dependency_overrides",
            )
        if plan is not None:
            self.metering.from_sync(lambda: self.metering.put_tenant(tenant, plan=plan))
        shown = dict(headers) if headers is not None else headers_of(resolvers[0], tenant)
        client = MeteringClient(self._served, self.metering, headers=shown, tenant=None if shown else tenant)
        client.portal = self.portal
        client.app_state.update(self.app_state)
        return client


class _Told:
    """An app that is told who calls."""

    def __init__(self, app: ASGIApp, tenant: str) -> None:
        self._app = app
        self._tenant = tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, AS_TENANT: self._tenant}, receive, send)
