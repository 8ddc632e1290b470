"""A small app that is metered, made by a function so that a test may give it another Metering."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mm_metering import Metering, ai_call, from_header, metered


async def scenarios(request: Request) -> JSONResponse:
    return JSONResponse(["base", "stress"])


@metered("export", resource="report_pdf")
async def create_report(request: Request) -> JSONResponse:
    if request.query_params.get("broken"):
        return JSONResponse({"error": "the printer is on fire"}, status_code=503)
    return JSONResponse({"id": "rep_1"}, status_code=201)


async def summary(request: Request) -> JSONResponse:
    reply = await summarise(request.app.state.llm, "Say it in one sentence.", model="gpt-4", max_output_tokens=50)
    return JSONResponse({"summary": reply.choices[0].message.content})


@ai_call(model="gpt-4", max_output_tokens=50)
async def summarise(llm: AsyncOpenAI, text: str, *, model: str, max_output_tokens: int) -> Any:
    asked: Any = [{"role": "user", "content": text}]
    return await llm.chat.completions.create(model=model, messages=asked, max_tokens=max_output_tokens)


def create_app(metering: Metering, llm: AsyncOpenAI) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with llm:
            yield

    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/v1/scenarios", scenarios),
            Route("/v1/reports", create_report, methods=["POST"]),
            Route("/v1/summary", summary, methods=["POST"]),
        ],
    )
    app.state.llm = llm
    metering.install(app, tenant=from_header("x-org-id"))
    return app
