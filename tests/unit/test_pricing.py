"""What a quantity costs: per unit, graduated, volume, package and flat, to the last digit and without a gap."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.core.pricing import (
    Flat,
    Graduated,
    Package,
    Price,
    Scheme,
    Tier,
    TierUse,
    Volume,
    cost,
    price_text,
    price_words,
    quantity_text,
    tier_uses,
)

TIERS = (
    Tier(1_000, Decimal("0.01"), Decimal("2.00")),
    Tier(5_000, Decimal("0.008")),
    Tier(None, Decimal("0.005"), Decimal("10.00")),
)
GRADUATED, VOLUME = Graduated(TIERS), Volume(TIERS)
PACKAGE, FLAT = Package(1_000, Decimal("5.00")), Flat(Decimal("9.99"))
PRICES: Mapping[str, Scheme] = {"graduated": GRADUATED, "volume": VOLUME, "package": PACKAGE, "flat": FLAT}

COSTS = [
    # quantity, graduated, volume, package, flat
    ("0", "0", "0", "0", "0"),
    ("0.000001", "2.00000001", "2.00000001", "5", "9.99"),
    ("1", "2.01", "2.01", "5", "9.99"),
    ("999.5", "11.995", "11.995", "5", "9.99"),
    ("1000", "12", "12", "5", "9.99"),
    ("1000.000001", "12.000000008", "8.000000008", "10", "9.99"),
    ("1000.5", "12.004", "8.004", "10", "9.99"),
    ("1001", "12.008", "8.008", "10", "9.99"),
    ("5000", "44", "40", "25", "9.99"),
    ("5000.5", "54.0025", "35.0025", "30", "9.99"),
    ("1000000", "5029", "5010", "5000", "9.99"),
]


@pytest.mark.parametrize(("quantity", *PRICES), COSTS, ids=[row[0] for row in COSTS])
def test_what_a_quantity_costs(quantity: str, graduated: str, volume: str, package: str, flat: str) -> None:
    costs = (graduated, volume, package, flat)
    assert [cost(price, Decimal(quantity)) for price in PRICES.values()] == [Decimal(each) for each in costs]


def test_a_price_per_unit_has_no_tiers() -> None:
    assert cost(Decimal("0.01"), 1_500) == Decimal("15.00")
    assert tier_uses(Decimal("0.01"), 1_500) == ()


@pytest.mark.parametrize("price", PRICES.values(), ids=PRICES)
def test_no_units_cost_nothing_and_fall_into_no_tier(price: Scheme) -> None:
    assert cost(price, 0) == 0
    assert tier_uses(price, 0) == ()


def test_graduated_units_stand_at_their_own_tiers() -> None:
    assert [shown(use) for use in tier_uses(GRADUATED, Decimal("5000.5"))] == [
        (0, 1_000, "1000", "0.01", "2.00", "12.00"),
        (1_000, 5_000, "4000", "0.008", "0", "32.000"),
        (5_000, None, "0.5", "0.005", "10.00", "10.0025"),
    ]


def test_a_tier_that_ends_where_the_quantity_does_is_the_last() -> None:
    assert [use.quantity for use in tier_uses(GRADUATED, 1_000)] == [1_000]
    assert [use.quantity for use in tier_uses(GRADUATED, 5_000)] == [1_000, 4_000]


def test_all_units_of_a_volume_stand_at_one_tier() -> None:
    assert [shown(use) for use in tier_uses(VOLUME, 1_000)] == [(0, 1_000, "1000", "0.01", "2.00", "12.00")]
    assert [shown(use) for use in tier_uses(VOLUME, 5_001)] == [(5_000, None, "5001", "0.005", "10.00", "35.005")]


def test_packages_and_flat_prices_are_one_tier() -> None:
    (package,) = tier_uses(PACKAGE, 1_001)
    assert shown(package) == (0, None, "1001", "5.00", "0", "10.00")
    assert package.package == 1_000
    (flat,) = tier_uses(FLAT, 1_001)
    assert shown(flat) == (0, None, "1001", "0", "9.99", "9.99")
    assert flat.package is None


def shown(use: TierUse) -> tuple[int, int | None, str, str, str, str]:
    return (use.after, use.up_to, str(use.quantity), str(use.unit_price), str(use.flat), str(use.amount))


def test_prices_of_twenty_four_places_lose_no_digit() -> None:
    tiny = Decimal("0.000000000000000000000001")
    most = Decimal("9007199254740991.000001")
    expected = Decimal("0.000000009007199254740991000001")
    assert [cost(price, most) for price in (tiny, Graduated((Tier(None, tiny),)), Volume((Tier(None, tiny),)))] == [
        expected
    ] * 3
    with localcontext(prec=3, rounding="ROUND_DOWN"):
        assert cost(Graduated((Tier(None, tiny),)), most) == expected
        assert cost(Package(1, tiny), most) == Decimal("0.000000009007199254740992")
        assert quantity_text(Decimal("1234.500000")) == "1,234.5"


AMOUNTS = st.decimals(min_value=0, max_value=10, places=4)
QUANTITIES = st.decimals(min_value=0, max_value=60, places=6)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    ends = sorted(draw(st.sets(st.integers(1, 50), max_size=4)))
    return tuple(Tier(end, draw(AMOUNTS), draw(AMOUNTS)) for end in [*ends, None])


@given(tiers(), QUANTITIES, QUANTITIES)
def test_graduated_tiers_cover_each_unit_once_and_never_cost_less_for_more(
    several: tuple[Tier, ...], quantity: Decimal, more: Decimal
) -> None:
    uses = tier_uses(Graduated(several), quantity)
    assert sum(use.quantity for use in uses) == quantity
    assert [use.after for use in uses[1:]] == [use.up_to for use in uses[:-1]]
    assert all(0 < use.quantity <= (use.up_to or 60) - use.after for use in uses)
    assert cost(Graduated(several), quantity + more) >= cost(Graduated(several), quantity)


@given(tiers(), QUANTITIES)
def test_a_volume_is_priced_by_the_tier_that_it_ends_in(several: tuple[Tier, ...], quantity: Decimal) -> None:
    (use,) = tier_uses(Volume(several), quantity) or [None]
    if use is None:
        assert quantity == 0
        return
    assert use.after < quantity <= (use.up_to or 60)
    assert use.quantity == quantity


# -- in words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "quantity", "words"),
    [
        (Decimal("0.0000003"), 1, "0.0000003 each"),
        (GRADUATED, 500, "500 at 0.01 + 2.00"),
        (GRADUATED, 6_000, "1,000 at 0.01 + 2.00, then 4,000 at 0.008, then 1,000 at 0.005 + 10.00"),
        (GRADUATED, Decimal("1000.500000"), "1,000 at 0.01 + 2.00, then 0.5 at 0.008"),
        (VOLUME, 1_500, "all at 0.008"),
        (VOLUME, 6_000, "all at 0.005 + 10.00"),
        (PACKAGE, 1_000, "1 package of 1,000 at 5.00"),
        (PACKAGE, 1_234_567, "1,235 packages of 1,000 at 5.00"),
        (FLAT, 3, "9.99 flat"),
    ],
)
def test_a_price_is_told_in_words(price: Price, quantity: int | Decimal, words: str) -> None:
    assert price_words(price, quantity) == words


def test_equal_prices_have_equal_texts_and_others_not() -> None:
    assert price_text(Decimal("0.010")) == price_text(Decimal("0.01")) == "0.01"
    assert price_text(Flat(Decimal("9.990"))) == price_text(FLAT)
    assert len({price_text(price) for price in (*PRICES.values(), Decimal("9.99"), Package(999, Decimal(5)))}) == 6
