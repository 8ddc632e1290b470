"""Prices of models, from the list that comes with the extra."""

import asyncio
from decimal import Decimal

from mm_metering import Metering

PLANS = {
    "meters": {"ai_cost": {"event": "ai_call", "unit": "money"}},
    "plans": {"pro": {"price": "99.00", "ai": {"daily_budget": "1.00"}}},
}


async def spend() -> Decimal:
    async with Metering(PLANS, worker="off") as metering:
        await metering.put_tenant("acme", plan="pro")
        async with metering.ai.reserve("acme", "gpt-4o-mini", input="hello", max_output_tokens=10) as call:
            call.settle(input_tokens=1_000, output_tokens=10)
        used = (await metering.check_limit("acme", "ai_cost")).used
        assert isinstance(used, Decimal)
        return used


assert asyncio.run(spend()) > 0
