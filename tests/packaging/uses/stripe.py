"""Stripe's adapter: made, and closed without a call."""

import asyncio

from mm_metering import Metering, StripeBillingAdapter


async def start() -> None:
    adapter = StripeBillingAdapter(api_key="sk_test_51NotARealKey", webhook_secret="whsec_1")
    async with Metering(billing=adapter, worker="off"):
        pass


asyncio.run(start())
