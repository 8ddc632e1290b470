"""Every HTTP surface: a host's app under the middleware, and our own endpoints, each with what it says it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Annotated, Any, Final, NamedTuple

from fastapi import FastAPI, Header
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.types import ASGIApp

from mm_metering import Metering, first_of, from_header, from_jwt, metered
from mm_metering.middleware.endpoint_guard import Guarded
from mm_metering.worker.health import health_app

SECRET: Final = "s" * 32


class Surface(NamedTuple):
    """An app, its OpenAPI document, and statuses that some requests must be answered with."""

    app: ASGIApp
    document: Mapping[str, Any]
    answers: Set[int]


class Question(BaseModel):
    """What the host's endpoint takes."""

    model_config = ConfigDict(extra="forbid")

    text: str
    count: int = 1


def host(metering: Metering) -> Surface:
    """A host's app, whose callers are told by a header, a key or a token."""
    app = FastAPI()
    keys = from_header("x-key", {"a key": "acme"}.get)
    metering.install(app, tenant=first_of(keys, from_jwt("org", SECRET), from_header("x-org-id")))

    @app.post("/ask/{name}")
    @metered("export", resource="report_pdf")
    async def ask(
        name: str,
        question: Question,
        *,
        x_org_id: Annotated[str, Header()],
        x_request_id: Annotated[str | None, Header()] = None,
        x_key: Annotated[str | None, Header()] = None,
        authorization: Annotated[str | None, Header()] = None,
    ) -> dict[str, str]:
        metering.current().add("api_calls", 1, resource="/more")
        return {"name": name, "text": question.text}

    return Surface(app, app.openapi(), {200, 422})


def webhooks(metering: Metering) -> Surface:
    app = Starlette()
    app.add_route("/webhooks/stripe", metering.stripe_webhook, methods=["POST"])
    metering.install(app, tenant=from_header("x-org-id"))
    headers = ("stripe-signature", "content-encoding", "content-type")
    takes = {"content": {"application/json": {"schema": {}}, "text/plain": {"schema": {"type": "string"}}}}
    return Surface(app, document({"/webhooks/stripe": {"post": operation(*headers, requestBody=takes)}}), {400})


def health(metering: Metering) -> Surface:
    app = Guarded(health_app(metering.monitor), metering.endpoint_guard)
    return Surface(app, document({path: {"get": operation("accept")} for path in ("/healthz", "/metrics")}), {200})


SURFACES: Final[Mapping[str, Callable[[Metering], Surface]]] = {"host": host, "webhooks": webhooks, "health": health}
"""The portal and the dashboard come here when they are there: their app and their own document."""


def operation(*headers: str, **more: Any) -> dict[str, Any]:
    named = [{"name": each, "in": "header", "schema": {"type": "string", "maxLength": 40}} for each in headers]
    return {"parameters": named, "responses": {"default": {"description": "as docs/http.md says"}}, **more}


def document(paths: Mapping[str, Any]) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": "ours", "version": "1"}, "paths": dict(paths)}
