"""What a person does with the pages in a browser."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Page, expect

from mm_metering.core.identity import tenant_id
from mm_metering.testing.lodgers import HOSTILE
from tests.pages.eyes import Eyes, violations
from tests.pages.house import House

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEAM: dict[str, Any] = {"extra_http_headers": {"x-role": "operator finance"}}
FOLLOWED_MS = 3_000
NEW_YORK = {"timezone_id": "America/New_York"}


async def said(page: Page) -> str:
    """What was done: said once, and gone at the next look."""
    text = await page.locator(".said").inner_text()
    await page.reload()
    assert await page.locator(".said").count() == 0
    return text


async def test_a_plan_is_changed_for_a_reason(eyes: Eyes, house: House) -> None:
    async with eyes.see(f"{house.url}/team/tenant?id=elmwood", **TEAM) as (page, wrong):
        form = page.locator("form[action=change-plan]")
        await form.get_by_label("Plan").select_option("pro")
        await form.get_by_label("Reason").fill("ticket 5000")
        await form.get_by_role("button").click()
        await page.wait_for_load_state()
        assert await page.locator("h1").inner_text() == "elmwood"
        assert "elmwood" in await said(page)
        assert wrong + await violations(page) == []
    tenant = await house.asked(house.metering.get_tenant("elmwood"))
    assert tenant is not None
    assert tenant.plan == "pro"
    entry = (await house.asked(house.metering.list_audit(tenant="elmwood", limit=1)))[0]
    assert (entry.action, entry.actor, entry.reason) == ("plan changed", "dashboard:op-7", "ticket 5000")


async def test_a_payment_that_failed_is_tried_again(eyes: Eyes, house: House) -> None:
    (failing,) = await house.asked(house.metering.list_payments(state="failing"))
    async with eyes.see(f"{house.url}/team/payments", **TEAM) as (page, wrong):
        form = page.locator("form[action=retry-payment]", has=page.locator(f"input[value='{failing.invoice}']"))
        await form.get_by_label("Reason").fill("they have a new card")
        await form.get_by_role("button").click()
        await page.wait_for_load_state()
        assert failing.tenant in await said(page)
        assert wrong == []
    (after,) = await house.asked(house.metering.list_payments(tenant=failing.tenant, state=failing.state))
    assert after.due_at is not None
    assert after.due_at <= house.clock.now()
    entries = await house.asked(house.metering.list_audit(tenant=failing.tenant, limit=5))
    assert ("payment asked for again", "they have a new card") in [(each.action, each.reason) for each in entries]


async def test_a_delivery_is_sent_again(eyes: Eyes, house: House) -> None:
    delivered = (await house.asked(house.metering.webhooks.list_deliveries("brightwater", state="delivered")))[0]
    async with eyes.see(f"{house.url}/team/delivery?id={delivered.id}", **TEAM) as (page, wrong):
        await page.get_by_role("button", name="Send it again").click()
        await page.wait_for_load_state()
        assert "sent again" in await said(page)
        before = len(house.sink.events)
        await house.asked(house.metering.webhooks.deliver())
        assert [each.id for each in house.sink.events[before:]].count(delivered.event) == 1
        await page.reload()
        assert await page.locator("main ol.list > li").count() == len(delivered.attempts) + 1
        assert wrong == []


async def test_an_alert_is_muted(eyes: Eyes, house: House) -> None:
    async with eyes.see(f"{house.url}/team/alerts", **TEAM) as (page, wrong):
        form = page.locator("form[action=mute]")
        await form.get_by_label("Rule").select_option("budget")
        await form.get_by_label("Tenant").fill("fable-games")
        await form.get_by_label("Hours").fill("36")
        await form.get_by_label("Reason").fill("a launch")
        await form.get_by_role("button").click()
        await page.wait_for_load_state()
        assert "fable-games" in await said(page)
        shown = " ".join((await page.locator("main").inner_text()).split())
        assert "budget of fable-games is muted until 2024-03-14 03:00:00" in shown
        assert wrong == []
    mutes = await house.asked(house.metering.list_mutes())
    assert ("budget", "fable-games") in [(each.rule, each.tenant) for each in mutes]


async def test_a_viewer_sees_no_button_that_changes_something(eyes: Eyes, house: House) -> None:
    viewer: dict[str, Any] = {"extra_http_headers": {"x-role": "viewer"}}
    async with eyes.see(f"{house.url}/team/tenant?id=acme", **viewer) as (page, _):
        assert await page.locator("form[method=post]").count() == 0
        status = await page.evaluate(
            "fetch('change-plan', {method: 'POST', body: new URLSearchParams({tenant: 'acme', plan: 'free'})})"
            ".then((answer) => answer.status)"
        )
        assert status == 403


async def test_the_event_log_follows_what_comes(eyes: Eyes, house: House) -> None:
    async with eyes.see(f"{house.url}/metering/events?live=1&tenant=larch", timezone_id="UTC") as (page, wrong):
        await expect(page.locator("#rows")).to_contain_text("No event is like that")
        event = house.metering.record_api_call("larch", "GET /v1/first")
        await house.asked(event)
        await house.asked(house.metering.flush())
        await expect(page.locator("#rows tbody tr")).to_have_count(1, timeout=FOLLOWED_MS)
        await expect(page.locator("#rows")).to_contain_text("GET /v1/first")
        assert wrong + await violations(page) == []


async def test_instants_are_shown_in_utc_or_in_the_browsers_zone(eyes: Eyes, house: House) -> None:
    async with eyes.see(f"{house.url}/metering/tenant?id=acme", fresh=True, **NEW_YORK) as (page, _):
        shown = page.locator("main time").first
        utc = datetime.fromisoformat(await shown.inner_text())
        await page.locator("#zone").click()
        assert await page.locator("#zone").inner_text() == "America/New_York"
        assert utc - datetime.fromisoformat(await shown.inner_text()) in (timedelta(hours=4), timedelta(hours=5))
        await page.reload()
        assert utc - datetime.fromisoformat(await shown.inner_text()) in (timedelta(hours=4), timedelta(hours=5))
        await page.locator("#zone").click()
        assert datetime.fromisoformat(await shown.inner_text()) == utc


async def test_a_chart_follows_the_window_and_the_scheme(eyes: Eyes, house: House) -> None:
    pixels = "() => document.querySelector('.plot canvas').toDataURL()"
    async with eyes.see(f"{house.url}/metering/") as (page, _):
        await page.emulate_media(color_scheme="light")
        light, wide = await page.evaluate(pixels), await page.locator(".plot canvas").first.bounding_box()
        await page.emulate_media(color_scheme="dark")
        await page.wait_for_function(
            "(before) => document.querySelector('.plot canvas').toDataURL() !== before", arg=light
        )
        await page.set_viewport_size({"width": 390, "height": 900})
        await page.wait_for_function(
            "() => document.querySelector('.plot canvas').getBoundingClientRect().right <= 390"
        )
        narrow = await page.locator(".plot canvas").first.bounding_box()
        assert wide
        assert narrow
        assert narrow["width"] < wide["width"]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_hostile_name_is_text_and_leads_to_its_tenant(eyes: Eyes, house: House, name: str) -> None:
    async with eyes.see(f"{house.url}/metering/tenants") as (page, wrong):
        titles = page.locator("tbody th a")
        places = [await each.get_attribute("href") for each in await titles.all()]
        at = [parse_qs(urlsplit(each or "").query)["id"][0] for each in places].index(tenant_id(name))
        await titles.nth(at).click()
        await page.wait_for_load_state()
        assert (await page.locator("h1").text_content() or "").strip() == name
        assert await page.locator("main script, main img").count() == 0
        for tab in await page.locator(".tabs a").all():
            where = await tab.get_attribute("href") or ""
            if not where.startswith(("#", "tenant?")):
                answer = await page.context.request.get(f"{house.url}/metering/{where}")
                assert answer.status == 200
        assert wrong + await violations(page) == []
