"""The model that explains a quote. ``@ai_call`` holds what a call may cost before it, for the tenant of the request,
and charges what it did cost; the function is told which model it may ask, and for how much.

MORTGAGEMATCH_LLM is where OpenAI's API is spoken; without it the app asks a fake model of its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final

import httpx2

from mm_metering import ai_call

QUESTION: Final = "Explain in one sentence the quote of"
MAX_OUTPUT_TOKENS: Final = 60


class Assistant:
    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    @ai_call(model="gpt-4", max_output_tokens=MAX_OUTPUT_TOKENS, feature="explanations")
    async def explain(
        self, lender: str, *, model: str = "", max_output_tokens: int = MAX_OUTPUT_TOKENS
    ) -> dict[str, Any]:
        """The provider's reply, as JSON. The last two are given by ``@ai_call``."""
        messages = [{"role": "user", "content": f"{QUESTION} {lender}"}]
        asked = {"model": model, "max_tokens": max_output_tokens, "messages": messages}
        reply = await self._http.post("/v1/chat/completions", json=asked)
        reply.raise_for_status()
        said: dict[str, Any] = reply.json()
        return said


@asynccontextmanager
async def assistant() -> AsyncIterator[Assistant]:
    with ExitStack() as stack:
        url, key = os.environ.get("MORTGAGEMATCH_LLM"), os.environ.get("MORTGAGEMATCH_LLM_KEY", "sk-fake")
        if not url:
            from mm_metering.testing import FakeLlm

            url = stack.enter_context(FakeLlm(api_key=key)).url
        headers = {"authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
            yield Assistant(http)
