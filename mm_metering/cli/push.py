"""What ``mm-metering plans push`` does: the plans' prices at the payment provider, made where they are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from mm_metering.billing.plan_prices import PlanPrice, PlanPusher
from mm_metering.cli.host import metering_of
from mm_metering.core.money import plain
from mm_metering.core.schema import money_text
from mm_metering.errors import InvalidInput
from mm_metering.metering import Metering

UNREAD: Final = {"counters": "memory://", "ledger": "memory://", "journal": "off"}
"""Stores that are not asked: prices are the catalogue's and the provider's."""


def push(app: str, *, dry_run: bool) -> tuple[PlanPrice, ...]:
    """Of the app's catalogue at its provider, or of the environment's."""
    return asyncio.run(_pushed(metering_of(app, **UNREAD), dry_run=dry_run))


async def _pushed(metering: Metering, *, dry_run: bool) -> tuple[PlanPrice, ...]:
    adapter: object = metering.billing.adapter
    if not isinstance(adapter, PlanPusher):
        raise InvalidInput("billing", f"{type(adapter).__name__} keeps no prices; there is nothing to push")
    try:
        return await adapter.push_plans(metering.catalogue, dry_run=dry_run)
    finally:
        if (close := getattr(adapter, "aclose", None)) is not None:
            await close()
        await metering.aclose()


def table(found: Sequence[PlanPrice]) -> Iterator[Sequence[str]]:
    yield "price", ">amount", "per", ""
    for each in found:
        amount = plain(each.amount) if each.meter else money_text(each.amount)
        yield each.lookup_key, amount, each.meter or "month", _state(each)


def _state(each: PlanPrice) -> str:
    return f"other: {each.theirs}" if each.state == "other" else each.state


def trouble(found: Sequence[PlanPrice]) -> str | None:
    """What somebody must decide, if anything."""
    others = [each.lookup_key for each in found if each.state == "other"]
    if not others:
        return None
    return (
        f"priced otherwise at the provider, and left as it is: {', '.join(others)}. Subscriptions may be on it: put "
        "the plans file right, or give its lookup key to another price there"
    )
