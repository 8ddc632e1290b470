"""Amounts go in exact or not at all, and come out to the last digit."""

from __future__ import annotations

import math
from decimal import Decimal, Inexact, getcontext, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.core.money import (
    MAX_MONEY,
    exact,
    from_nanos,
    minor_unit,
    non_negative,
    plain,
    round_minor,
    split,
    to_nanos,
)
from mm_metering.errors import InvalidMoney


@pytest.mark.parametrize(
    ("given_value", "amount"),
    [
        ("0.01", "0.01"),
        (7, "7"),
        (-7, "-7"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("1E+2"), "100"),
        ("-0.50", "-0.50"),
        ("-0.00", "0.00"),
        ("9000000", "9000000"),
        ("0." + "1" * 24, "0." + "1" * 24),
        ("0007.5", "7.5"),
    ],
)
def test_exact_amounts_pass_unchanged(given_value: Decimal | int | str, amount: str) -> None:
    number = exact(given_value, "price")
    assert number == Decimal(amount)
    assert number.is_signed() == (number < 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.1, 'is a float and not exact; write it as a string, "0.1"'),
        (1.0, "is a float"),
        (math.nan, "is a float"),
        (math.inf, "is a float"),
        (True, "got bool"),
        (None, "got NoneType"),
        (b"1", "got bytes"),
        ([], "got list"),
        ("", "plain decimal number"),
        (" 1", "plain decimal number"),
        ("1\n", "plain decimal number"),
        ("+1", "plain decimal number"),
        ("1e3", "plain decimal number"),
        ("1E-3", "plain decimal number"),
        (".5", "plain decimal number"),
        ("5.", "plain decimal number"),
        ("1,000", "plain decimal number"),
        ("1_000", "plain decimal number"),
        ("0x10", "plain decimal number"),
        ("NaN", "plain decimal number"),
        ("٣", "plain decimal number"),
        ("\ud800", "plain decimal number"),
        (Decimal("NaN"), "plain decimal number"),
        (Decimal("sNaN"), "plain decimal number"),
        (Decimal("-Infinity"), "plain decimal number"),
        (Decimal("1E-25"), "at most 24 places"),
        ("0." + "1" * 25, "at most 24 places"),
        (Decimal("1E+999999"), "plain decimal number"),
        ("9000000.000000000000000000000001", "out of range; the largest amount is 9,000,000"),
        ("-9000001", "out of range"),
        (9_000_001, "out of range"),
        pytest.param(10**5000, "out of range", id="5001 digits"),
        pytest.param(-(10**5000), "out of range", id="minus 5001 digits"),
        ("9" * 16, "out of range"),
    ],
)
def test_anything_else_is_refused_by_name(value: object, words: str) -> None:
    with pytest.raises(InvalidMoney) as caught:
        exact(value, "unit_price")
    assert caught.value.field == "unit_price"
    assert str(caught.value).startswith("unit_price: ")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


def test_below_zero_is_refused_where_it_makes_no_sense() -> None:
    assert non_negative("0", "cost") == 0
    with pytest.raises(InvalidMoney, match=r"cost: -0\.01 is negative; the least is 0"):
        non_negative("-0.01", "cost")


def test_the_bound_is_exact_under_any_context_of_the_host() -> None:
    with localcontext(prec=3), pytest.raises(InvalidMoney):
        exact("9000000.01", "cost")


@given(st.decimals(min_value=-MAX_MONEY, max_value=MAX_MONEY, places=9))
def test_nano_units_and_back_are_the_same_amount(amount: Decimal) -> None:
    assert from_nanos(to_nanos(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "nanos"),
    [("0.0000000005", 1), ("0.00000000049", 0), ("-0.0000000005", -1), ("9000000", 9 * 10**15), ("0.00003", 30_000)],
)
def test_nano_units_round_half_up(amount: str, nanos: int) -> None:
    assert to_nanos(Decimal(amount)) == nanos


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00"),
        (10**9, "1.00"),
        (15 * 10**8, "1.50"),
        (1, "0.000000001"),
        (-30_000, "-0.00003"),
        (10**18, "1000000000.00"),
    ],
)
def test_nano_units_read_as_plain_money(nanos: int, text: str) -> None:
    assert plain(from_nanos(nanos)) == text


@pytest.mark.parametrize(
    ("tokens", "cents"), [(1, "0.00"), (166, "0.00"), (167, "0.01"), (500, "0.02"), (1_500, "0.05"), (1_000, "0.03")]
)
def test_s06_lines_round_half_up_and_not_as_floats_do(tokens: int, cents: str) -> None:
    assert round_minor(tokens * Decimal("0.00003"), "USD") == Decimal(cents)
    if tokens == 1_500:
        assert round(tokens * 0.00003, 2) == 0.04


def test_a_credit_rounds_as_its_charge() -> None:
    assert round_minor(Decimal("-0.005"), "USD") == -round_minor(Decimal("0.005"), "USD") == Decimal("-0.01")


@pytest.mark.parametrize(
    ("currency", "unit"),
    [("USD", "0.01"), ("EUR", "0.01"), ("JPY", "1"), ("KWD", "0.001"), ("CLF", "0.0001")],
)
def test_the_minor_unit_is_the_currencys(currency: str, unit: str) -> None:
    assert plain(minor_unit(currency)) == unit
    assert round_minor(Decimal("10.00000"), currency).as_tuple().exponent == Decimal(unit).as_tuple().exponent


def test_the_hosts_context_changes_no_amount() -> None:
    before = amounts()
    with localcontext(prec=2, rounding="ROUND_UP"):
        getcontext().traps[Inexact] = True
        assert amounts() == before


def amounts() -> list[Decimal | int]:
    parts = split(Decimal("10.00"), [1, 1, 1], "USD")
    return [
        to_nanos(Decimal("1.2345678915")),
        from_nanos(123_456_789_012),
        round_minor(Decimal("38.3251"), "USD"),
        *parts,
    ]


# -- split --------------------------------------------------------------------------------------------------------

WEIGHTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=9).filter(any)


@given(st.integers(-(10**9), 10**9), WEIGHTS, st.sampled_from(["USD", "JPY", "KWD"]))
def test_a_split_conserves_every_coin(coins: int, weights: list[int], currency: str) -> None:
    unit = minor_unit(currency)
    parts = split(coins * unit, weights, currency)
    assert sum(parts) == coins * unit
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - coins * unit * weight / sum(weights)) < unit
        assert weight or not part


@given(st.integers(1, 10**6), WEIGHTS)
def test_a_credit_splits_as_its_charge(coins: int, weights: list[int]) -> None:
    total = coins * Decimal("0.01")
    assert split(-total, weights, "USD") == [-part for part in split(total, weights, "USD")]


def test_the_largest_remainder_gets_the_last_coin() -> None:
    assert split(Decimal("1.00"), [1, 1, 1], "USD") == [Decimal("0.34"), Decimal("0.33"), Decimal("0.33")]
    assert split(Decimal("0.05"), [1, 8, 1], "USD") == [Decimal("0.01"), Decimal("0.04"), Decimal("0.00")]


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [2, -1]])
def test_weights_that_share_out_nothing_are_an_error(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        split(Decimal("1.00"), weights, "USD")


def test_only_whole_coins_can_be_split() -> None:
    with pytest.raises(ValueError, match=r"0\.005 is not a whole number of USD minor units"):
        split(Decimal("0.005"), [1], "USD")
