"""Requests of callers, with keys and tokens, and what a resolver says to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import jwt
from starlette.types import Scope

from mm_metering.middleware.tenants import Found, Resolver, begin, settled

PAST = 946_684_800
"""2000, which is over by any clock."""
FUTURE = 4_102_444_800
"""2100."""
SECRET = "0123456789abcdef" * 2


async def resolve(resolver: Resolver, scope: Scope) -> str | None:
    """What the middleware makes of a resolver's answer."""
    return await settled(begin(resolver, scope))


def scope_of(*headers: tuple[str, str | bytes], **more: object) -> Scope:
    raw = [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    return {"type": "http", "headers": raw, **more}


def with_key(key: str) -> Scope:
    return scope_of(("x-api-key", key))


def with_token(token: str) -> Scope:
    return scope_of(("authorization", f"Bearer {token}"))


async def ask(resolver: Resolver, scope: Scope) -> Found:
    """What the resolver itself says, with its UnknownTenant."""
    found = resolver(scope)
    return await found if isinstance(found, Awaitable) else found


async def later(found: Any) -> Any:
    await asyncio.sleep(0)
    return found


def signed(key: Any, algorithm: str = "HS256", *, kid: str | None = None, **claims: object) -> str:
    payload = {"org": "acme", "exp": FUTURE, **claims}
    return jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid else None)
