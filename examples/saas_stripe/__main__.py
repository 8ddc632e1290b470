"""``python -m examples.saas_stripe``: three months of one customer, on a Stripe in this process that keeps to Stripe's
official document."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime, timedelta

import httpx2

from examples.saas_stripe.app import Product
from examples.story import Story, told
from mm_metering import FrozenClock, Metering
from mm_metering.testing import FakeStripe


class Months:
    """The days that matter, at the beginning of each of which all is done that a worker would have done by then.
    Stripe's webhooks come by HTTP."""

    def __init__(self, clock: FrozenClock, stripe: FakeStripe, metering: Metering, http: httpx2.AsyncClient) -> None:
        self.clock, self.stripe, self.metering, self.http = clock, stripe, metering, http
        self.heard = 0

    async def go_on_to(self, month: int, *days: int) -> None:
        for day in days:
            self.clock.set(datetime(2024, month, day, tzinfo=UTC))
            await self.work()

    async def work(self) -> None:
        self.stripe.roll()
        await self.hear()
        await self.metering.catch_up()
        if await self.hear():
            await self.metering.catch_up()

    async def hear(self) -> int:
        """How many webhooks came."""
        fresh = self.stripe.undelivered()
        for event in fresh:
            body, headers = self.stripe.delivery(event)
            (await self.http.post("/webhooks/stripe", content=body, headers=headers)).raise_for_status()
        self.heard += len(fresh)
        return len(fresh)


class Customer:
    """Acme, in front of its browser."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http, self.key = http, ""

    async def post(self, path: str, **body: str) -> httpx2.Response:
        return await self.http.post(path, json=body, headers={"x-api-key": self.key})

    async def sign_up(self) -> None:
        answer = await self.post("/account/sign-up", organization="acme", email="billing@acme.example")
        self.key = answer.json()["key"]

    async def use_card(self, token: str) -> None:
        (await self.post("/account/card", token=token)).raise_for_status()

    async def reports(self, times: int) -> int:
        """How many it got."""
        return sum([(await self.post("/v1/reports")).status_code == 201 for _ in range(times)])


async def january(story: Story, acme: Customer, months: Months) -> None:
    story.chapter("1 January: acme signs up, brings a card and takes Pro")
    await acme.sign_up()
    story.tell("reports on Free, of 2 asked for", await acme.reports(2))
    await acme.use_card("pm_card_visa")
    await acme.post("/account/plan/pro")
    story.tell("reports on Pro, 50 included with that first one, of 51 asked for", await acme.reports(51))

    story.chapter("2 February: January is closed, its day of grace is over")
    await months.go_on_to(2, 1, 2)
    [invoice] = await months.metering.list_invoices(tenant="acme", period="2024-01")
    for line in invoice.lines:
        story.tell(f"{line.description:40}{line.quantity:>4} x {line.unit_price:>6}", line.amount)
    story.tell(f"{invoice.number}, {invoice.status}, USD", invoice.total)
    charged = [each for each in months.stripe.requests if each.path.endswith("/pay")]
    story.check(f"paid through Stripe, asked {len(charged)} time", holds=invoice.status == "paid" and len(charged) == 1)


async def february(story: Story, acme: Customer, months: Months, product: Product) -> None:
    story.chapter("In February acme's card is replaced by one without money; 2 March")
    await acme.use_card("pm_card_chargeDeclinedInsufficientFunds")
    await months.go_on_to(3, 1, 2)
    product.mails.clear()
    await months.go_on_to(3, 3, 5, 7, 9, 12)
    for mail in product.mails:
        story.tell(
            f"mail: attempt {mail.data['attempt']} declined, {mail.data['decline_code']}", f"{mail.made_at:%d %B}"
        )
    story.check("past due, and served", holds=await acme.reports(1) == 1)
    await months.go_on_to(3, 16)
    refused = await acme.post("/v1/reports")
    story.tell(f"16 March, day 14: {refused.status_code} {refused.json()['code']}")

    story.chapter("18 March: a new card")
    await months.go_on_to(3, 18)
    await acme.use_card("pm_card_visa")
    months.clock.advance(timedelta(minutes=1))  # the worker looks every ten seconds
    await months.work()
    [invoice] = await months.metering.list_invoices(tenant="acme", period="2024-02")
    story.tell(f"{invoice.number}, {invoice.status}, USD", invoice.total)
    story.check("paid, and served again at the next request", holds=await acme.reports(1) == 1)


async def books(story: Story, months: Months) -> None:
    story.chapter("Are the books the same?")
    for period in ("2024-01", "2024-02"):
        found = await months.metering.reconcile_payments(period)
        story.check(f"{period}: {found.invoices} invoice compared with Stripe's, line by line", holds=not found.drift)
    story.tell("webhooks heard", months.heard)


async def main() -> int:
    logging.getLogger("mm_metering").setLevel(
        logging.ERROR
    )  # time stands still while it asks what webhooks have not come
    story = Story("A product on Stripe: sign-up, usage, invoice, a declined card, and money after all")
    clock = FrozenClock("2024-01-01T09:00:00Z")
    with FakeStripe(clock=clock) as stripe:
        adapter = stripe.adapter()
        metering = Metering(clock=clock, billing=adapter, worker="off", journal="off")
        product = Product(metering)
        transport = httpx2.ASGITransport(app=product.app)
        async with metering, httpx2.AsyncClient(transport=transport, base_url="https://product.example") as http:
            acme, months = Customer(http), Months(clock, stripe, metering, http)
            await adapter.push_plans(metering.catalogue)
            await january(story, acme, months)
            await february(story, acme, months, product)
            await books(story, months)
    return story.exit_code


if __name__ == "__main__":
    sys.exit(told(main()))
