"""Metrics that an SDK collects."""

import asyncio

from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from mm_metering import Metering


async def count() -> None:
    async with Metering(worker="off") as metering:
        await metering.record_api_call("acme", "/v1/reports")


reader = InMemoryMetricReader()
set_meter_provider(MeterProvider([reader]))
asyncio.run(count())
assert "mm_metering" in str(reader.get_metrics_data())
