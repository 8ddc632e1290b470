"""What the fixtures of mm_metering are to test: this app, and its Metering."""

from __future__ import annotations

import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette

from examples.tested_app.app import create_app
from mm_metering import Metering
from mm_metering.testing import FakeLlm, FakeStripe, FrozenClock, WebhookSink


@pytest.fixture
def metering(metering_clock: FrozenClock, fake_stripe: FakeStripe, webhook_sink: WebhookSink) -> Metering:
    return Metering(
        clock=metering_clock,
        billing=fake_stripe.adapter(),
        webhook_rules=webhook_sink.rules,
        worker="off",
        journal="off",
    )


@pytest.fixture
def metering_app(metering: Metering, fake_llm: FakeLlm) -> Starlette:
    return create_app(metering, AsyncOpenAI(api_key=fake_llm.api_key, base_url=f"{fake_llm.url}/v1"))
