"""Each of these fails; the first line of its docstring is what the failure says."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mm_metering import FrozenClock, Metering, from_header
from mm_metering.testing import FakeStripe, MeteringClient, MeteringRecorder, WebhookSink
from mm_metering.testing.billing_cycle import MeteringClock
from tests.flows.hosts.apps import app_of


def test_quantity(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    """expected 2 api_call of 'acme' on /v1/scenarios, and there was 1"""
    metering_client.as_tenant("acme").get("/v1/scenarios")
    metering_recorder.assert_metered("api_call", quantity=2, tenant="acme", resource="/v1/scenarios")


def test_these(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    """these count: 1 api_call of 'acme' on /v1/scenarios"""
    test_quantity(metering_client, metering_recorder)


def test_nearest(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    """nearest: 1 api_call of 'acme' on /v1/scenarios (another tenant)"""
    metering_client.as_tenant("acme").get("/v1/scenarios")
    metering_recorder.assert_metered("api_call", tenant="globex")


def test_taken_back(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    """taken back, since its request ended in an error: 1 api_call of 'acme' on /v1/reports; 1 export of 'acme'"""
    metering_client.as_tenant("acme").post("/v1/reports?status=503")
    metering_recorder.assert_metered("reports")


def test_refused(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    """refused: 1 reports (quota-exceeded, 1 of 1 used)"""
    for _ in range(2):
        metering_client.as_tenant("acme").post("/v1/reports")
    metering_recorder.assert_metered("reports", quantity=2)


def test_nobody_asked(metering_recorder: MeteringRecorder) -> None:
    """nothing asked this Metering for anything: is it the one that the app has installed"""
    metering_recorder.assert_metered("api_call")


def test_nothing(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    """expected no event of 'acme', and there were 2"""
    metering_client.as_tenant("acme").post("/v1/reports")
    metering_recorder.assert_nothing(tenant="acme")


def test_no_refusal(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    """expected a refusal of reports as quota-exceeded, and there was none"""
    metering_client.as_tenant("acme").post("/v1/reports")
    metering_recorder.assert_refused("reports", reason="quota-exceeded")


def test_back_in_time(metering_clock: MeteringClock) -> None:
    """from 2024-01-01 to 2023-12-01 is -31 days; a walk goes forward by at most 800 days"""
    metering_clock.run_billing_cycle(to="2023-12-01")


async def test_stands_still(metering_clock: MeteringClock) -> None:
    """whose event loop would stand still: await metering_clock.billing_cycle(to=...)"""
    metering_clock.run_billing_cycle(to="2024-01-02")


def test_nobody_subscribed(webhook_sink: WebhookSink) -> None:
    """no endpoint leads here yet: webhook_sink.subscribe(metering, tenant)"""
    webhook_sink.wait_for("invoice.paid", timeout_s=0.05)


def tell(metering: Metering, sink: WebhookSink, *, rotated: bool = False) -> None:
    metering.from_sync(lambda: metering.put_tenant("acme", plan="pro"))
    endpoint = sink.subscribe(metering, "acme")
    if rotated:
        metering.from_sync(lambda: metering.webhooks.rotate_secret(endpoint.id, keep=timedelta(0)))
    metering.from_sync(lambda: metering.webhooks.send_event("acme", "billing.invoice_created", {}))


def test_another_secret(metering: Metering, webhook_sink: WebhookSink) -> None:
    """1 refused: no live secret has signed it"""
    tell(metering, webhook_sink, rotated=True)
    webhook_sink.wait_for("billing.invoice_created", timeout_s=0.1)


def test_tried_again(metering: Metering, webhook_sink: WebhookSink) -> None:
    """expected 1 billing.invoice_created within 0.1 s, and there came nothing"""
    webhook_sink.fail_next()
    tell(metering, webhook_sink)
    webhook_sink.wait_for("billing.invoice_created", timeout_s=0.1)


def test_when_it_is_tried_again(metering: Metering, webhook_sink: WebhookSink) -> None:
    """billing.invoice_created of 'acme' is tried again at 2024-01-01T00:0"""
    test_tried_again(metering, webhook_sink)


def test_another_metering(metering: Metering, metering_clock: MeteringClock) -> None:
    """is metered by another Metering than the one of the fixture metering, or by none"""
    other = Metering(clock=metering_clock, worker="off", journal="off")
    with MeteringClient(app_of(other, from_header("x-org-id")), metering):
        pass


class TestWithAnotherClock:
    @pytest.fixture
    def metering(self) -> Metering:
        return Metering(clock=FrozenClock("2024-01-01T00:00:00Z"), worker="off", journal="off")

    def test_cycle(self, metering: Metering, metering_clock: MeteringClock) -> None:
        """this Metering goes by another clock, so no period of it would end"""
        metering_clock.run_billing_cycle(to="2024-01-02")

    def test_client(self, metering_clock: MeteringClock, metering_client: MeteringClient) -> None:
        """metering_clock does not move this Metering, which goes by a clock of its own"""


class TestWithAnotherSecret:
    @pytest.fixture
    def metering(self, metering_clock: MeteringClock, fake_stripe: FakeStripe) -> Metering:
        adapter = fake_stripe.adapter(webhook_secret="whsec_another")
        return Metering(clock=metering_clock, billing=adapter, worker="off", journal="off")

    def test_stripe(self, metering: Metering, metering_clock: MeteringClock) -> None:
        """is webhook_secret=fake_stripe.webhook_secret set on the adapter?"""
        billing = metering.billing
        metering.from_sync(lambda: metering.put_tenant("acme", plan="pro"))
        metering.from_sync(lambda: billing.create_customer(organization_id="acme", email="a@b.example", name="A"))
        metering.from_sync(lambda: billing.create_payment_method("acme", payment_method="pm_card_visa"))
        metering_clock.run_billing_cycle(to="2024-02-03")


def test_a_dependency_says_it(metering: Metering) -> None:
    """headers: must be given, since a dependency of this app says who calls"""
    with MeteringClient(app_of(metering, None), metering) as client:
        client.as_tenant("acme")


@pytest.mark.metering(planet="pro")
def test_mark() -> None:
    """@pytest.mark.metering takes at=, tenant=, plan=, limits=, allow=, deny=, disabled=, not planet="""
