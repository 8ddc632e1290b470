"""Apps that find their tenants otherwise, and what the fixtures are in sync and async tests."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.types import Scope

from mm_metering import Metering, first_of, from_header, from_state
from mm_metering.errors import QuotaExceeded
from mm_metering.testing import MeteringClient, MeteringRecorder, WebhookSink
from mm_metering.testing.billing_cycle import MeteringClock
from tests.flows.hosts.apps import app_of


class TestOtherResolvers:
    @pytest.fixture(params=["state", "callable", "first", "key"])
    def metering_app(self, metering: Metering, request: pytest.FixtureRequest) -> Starlette:
        def nobody(scope: Scope) -> None:
            return None

        by_key = from_header("x-api-key", lambda key: key.removeprefix("key of ") or None)
        resolvers = {"state": from_state(), "callable": nobody, "key": by_key}
        return app_of(metering, resolvers.get(request.param) or first_of(by_key, from_header("x-org-id")))

    def test_as_tenant(self, metering_client: MeteringClient, metering_recorder: MeteringRecorder) -> None:
        acme, globex = metering_client.as_tenant("acme"), metering_client.as_tenant("globex", plan="pro")
        assert [acme.get("/v1/scenarios").status_code, acme.post("/v1/reports").status_code] == [200, 200]
        assert [globex.post("/v1/reports").status_code for _ in range(2)] == [200, 200]
        assert metering_client.get("/v1/scenarios").status_code == 401
        with acme.websocket_connect("/v1/stream") as websocket:
            assert websocket.receive_text() == "hello"
        metering_recorder.assert_metered("api_calls", quantity=3, tenant="acme")
        metering_recorder.assert_metered("reports", quantity=2, tenant="globex")

    def test_what_is_shown_is_what_is_read(self, metering_client: MeteringClient) -> None:
        shown = metering_client.as_tenant("acme", headers={"x-api-key": "key of acme"})
        by_key = metering_client.get("/v1/scenarios", headers={"x-api-key": "key of acme"}).status_code
        assert shown.get("/v1/scenarios").status_code == by_key


def test_what_is_decided_beneath_is_recorded_too(
    metering: Metering, metering_client: MeteringClient, metering_recorder: MeteringRecorder
) -> None:
    acme = metering_client.as_tenant("acme", plan="pro")
    with metering.override(deny="quota-exceeded"), pytest.raises(QuotaExceeded):
        metering.from_sync(lambda: metering.enforce_quota("acme", "reports"))
    metering_recorder.assert_refused("reports", reason="quota-exceeded")
    metering_recorder.assert_nothing()
    with metering.override(disabled=True):
        acme.post("/v1/reports")
    metering_recorder.assert_nothing()
    metering.from_sync(lambda: metering.set_level("acme", "users", 3))
    metering.from_sync(lambda: metering.check_limit("acme", "reports"))
    metering.from_sync(lambda: metering.record_ai_usage("acme", "gpt-4", tokens=1000, cost="0.03"))
    assert [str(each) for each in metering_recorder.events] == [
        "3 users of 'acme' on users",
        "1 ai_call of 'acme' on gpt-4",
        "1,000 ai_token of 'acme' on gpt-4",
    ]
    assert len(metering_recorder.decisions) == 1


def test_a_reservation_that_is_settled_or_given_back(metering: Metering, metering_recorder: MeteringRecorder) -> None:
    async def call() -> None:
        async with metering.ai.reserve("acme", "gpt-4", input_tokens=10, max_output_tokens=10) as settled:
            metering_recorder.assert_nothing()
            settled.settle(input_tokens=10, output_tokens=5)
        async with metering.ai.reserve("acme", "gpt-4", input_tokens=10, max_output_tokens=10) as given_back:
            given_back.release()

    metering.from_sync(call)
    metering_recorder.assert_metered("ai_tokens", quantity=15, resource="gpt-4")


async def test_async(
    metering: Metering,
    metering_client: MeteringClient,
    metering_clock: MeteringClock,
    metering_recorder: MeteringRecorder,
    webhook_sink: WebhookSink,
) -> None:
    await metering.put_tenant("acme", plan="pro")
    await webhook_sink.subscribed(metering, "acme", events=["invoice.*"])
    with metering.bind("acme") as bound:
        bound.add("api_calls", 3)
    assert metering_client.as_tenant("acme").get("/v1/scenarios").status_code == 200
    [january] = await metering_clock.billing_cycle(to="2024-02-02T00:00:00Z")
    assert january.status == "finalized"
    assert (await webhook_sink.arrived("invoice.finalized")).data["invoice"] == january.id
    metering_recorder.assert_metered("api_calls", quantity=4, tenant="acme")


@pytest.mark.metering(at="2024-05-31T12:00:00Z", plan="pro")
class TestMarked:
    def test_the_class_says(self, metering: Metering, metering_clock: MeteringClock) -> None:
        assert metering_clock.now().month == 5
        assert metering.from_sync(lambda: metering.check_limit("acme", "reports")).plan == "pro"

    @pytest.mark.metering(plan="enterprise", limits={"reports": 7})
    def test_the_function_says_it_over_the_class(self, metering: Metering, metering_clock: MeteringClock) -> None:
        assert metering_clock.now().month == 5
        decision = metering.from_sync(lambda: metering.check_limit("acme", "reports"))
        assert (decision.plan, decision.limit) == ("enterprise", 7)


def test_without_a_mark_there_is_no_more_fixture(request: pytest.FixtureRequest) -> None:
    assert "_metering_marked" not in request.fixturenames
