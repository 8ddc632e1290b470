# What every page may presume: an app, and a Metering in memory under a clock that stands still. A page that makes one
# of its own, on Redis or PostgreSQL, gets those stores in memory as well.
import asyncio
import json
import os
import random
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from starlette.responses import RedirectResponse, StreamingResponse

import mm_metering
from mm_metering import *
from mm_metering.gate.deadlines import Timing

clock = FrozenClock("2024-01-15T12:00:00Z")


class Metering(mm_metering.Metering):
    def __init__(self, *catalogue, counters="memory://", ledger="memory://", **options):
        settings = {"clock": clock, "worker": "off", "billing": MockBillingAdapter()}
        super().__init__(*catalogue, **settings | options, timing=Timing(decision_s=10, load_s=10))


metering = await stack.enter_async_context(Metering())
app = FastAPI()


async def ask(app, method, path, **options):
    """One request to an app, without a network and without its lifespan."""
    from httpx2 import ASGITransport, AsyncClient

    async with AsyncClient(transport=ASGITransport(app), base_url="http://app.example") as client:
        return await client.request(method, path, **options)
