"""A tool loop on OpenAI's SDK. What an agent may spend is said around it, not in it.

``metering.ai.scope(run=..., cap=...)`` holds for every call inside, also in tasks and threads that the agent starts and
in agents that it calls; the tenant's own budget holds beside it. A call that no longer fits is refused before the model
is asked, so that a loop that runs away costs its cap at most, and not what it would have come to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import openai
from openai.types.chat import ChatCompletionMessageParam

from mm_metering import BudgetExceeded, Metering

MODEL: Final = "gpt-4"
MOST_STEPS: Final = 200
INSTRUCTIONS: Final = "Answer with one line: the name of a tool and its argument, or DONE and the answer. Tools: "
PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "team",
    "meters": {
        "ai_requests": {"event": "ai_call"},
        "ai_tokens": {"event": "ai_token"},
        "ai_cost": {"event": "ai_call", "unit": "money"},
    },
    "ai": {"prices": {MODEL: "0.00003"}},
    "plans": {"team": {"price": "50.00", "ai": {"monthly_budget": "0.10"}}},
}


@dataclass(frozen=True)
class Ended:
    """``stopped_by``: what the budget said; "" for an agent that came to its end."""

    steps: int
    answer: str
    stopped_by: str = ""


class Agent:
    def __init__(
        self, metering: Metering, provider: openai.AsyncOpenAI, tools: Mapping[str, Callable[[str], str]]
    ) -> None:
        self._metering = metering
        self._model = metering.ai.wrap(provider)
        self._tools = tools

    async def run(self, task: str, *, name: str, cap: str) -> Ended:
        """For the tenant that is bound; ``cap`` is the most that this run may cost, in USD."""
        said: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": INSTRUCTIONS + ", ".join(self._tools)},
            {"role": "user", "content": task},
        ]
        with self._metering.ai.scope(run=name, cap=cap):
            for step in range(MOST_STEPS):
                try:
                    reply = await self._model.chat.completions.create(model=MODEL, messages=said, max_tokens=100)
                except BudgetExceeded as refusal:
                    return Ended(step, "", str(refusal))
                line = reply.choices[0].message.content or ""
                tool, _, argument = line.partition(" ")
                if tool == "DONE":
                    return Ended(step + 1, argument)
                said.append({"role": "assistant", "content": line})
                said.append({"role": "user", "content": self._used(tool, argument)})
        return Ended(MOST_STEPS, "", f"{MOST_STEPS} steps")

    def _used(self, tool: str, argument: str) -> str:
        """What the tool says, or that there is none of this name: models make names up."""
        return self._tools[tool](argument) if tool in self._tools else f"there is no tool {tool[:40]}"
