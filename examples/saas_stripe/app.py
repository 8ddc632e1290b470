"""A product with a sign-up: the customer, the card and the plan are Stripe's and ours at once, usage is ours, and each
month becomes an invoice that Stripe collects.

The card's token comes from Stripe's own form in the browser; a card number never reaches this app. What Stripe has to
say comes to ``/webhooks/stripe``. Whoever has not paid for 14 days is answered with 402 by the middleware, and nothing
in here needs to know.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, HTTPException
from pydantic import BaseModel

from mm_metering import Metering, Notice, current, from_header, metered


class SignUp(BaseModel):
    organization: str
    email: str


class Card(BaseModel):
    token: str


class Product:
    """The app and what it keeps: keys, and the mails that it has written. A real one has tables."""

    def __init__(self, metering: Metering) -> None:
        self.metering = metering
        self.keys: dict[str, str] = {}
        self.mails: list[Notice] = []
        for each in ("payment.failed", "subscription.suspended", "payment.succeeded"):
            metering.on(each)(self.mails.append)
        self.app = FastAPI(title="A product")
        self.app.include_router(self._account(), prefix="/account")
        self.app.include_router(self._work(), prefix="/v1")
        self.app.add_route("/webhooks/stripe", metering.stripe_webhook, methods=["POST"])
        exempt = ["/account/sign-up", "/account/card"]  # who must pay may still bring a card
        metering.install(self.app, tenant=from_header("x-api-key", self.keys.get), exempt=exempt)

    def _account(self) -> APIRouter:
        billing, account = self.metering.billing, APIRouter()

        @account.post("/sign-up", status_code=201)
        async def sign_up(asked: SignUp) -> dict[str, str]:
            await billing.create_customer(
                organization_id=asked.organization, email=asked.email, name=asked.organization
            )
            key = secrets.token_urlsafe(24)
            self.keys[key] = asked.organization
            return {"key": key}

        @account.post("/card")
        async def card(asked: Card, x_api_key: Annotated[str, Header()]) -> dict[str, str]:
            """Replaces the card; what is still owed is tried with it at once."""
            if (owner := self.keys.get(x_api_key)) is None:
                raise HTTPException(401, "nobody has this key")
            method = await billing.create_payment_method(owner, payment_method=asked.token)
            await billing.set_default_payment_method(owner, method.id)
            return {"card": method.id}

        @account.post("/plan/{plan}")
        async def plan(plan: str) -> dict[str, str]:
            made = await billing.create_subscription(customer_id=current().tenant, plan_id=plan)
            return {"plan": made.plan_id, "status": made.status}

        return account

    def _work(self) -> APIRouter:
        work = APIRouter()

        @work.get("/scenarios")
        async def scenarios() -> list[str]:
            return ["base", "stress"]

        @work.post("/reports", status_code=201)
        @metered("export", resource="report_pdf")
        async def report() -> dict[str, str]:
            return {"id": "rep_1"}

        return work
