"""``python -m examples.agents``: agents that end, one that does not, and a crowd of those."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal

import openai

from examples.agents.app import PLANS, Agent, Ended
from examples.story import Story, told
from mm_metering import FrozenClock, Metering
from mm_metering.testing import FakeLlm

TASK = "Which of our lenders has the lowest rate for a loan of 400,000 over 30 years?"
RATES = "first-bank 6.31, second-bank 6.42, third-bank 6.28, fourth-bank 6.55, as of this morning"
CAP = "0.02"
BUDGET = Decimal("0.10")


class House:
    """Runs agents for tenants, and says what they have cost."""

    def __init__(self, metering: Metering, provider: openai.AsyncOpenAI) -> None:
        self.metering = metering
        self.agent = Agent(metering, provider, {"rates": lambda _: RATES, "search": lambda _: RATES})

    async def run(self, tenant: str, name: str) -> Ended:
        with self.metering.bind(tenant):
            return await self.agent.run(TASK, name=name, cap=CAP)

    async def spent(self, tenant: str) -> Decimal:
        today = self.metering.clock.now().date()
        return (await self.metering.ai.get_usage_stats(tenant, today, today)).total_cost


def plan_good_run(model: FakeLlm) -> None:
    """What the model will say to an agent that ends."""
    model.script(text="rates 400000", times=1)
    model.script(text="search third-bank reviews", times=1)
    model.script(text="DONE third-bank, at 6.28", times=1)


async def one_good(story: Story, house: House) -> Decimal:
    story.chapter("An agent that ends")
    ended = await house.run("acme", "ticket-1")
    story.tell(f"{ended.steps} steps: {ended.answer}; USD", spent := await house.spent("acme"))
    return spent


async def one_runaway(story: Story, house: House, before: Decimal) -> None:
    story.chapter(f"One that calls the same tool for ever, under a cap of {CAP} USD for the run")
    ended = await house.run("acme", "ticket-2")
    cost = await house.spent("acme") - before
    story.tell(f"stopped after {ended.steps} steps; USD", cost)
    story.tell(f"told: {ended.stopped_by}")
    story.check("it has cost its cap at most", holds=0 < cost <= Decimal(CAP) and bool(ended.stopped_by))


async def a_crowd(story: Story, house: House) -> None:
    story.chapter(f"Ten of those at once: each may spend {CAP}, and acme {BUDGET} a month")
    ended = await asyncio.gather(*(house.run("acme", f"crowd-{n}") for n in range(10)))
    story.tell("steps in all, each refused before the model was asked", sum(each.steps for each in ended))
    spent = await house.spent("acme")
    story.tell("acme has spent, USD", spent)
    story.check(f"never more than {BUDGET}", holds=spent <= BUDGET and all(each.stopped_by for each in ended))


async def another_tenant(story: Story, house: House, model: FakeLlm) -> None:
    story.chapter("Another tenant meanwhile")
    plan_good_run(model)
    ended = await house.run("globex", "ticket-1")
    story.check(f"globex has its answer in {ended.steps} steps", holds=ended.answer == "third-bank, at 6.28")


async def main() -> int:
    story = Story("Agents: a budget for the tenant, a cap for the run")
    with FakeLlm() as model:
        provider = openai.AsyncOpenAI(api_key=model.api_key, base_url=f"{model.url}/v1")
        async with provider, Metering(PLANS, clock=FrozenClock("2024-01-15T12:00:00Z"), journal="off") as metering:
            house = House(metering, provider)
            model.script(text="search for a better rate than that one, please")
            plan_good_run(model)
            spent = await one_good(story, house)
            await one_runaway(story, house, spent)
            await a_crowd(story, house)
            await another_tenant(story, house, model)
    return story.exit_code


if __name__ == "__main__":
    sys.exit(told(main()))
