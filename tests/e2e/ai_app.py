"""An app whose routes call a model through wrapped clients of OpenAI's SDK, in each way that a call can end.

``GET /WAY/CALL/WORDS/CAP`` has the model say that many words, and at most CAP tokens. A body that ends with ``END``
says that the call came to its end. It serves a unix socket, until it is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NamedTuple

import openai
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mm_metering import Metering, Refused, from_header
from mm_metering.errors import StoreUnavailable
from tests.e2e.ai_plans import MODEL, ai_plans

END: Final = "END"
PLANS: Final = ai_plans("50000.00")
STOPS_WITHIN_S: Final = 5

call_in_hand: ContextVar[str] = ContextVar("call_in_hand", default="")


class Asked(NamedTuple):
    """A request. Its call's id begins the ids of all its facts."""

    call: str
    words: int
    cap: int

    @classmethod
    def of(cls, request: Request) -> Asked:
        path = request.path_params
        call_in_hand.set(path["call"])
        return cls(path["call"], path["words"], path["cap"])

    @property
    def prompt(self) -> str:
        return prompt(self.call, self.words)

    @property
    def chat(self) -> dict[str, Any]:
        return {"model": MODEL, "messages": [{"role": "user", "content": self.prompt}], "max_tokens": self.cap}


def prompt(call: str, words: int) -> str:
    """The model says it again."""
    return f"{call} {'word ' * (words - 1)}"


class App:
    def __init__(self, metering: Metering, llm: str, key: str) -> None:
        self.metering = metering
        options: Any = {"api_key": key, "base_url": f"{llm}/v1", "max_retries": 0}
        self._gpt = metering.ai.wrap(openai.AsyncOpenAI(**options))
        self._plain = metering.ai.wrap(openai.OpenAI(**options))
        self._left: list[Any] = []
        """Streams that somebody still refers to, and nobody reads."""

    async def stream(self, request: Request) -> Response:
        chunks = await self._gpt.chat.completions.create(**Asked.of(request).chat, stream=True)

        async def texts() -> AsyncIterator[str]:
            async for chunk in chunks:
                yield chunk.choices[0].delta.content or ""
            yield END

        return StreamingResponse(texts())

    async def responses(self, request: Request) -> Response:
        asked = Asked.of(request)
        events = await self._gpt.responses.create(
            model=MODEL, input=asked.prompt, max_output_tokens=asked.cap, stream=True
        )

        async def texts() -> AsyncIterator[str]:
            async for event in events:
                yield getattr(event, "delta", "")
            yield END

        return StreamingResponse(texts())

    async def whole(self, request: Request) -> Response:
        reply = await self._gpt.chat.completions.create(**Asked.of(request).chat)
        return PlainTextResponse(f"{reply.choices[0].message.content}{END}")

    async def cancelled(self, request: Request) -> Response:
        """The task that reads it is cancelled at any time, also before the model is asked."""
        asked = Asked.of(request)

        async def read() -> None:
            async for _ in await self._gpt.chat.completions.create(**asked.chat, stream=True):
                pass

        task = asyncio.create_task(read())
        await asyncio.wait((task,), timeout=random.choice((0, 0.002, random.uniform(0, 0.15))))
        task.cancel()
        await asyncio.wait((task,))
        return PlainTextResponse("CANCELLED" if task.cancelled() else END if task.exception() is None else "")

    async def left(self, request: Request) -> Response:
        """The stream is read to its middle, and never closed."""
        stream = await self._gpt.chat.completions.create(**Asked.of(request).chat, stream=True)
        self._left = [*self._left[-50:], stream]
        await anext(stream)
        return PlainTextResponse((await anext(stream)).choices[0].delta.content)

    def sync(self, request: Request) -> Response:
        stream = self._plain.chat.completions.create(**Asked.of(request).chat, stream=True)

        def texts() -> Iterator[str]:
            for chunk in stream:
                yield chunk.choices[0].delta.content or ""
            yield END

        return StreamingResponse(texts())

    @property
    def http(self) -> Starlette:
        ways = (self.stream, self.responses, self.whole, self.cancelled, self.left, self.sync)
        path = "{call}/{words:int}/{cap:int}"
        errors: Any = dict.fromkeys((Refused, StoreUnavailable, openai.APIError), _not_now)
        http = Starlette(routes=[Route(f"/{way.__name__}/{path}", way) for way in ways], exception_handlers=errors)
        self.metering.install(http, tenant=from_header("x-org-id"))
        return http


def _not_now(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{type(error).__name__}: {error}", 503)


def serve(stores: Mapping[str, str], place: Path, llm: str, key: str, log: Path) -> None:
    """The process."""
    to_file(log)
    metering = Metering(PLANS, **stores, worker="off")  # type: ignore[arg-type]
    metering.gate._new_id = lambda: call_in_hand.get() + uuid.uuid4().hex
    uvicorn.run(
        App(metering, llm, key).http,
        uds=str(place),
        log_level="error",
        timeout_graceful_shutdown=STOPS_WITHIN_S,
    )


def work(stores: Mapping[str, str], log: Path) -> None:
    """A worker's process."""
    from mm_metering.cli.worker import run_worker

    to_file(log)
    run_worker(Metering(PLANS, **stores, worker="off"), once=False)  # type: ignore[arg-type]


def to_file(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s {os.getpid()} %(levelname)s %(name)s %(message)s")
