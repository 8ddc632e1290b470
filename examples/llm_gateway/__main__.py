"""``python -m examples.llm_gateway``: OpenAI's own SDK as the client, and a fake model behind the gateway."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from decimal import Decimal
from typing import Any

import openai
from openai.types.chat import ChatCompletionMessageParam

from examples.llm_gateway.app import PLANS, create_app
from examples.story import Story, serving, told
from mm_metering import FrozenClock, Metering, SystemClock
from mm_metering.testing import FakeLlm

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is a meter? Be brief."}]
CAP = 150
MOST_CALLS = 100
SETTLED_WITHIN_S = 10
POLL_S = 0.05


class Client(openai.AsyncOpenAI):
    """The SDK as a tenant has it; it counts its requests."""

    def __init__(self, url: str, key: str) -> None:
        self.sent = 0
        hooks: Any = {"request": [self._count]}
        http = openai.DefaultAsyncHttpxClient(event_hooks=hooks, trust_env=False)
        super().__init__(api_key=key, base_url=f"{url}/v1", http_client=http)

    async def _count(self, _: object) -> None:
        self.sent += 1

    async def ask(self) -> str:
        """Which model has answered."""
        reply = await self.chat.completions.create(model="gpt-4", messages=QUESTION, max_tokens=CAP)
        return reply.model

    async def listen(self, *, chunks: int = 1_000) -> int:
        """How many chunks were read before this client went away, or of all."""
        read = 0
        async with await self.chat.completions.create(
            model="gpt-4", messages=QUESTION, max_tokens=CAP, stream=True
        ) as stream:
            async for _ in stream:
                read += 1
                if read == chunks:
                    break
        return read


class Gateway:
    """The story's parts."""

    def __init__(self, story: Story, metering: Metering, model: FakeLlm) -> None:
        self.story, self.metering, self.model = story, metering, model

    async def charged(self, tenant: str) -> Decimal:
        today = self.metering.clock.now().date()
        return (await self.metering.ai.get_usage_stats(tenant, today, today)).total_cost

    async def streams(self, acme: Client) -> None:
        self.story.chapter("acme streams a reply")
        self.model.script(output_tokens=120, chunks=40, delay_s=0.005, times=1)
        self.story.tell("chunks", await acme.listen())
        whole = await self.charged("acme")
        self.story.tell("charged, USD", whole)

        self.story.chapter("acme reads 5 chunks of the next, and goes away before the usage is said")
        self.model.script(output_tokens=120, chunks=40, delay_s=0.1, times=1)
        await acme.listen(chunks=5)
        dropped = await self._settled(beyond=whole)
        self.story.tell("charged, USD", dropped)
        self.story.check(
            "a stream that was dropped is billed, and for less than a whole one", holds=0 < dropped < whole
        )

    async def _settled(self, *, beyond: Decimal) -> Decimal:
        """What acme is charged more than that, once the gateway has noticed that its client is gone."""
        async with asyncio.timeout(SETTLED_WITHIN_S):
            while (charged := await self.charged("acme")) == beyond:  # noqa: ASYNC110 - the gateway is another program
                await asyncio.sleep(POLL_S)
        return charged - beyond

    async def fails_once(self, acme: Client) -> None:
        self.story.chapter("the provider fails once: the SDK asks again by itself")
        before, sent = await self.charged("acme"), acme.sent
        self.model.fail("chat", "500")
        await acme.ask()
        cost = await self.charged("acme") - before
        self.story.tell(f"{acme.sent - sent} requests, one reply; charged, USD", cost)

    async def spends_all(self, acme: Client, globex: Client) -> None:
        self.story.chapter("acme goes on until its 0.02 USD are spent")
        answered, before = Counter[str](), acme.sent
        refusal = await self._asks_until_refused(acme, answered)
        for model, calls in answered.items():
            self.story.tell(f"calls that {model} has answered", calls)
        self.story.tell(f"then {refusal.status_code} {refusal.code}, told as")
        self.story.tell(f"  {refusal.message}")
        self.story.check("the SDK did not ask again", holds=acme.sent - before == answered.total() + 1)
        self.story.check("globex has a budget of its own", holds=await globex.ask() == "gpt-4")

    async def _asks_until_refused(self, acme: Client, answered: Counter[str]) -> openai.APIStatusError:
        for _ in range(MOST_CALLS):
            try:
                answered[await acme.ask()] += 1
            except openai.APIStatusError as refusal:
                return refusal
        raise RuntimeError(f"{MOST_CALLS} calls, and none was refused")

    async def costs(self) -> None:
        self.story.chapter("the month by tenant and model: calls, tokens, USD")
        rows = await self.metering.ai.get_cost_report(f"{self.metering.clock.now():%Y-%m}")
        for row in rows:
            self.story.tell(f"{row.tenant:8}{row.model:16}{row.requests:>6}{row.tokens:>8}", row.cost)
        spent = sum(row.cost for row in rows if row.tenant == "acme")
        self.story.check(f"acme has spent {spent} of 0.02 USD, never more", holds=spent <= Decimal("0.02"))
        made = sum(each.input + each.output for each in self.model.totals.values())
        self.story.tell("tokens that the model has read and written, by its own count", made)


async def main(*, serve: bool) -> int:
    story = Story("LLM gateway: OpenAI's SDK, two tenants, 0.02 USD a month each")
    with FakeLlm() as model:
        metering = Metering(PLANS, clock=SystemClock() if serve else FrozenClock("2024-01-15T12:00:00Z"), journal="off")
        provider = openai.AsyncOpenAI(api_key=model.api_key, base_url=f"{model.url}/v1", max_retries=0)
        async with provider, serving(create_app(metering, provider), port=8000) as url:
            async with Client(url, "sk-acme") as acme, Client(url, "sk-globex") as globex:
                model.script(output_tokens=120)
                gateway = Gateway(story, metering, model)
                await gateway.streams(acme)
                await gateway.fails_once(acme)
                await gateway.spends_all(acme, globex)
                await gateway.costs()
            if serve:
                story.chapter(f"Still serving. OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=sk-globex; Ctrl-C ends it.")
                await asyncio.Event().wait()
    return story.exit_code


if __name__ == "__main__":
    sys.exit(told(main(serve="--serve" in sys.argv)))
