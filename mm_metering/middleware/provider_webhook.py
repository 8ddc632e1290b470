"""The endpoint for the payment provider's webhooks: verify the raw bytes, store, answer; the worker acts later."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from mm_metering.errors import StoreUnavailable, WebhookRefused

log: Final = logging.getLogger("mm_metering")

Take = Callable[[bytes, Mapping[str, str]], Awaitable[object]]
REFUSED: Final = {"error": "this is no webhook that is taken here"}


async def answer(request: Request, take: Take, *, max_body: int) -> Response:
    """200 once it is stored; 400 without a reason for what is refused; 503, to be sent again, where the store fails."""
    try:
        body = await _body(request, max_body)
        await take(body, dict(request.headers))
    except WebhookRefused as error:
        log.warning("a webhook was refused: %s", error)
        return JSONResponse(REFUSED, status_code=400)
    except ClientDisconnect:
        return Response(status_code=400)
    except StoreUnavailable as error:
        log.error("a webhook could not be stored and will be sent again: %s", error)
        return JSONResponse({"error": "try again"}, status_code=503, headers={"Retry-After": "30"})
    return JSONResponse({"received": True})


async def _body(request: Request, most: int) -> bytes:
    """Its raw bytes; WebhookRefused as soon as they are too many."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise WebhookRefused(f"it has more than {most:,} bytes")
    return bytes(body)
