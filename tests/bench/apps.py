"""The same one-route app: bare, under us, and under each peer, with one or two limits that never refuse."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mm_metering import Metering, from_header
from mm_metering.middleware.shapes import HeaderStyle

MANY = 1_000_000_000


class Contender(NamedTuple):
    """``build(url, limits)`` makes the app on the Redis at ``url``; ``of`` is the bare app that it is compared with."""

    build: Callable[[str, int], ASGIApp]
    of: str


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def starlette(_: str = "", __: int = 0, middleware: list[Middleware] | None = None) -> Starlette:
    return Starlette(routes=[Route("/x", page)], middleware=middleware)


def fastapi(_: str = "", __: int = 0) -> FastAPI:
    app = FastAPI()
    app.get("/x", response_class=PlainTextResponse)(answer)
    return app


async def answer() -> PlainTextResponse:
    return PlainTextResponse("ok")


def tenant_of(scope: Scope) -> str:
    return str(dict(scope["headers"])[b"x-org-id"], "ascii")


# ---- ours ----


def catalogue(limits: int) -> dict[str, Any]:
    quotas = [{"limit": MANY, "per": "day"}, {"limit": MANY, "per": "month"}][:limits]
    meters: dict[str, Any] = {"api_calls": {"event": "api_call"}}
    plans = {"p": {"price": "0", "quotas": {"api_calls": quotas}}}
    return {"currency": "USD", "timezone": "UTC", "default_plan": "p", "meters": meters, "plans": plans}


def ours(app: Any, url: str, limits: int, *, ledger: str = "memory://", headers: HeaderStyle = "standard") -> Any:
    """Everything else is the default, its deadlines too."""
    metering = Metering(catalogue(limits), counters=url, ledger=ledger, worker="off")
    metering.install(app, tenant=from_header("x-org-id"), headers=headers)
    app.state.metering = metering
    return app


# ---- peers ----


class Checked:
    """A middleware that asks ``check(tenant)`` before the app, once per limit, as these libraries are used."""

    def __init__(self, app: ASGIApp, check: Callable[[str], Any], limits: int) -> None:
        self.app, self.check, self.limits = app, check, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for n in range(self.limits):
                await self.check(f"{tenant_of(scope)}:{n}")
        await self.app(scope, receive, send)


def with_limits(url: str, limits: int) -> ASGIApp:
    from limits import RateLimitItemPerDay
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter

    storage, item = RedisStorage(f"async+{url}", implementation="redispy"), RateLimitItemPerDay(MANY)
    limiter = FixedWindowRateLimiter(storage)
    return Checked(starlette(), lambda key: limiter.hit(item, key), limits)


def with_slowapi(url: str, limits: int) -> ASGIApp:
    from slowapi import Limiter
    from slowapi.middleware import SlowAPIASGIMiddleware

    rules = [f"{MANY}/day", f"{MANY}/month"][:limits]
    limiter = Limiter(lambda request: request.headers["x-org-id"], default_limits=rules, storage_uri=url)
    app = starlette(middleware=[Middleware(SlowAPIASGIMiddleware)])
    app.state.limiter = limiter
    return app


def with_throttled(url: str, limits: int) -> ASGIApp:
    from throttled.asyncio import Throttled, rate_limiter, store

    throttle = Throttled(using="fixed_window", quota=rate_limiter.per_day(MANY), store=store.RedisStore(server=url))
    return Checked(starlette(), throttle.limit, limits)


def with_asgi_ratelimit(url: str, limits: int) -> ASGIApp:
    from ratelimit import RateLimitMiddleware, Rule
    from ratelimit.backends.redis import RedisBackend
    from redis.asyncio import StrictRedis

    async def who(scope: Scope) -> tuple[str, str]:
        return tenant_of(scope), "default"

    rule = Rule(day=MANY, month=MANY) if limits == 2 else Rule(day=MANY)
    app: ASGIApp = RateLimitMiddleware(starlette(), who, RedisBackend(StrictRedis.from_url(url)), {r"^/x": [rule]})
    return app


def with_fastapi_limiter(url: str, limits: int) -> ASGIApp:
    from fastapi import Depends
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import Duration, Limiter, Rate, RedisBucket
    from redis.asyncio import Redis

    rates = [Rate(MANY, Duration.DAY), Rate(2 * MANY, Duration.WEEK)][:limits]
    dependencies: list[Any] = []
    app = FastAPI()
    app.get("/x", response_class=PlainTextResponse, dependencies=dependencies)(answer)

    async def start() -> None:
        limiter = Limiter(await RedisBucket.init(rates, Redis.from_url(url), "bench"))

        async def who(request: Request) -> str:
            return request.headers["x-org-id"]

        app.routes.clear()
        limit = Depends(RateLimiter(limiter=limiter, identifier=who))
        app.get("/x", response_class=PlainTextResponse, dependencies=[limit])(answer)

    app.state.start = start
    return app


CONTENDERS = {
    "bare starlette": Contender(starlette, "bare starlette"),
    "bare fastapi": Contender(fastapi, "bare fastapi"),
    "mm_metering": Contender(lambda url, n: ours(starlette(), url, n), "bare starlette"),
    "mm_metering on fastapi": Contender(lambda url, n: ours(fastapi(), url, n), "bare fastapi"),
    "limits": Contender(with_limits, "bare starlette"),
    "throttled-py": Contender(with_throttled, "bare starlette"),
    "asgi-ratelimit": Contender(with_asgi_ratelimit, "bare starlette"),
    "slowapi": Contender(with_slowapi, "bare starlette"),
    "fastapi-limiter": Contender(with_fastapi_limiter, "bare fastapi"),
}


def served() -> ASGIApp:
    """The app of a server's process, as its environment says; ours with a ledger that the processes share."""
    name, url, limits = os.environ["BENCH_APP"], os.environ["BENCH_COUNTERS"], int(os.environ["BENCH_LIMITS"])
    if name.startswith("mm_metering"):
        host = fastapi() if CONTENDERS[name].of == "bare fastapi" else starlette()
        return cast(ASGIApp, ours(host, url, limits, ledger=os.environ["BENCH_LEDGER"]))
    app = CONTENDERS[name].build(url, limits)
    return Started(app, app.state.start) if hasattr(app, "state") and hasattr(app.state, "start") else app


class Started:
    """An app whose peer is opened before its first request, on the loop that serves it."""

    def __init__(self, app: ASGIApp, start: Callable[[], Awaitable[None]]) -> None:
        self.app, self.start = app, start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.start()
        await self.app(scope, receive, send)
