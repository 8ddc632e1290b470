"""Tenants by token."""

import asyncio

import jwt

from mm_metering import from_jwt
from mm_metering.middleware.tenants import settled

KEY = "s" * 32
token = jwt.encode({"org": {"id": "acme"}, "exp": 4_102_444_800}, KEY, algorithm="HS256")


async def found() -> object:
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return await settled(from_jwt("org.id", KEY)({"type": "http", "headers": headers}))


assert asyncio.run(found()) == "acme"
