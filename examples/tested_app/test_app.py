"""How an app's own tests may look: limits, usage, invoices, webhooks and AI calls, without a network."""

from __future__ import annotations

from decimal import Decimal

import pytest

from mm_metering import Metering
from mm_metering.testing import FakeLlm, FakeStripe, MeteringClient, MeteringRecorder, WebhookSink, assert_conserved
from mm_metering.testing.billing_cycle import MeteringClock


def test_a_free_tenant_has_one_report_a_month(metering_client: MeteringClient, metering_clock: MeteringClock) -> None:
    acme = metering_client.as_tenant("acme", plan="free")
    assert acme.post("/v1/reports").status_code == 201
    refused = acme.post("/v1/reports")
    assert refused.status_code == 429
    assert "reports: 1 of 1 used this month" in refused.json()["detail"]
    metering_clock.advance(days=31)
    assert acme.post("/v1/reports").status_code == 201


def test_what_is_metered(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    acme = metering_client.as_tenant("acme", plan="pro")
    acme.get("/v1/scenarios")
    acme.post("/v1/reports")
    acme.post("/v1/reports?broken=1")  # a 5xx does not count
    metering_recorder.assert_metered("api_call", quantity=2, tenant="acme")
    metering_recorder.assert_metered("reports", quantity=1, resource="report_pdf")
    metering_recorder.assert_nothing("ai_call")
    assert [each.limit for each in metering_recorder.decisions if each.meter == "reports"] == [50, 50]


def test_an_ai_call_costs_what_the_model_used(
    metering_client: MeteringClient, metering_recorder: MeteringRecorder, fake_llm: FakeLlm
) -> None:
    fake_llm.script(text="All is well.", input_tokens=100, output_tokens=4)
    answer = metering_client.as_tenant("acme", plan="pro").post("/v1/summary")
    assert answer.json() == {"summary": "All is well."}
    metering_recorder.assert_metered("ai_tokens", quantity=104, tenant="acme")


def test_a_month_is_billed_and_paid(
    metering: Metering,
    metering_client: MeteringClient,
    metering_clock: MeteringClock,
    fake_stripe: FakeStripe,
    webhook_sink: WebhookSink,
) -> None:
    acme = metering_client.as_tenant("acme", plan="pro")
    billing = metering.billing
    metering.from_sync(lambda: billing.create_customer(organization_id="acme", email="a@acme.example", name="Acme"))
    metering.from_sync(lambda: billing.create_payment_method("acme", payment_method="pm_card_visa"))
    webhook_sink.subscribe(metering, "acme", events=["invoice.*"])
    webhook_sink.fail_next(status=500)
    acme.post("/v1/reports")

    january, february = metering_clock.run_billing_cycle(to="2024-03-01")

    assert (january.status, january.total) == ("paid", Decimal("99.00"))
    assert february.status == "draft"  # until its grace is over, too
    assert webhook_sink.wait_for("invoice.paid").data["invoice"] == january.id
    assert any(asked.path.endswith("/pay") for asked in fake_stripe.requests)


@pytest.mark.metering(plan="enterprise", at="2024-01-31T23:59:00Z")
async def test_the_last_minute_of_a_month(
    metering: Metering, metering_client: MeteringClient, metering_clock: MeteringClock
) -> None:
    acme = metering_client.as_tenant("acme")
    assert acme.post("/v1/reports").status_code == 201
    metering_clock.advance(minutes=1)
    assert acme.post("/v1/reports").status_code == 201
    january = await metering.get_usage("acme", "2024-01-01", "2024-01-31")
    assert january.exports == 1
    await assert_conserved(metering, told={"acme": {"api_calls": 2}})


@pytest.mark.metering(disabled=True)
def test_something_else_entirely(metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
    assert {metering_client.post("/v1/reports").status_code for _ in range(3)} == {201}
    metering_recorder.assert_nothing()


def test_the_page_for_a_used_up_quota(metering: Metering, metering_client: MeteringClient) -> None:
    acme = metering_client.as_tenant("acme")
    with metering.override(deny="quota-exceeded"):
        assert acme.get("/v1/scenarios").headers["retry-after"] == "86400"
    with metering.override(limits={"reports": 0}):
        assert acme.post("/v1/reports").status_code == 403
    with metering.override(tenant="globex", allow=True):
        assert metering_client.post("/v1/reports").status_code == 201
