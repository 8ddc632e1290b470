"""OpenAI's chat completions for many tenants, each with a key of its own and a budget.

``metering.ai.wrap`` is all that meters: each call is held at its worst case before it, and settled at its real cost
when its reply, or its stream, is over, also where the client went away. What the tenant sends is checked first:
``create`` takes options that are nobody's business but ours, such as headers for the provider.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from mm_metering import Metering, current, from_header

KEYS = {"Bearer sk-acme": "acme", "Bearer sk-globex": "globex"}  # a table of hashes, in a real house
PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "starter",
    "meters": {
        "ai_requests": {"event": "ai_call"},
        "ai_tokens": {"event": "ai_token"},
        "ai_cost": {"event": "ai_call", "unit": "money"},
    },
    "ai": {"prices": {"gpt-4": "0.00003", "gpt-3.5-turbo": "0.000002"}},  # a token; else from the price list
    "plans": {
        "starter": {
            "price": "20.00",
            "ai": {
                "monthly_budget": "0.02",
                "model_allowlist": ["gpt-4", "gpt-3.5-turbo"],
                "fallback_model": "gpt-3.5-turbo",
            },
        }
    },
}


class Message(BaseModel):
    role: str
    content: str


class Chat(BaseModel):
    """What a tenant may ask for."""

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int = Field(default=1_000, ge=1, le=4_000)
    temperature: float | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None


def create_app(metering: Metering, provider: openai.AsyncOpenAI) -> FastAPI:
    app = FastAPI(title="LLM gateway")
    metering.install(app, tenant=from_header("authorization", KEYS.get), error_shapes={"/v1/chat": "openai"})
    models = metering.ai.wrap(provider)

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat) -> Response:
        reply = await models.chat.completions.create(**asked.model_dump(exclude_none=True))
        if asked.stream:
            return StreamingResponse(events(reply), media_type="text/event-stream")
        return Response(reply.model_dump_json(), media_type="application/json")

    @app.get("/v1/usage")
    async def usage() -> dict[str, Any]:
        """What the caller has used this month, by model."""
        today = metering.clock.now().date()
        stats = await metering.ai.get_usage_stats(current().tenant, today.replace(day=1), today)
        return {model: use._asdict() for model, use in stats.model_breakdown.items()}

    @app.exception_handler(openai.APIStatusError)
    async def as_the_provider_says(_: Request, error: openai.APIStatusError) -> Response:
        return JSONResponse({"error": error.body}, error.status_code)

    return app


async def events(chunks: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
    yield "data: [DONE]\n\n"
