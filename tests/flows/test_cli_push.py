"""``mm-metering plans push``: what it prints, what it makes at the provider, and its exit codes."""

from __future__ import annotations

import sys
from decimal import Decimal
from types import SimpleNamespace

import pytest

from mm_metering import Metering, MockBillingAdapter
from mm_metering.billing.plan_prices import PlanPrice
from mm_metering.core.catalogue import Catalogue
from mm_metering.errors import ProviderRefused
from tests.flows.conftest import Shell

PLANS = {
    "meters": {"api_calls": {"event": "api_call"}, "ai_tokens": {"event": "ai_token"}},
    "plans": {
        "free": {"price": "0.00"},
        "pro": {
            "price": "99.00",
            "quotas": {
                "api_calls": {"limit": 10_000, "per": "day", "then": "charge", "unit_price": "0.01"},
                "ai_tokens": {"limit": 0, "per": "month", "then": "charge", "unit_price": {"gpt-4": "0.00003"}},
            },
        },
    },
}


class Place:
    """The module of an app."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = SimpleNamespace()
        monkeypatch.setitem(sys.modules, "place", self.module)
        monkeypatch.setenv("MM_METERING_APP", "place:metering")

    def has(self, adapter: MockBillingAdapter | None) -> None:
        mode = "invoice" if adapter is None else adapter.billing_mode
        self.module.metering = Metering(PLANS, billing=adapter, billing_mode=mode)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


def test_where_the_provider_multiplies_each_price_is_made_once(shell: Shell, place: Place) -> None:
    place.has(MockBillingAdapter(billing_mode="report"))
    missing = """\
price                    amount  per
mm_free                    0.00  month            missing
mm_pro                    99.00  month            missing
mm_pro_api_calls           0.01  api_calls        missing
mm_pro_ai_tokens.gpt-4  0.00003  ai_tokens.gpt-4  missing
"""
    assert shell("plans", "push", "--dry-run") == (0, missing, "")
    assert shell("plans", "push", "--dry-run") == (0, missing, "")
    assert shell("plans", "push") == (0, missing.replace("missing", "made"), "")
    assert shell("plans", "push") == (0, missing.replace("missing", "there"), "")


def test_where_we_rate_the_plans_alone_are_there_for_nothing(shell: Shell, place: Place) -> None:
    place.has(MockBillingAdapter())
    assert shell("plans", "push") == (
        0,
        "price    amount  per\nmm_free    0.00  month  made\nmm_pro     0.00  month  made\n",
        "",
    )


def test_a_price_that_is_another_there_stays_and_is_told(shell: Shell, place: Place) -> None:
    adapter = MockBillingAdapter(billing_mode="report")
    place.has(adapter)
    shell("plans", "push")
    adapter._prices["pro", ""] = Decimal("79.00")
    code, said, _ = shell("plans", "push")
    assert code == 1
    assert [line.split()[-2:] for line in said.splitlines()[1:3]] == [["month", "there"], ["other:", "79.00"]]
    assert "priced otherwise at the provider, and left as it is: mm_pro. " in said
    assert adapter._prices["pro", ""] == Decimal("79.00")


def test_what_goes_wrong_is_one_line(shell: Shell, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.has(None)
    code, _, said = shell("plans", "push")
    assert (code, said.count("\n")) == (2, 1)
    assert "there is no payment provider" in said

    class Refuses(MockBillingAdapter):
        async def push_plans(self, catalogue: Catalogue, *, dry_run: bool = False) -> tuple[PlanPrice, ...]:
            raise ProviderRefused("Stripe does not take the api_key: it is wrong, revoked or expired")

    place.has(Refuses())
    expected = "mm-metering: Stripe does not take the api_key: it is wrong, revoked or expired\n"
    assert shell("plans", "push") == (1, "", expected)

    class Elsewhere(MockBillingAdapter):
        push_plans = None  # type: ignore[assignment]

    place.has(Elsewhere())
    assert "there is nothing to push" in shell("plans", "push")[2]
    monkeypatch.delenv("MM_METERING_APP")
    assert "there is no payment provider" in shell("plans", "push")[2]
