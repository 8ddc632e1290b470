"""What may be recorded. A value out of bounds is a typed error that names the field and the bound."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mm_metering.core.events import MAX_METADATA_BYTES, MAX_QUANTITY, UsageEvent, aware, metadata_json, whole_quantity
from mm_metering.core.identity import event_id, resource_name, tenant_id
from mm_metering.errors import InvalidEvent, InvalidInput, InvalidMoney, InvalidTenant

HUGE = pytest.param(10**5000, id="5001 digits")
NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)


def event(**changes: Any) -> UsageEvent:
    return UsageEvent(**{"tenant": "org_1", "event_type": "api_call", "resource": "/v1/reports", **changes})


def refusal(**changes: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        event(**changes)
    assert len(str(caught.value)) < 300
    return caught.value


def test_an_event_has_sensible_defaults() -> None:
    made = event()
    assert (made.quantity, made.success) == (1, True)
    assert [made.cost, made.metadata, made.occurred_at, made.id] == [None] * 4


def test_an_event_is_frozen() -> None:
    with pytest.raises(ValidationError):
        event().quantity = 2  # type: ignore[misc]


@pytest.mark.parametrize("field", ["tenant", "event_type", "resource"])
def test_a_missing_field_is_named(field: str) -> None:
    fields = {"tenant": "org_1", "event_type": "api_call", "resource": "/v1"}
    del fields[field]
    with pytest.raises(InvalidEvent) as caught:
        UsageEvent.model_validate(fields)
    assert caught.value.field == field


def test_an_unknown_field_is_named() -> None:
    assert refusal(quantty=3).field == "quantty"


# -- quantity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "bound"),
    [
        (0, "the least is 1"),
        (-1, "the least is 1"),
        pytest.param(-(10**5000), "the least is 1", id="minus 5001 digits"),
        (2**53, "2**53 - 1 = 9,007,199,254,740,991"),
        pytest.param(10**5000, "2**53 - 1", id="5001 digits"),
        (True, "got bool"),
        (1.0, "got float"),
        (math.nan, "got float"),
        ("1", "got str"),
        (Decimal(1), "got Decimal"),
        (None, "got NoneType"),
    ],
)
def test_a_quantity_is_a_whole_number_from_1(quantity: object, bound: str) -> None:
    error = refusal(quantity=quantity)
    assert isinstance(error, InvalidEvent)
    assert error.field == "quantity"
    assert bound in str(error)


def test_the_bounds_of_a_quantity_are_allowed() -> None:
    assert event(quantity=1).quantity == 1
    assert event(quantity=MAX_QUANTITY).quantity == MAX_QUANTITY
    assert event(event_type="storage", quantity=0).quantity == 0
    assert refusal(event_type="storage", quantity=-1).field == "quantity"


def test_a_quantity_checked_alone_keeps_its_fields_name() -> None:
    with pytest.raises(InvalidEvent, match="value: -5 is not allowed; the least is 0"):
        whole_quantity(-5, least=0, field="value")


# -- cost ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cost",
    [
        0.01,
        math.nan,
        True,
        "NaN",
        Decimal("NaN"),
        Decimal("sNaN"),
        "1e-3",
        "-0.01",
        -1,
        "0." + "1" * 25,
        9_000_001,
        HUGE,
        [],
    ],
)
def test_a_cost_is_exact_and_not_negative(cost: object) -> None:
    error = refusal(cost=cost)
    assert isinstance(error, InvalidMoney)
    assert error.field == "cost"


def test_costs_are_decimals() -> None:
    assert event(cost="0.03").cost == event(cost=Decimal("0.03")).cost == Decimal("0.03")
    assert event(cost=0).cost == 0


# -- time ---------------------------------------------------------------------------------------------------------


class NoOffset(tzinfo):
    """Has a tzinfo and is naive all the same."""

    def utcoffset(self, moment: datetime | None) -> None:
        return None

    def dst(self, moment: datetime | None) -> None:
        return None

    def tzname(self, moment: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (datetime(2024, 1, 1), "has no time zone"),  # noqa: DTZ001
        (datetime(2024, 1, 1, tzinfo=NoOffset()), "has no time zone"),
        ("2024-01-01T00:00:00", "has no time zone"),
        ("2024-01-01", "has no time zone"),
        ("yesterday", "not an ISO 8601 instant"),
        ("9" * 5_000, "not an ISO 8601 instant"),
        (1705320000, "got int"),
        (1705320000.5, "got float"),
        (datetime(1999, 12, 31, tzinfo=UTC), "2000 to 9998"),
        (datetime(9999, 1, 1, tzinfo=UTC), "2000 to 9998"),
    ],
)
def test_an_instant_is_aware(moment: object, words: str) -> None:
    error = refusal(occurred_at=moment)
    assert isinstance(error, InvalidEvent)
    assert error.field == "occurred_at"
    assert words in str(error)


def test_instants_are_kept_in_utc() -> None:
    eastern = timezone(timedelta(hours=-5))
    assert event(occurred_at=datetime(2024, 1, 15, 7, tzinfo=eastern)).occurred_at == NOON
    assert aware("2024-01-15T12:00:00Z", "at") == NOON


# -- names --------------------------------------------------------------------------------------------------------

BAD_NAMES = [
    ("", "0 bytes"),
    ("a\0", "U+0000 at position 1"),
    ("a\nb", "U+000A"),
    ("\x7f", "U+007F"),
    ("\x85", "U+0085"),
    ("\ud800", "lone surrogate at position 0"),
    (5, "got int"),
    (b"org", "got bytes"),
]


@pytest.mark.parametrize(
    ("name", "words"), [*BAD_NAMES, ("a" * 257, "257 bytes long; it must have 1 to 256"), ("é" * 129, "258 bytes")]
)
def test_a_tenant_id_is_bounded_text(name: object, words: str) -> None:
    error = refusal(tenant=name)
    assert isinstance(error, InvalidTenant)
    assert error.field == "tenant"
    assert words in str(error)


@pytest.mark.parametrize(("name", "words"), [*BAD_NAMES, ("a" * 257, "257 bytes")])
def test_an_event_id_is_bounded_text(name: object, words: str) -> None:
    error = refusal(id=name)
    assert isinstance(error, InvalidEvent)
    assert error.field == "id"
    assert words in str(error)


@pytest.mark.parametrize(("name", "words"), [*BAD_NAMES, ("a" * 513, "513 bytes long; it must have 1 to 512")])
def test_a_resource_is_bounded_text(name: object, words: str) -> None:
    error = refusal(resource=name)
    assert isinstance(error, InvalidEvent)
    assert error.field == "resource"
    assert words in str(error)


@pytest.mark.parametrize("name", ["a", "org:1", "{org}", "a/b c", "é" * 128, "🦊" * 64, "a" * 256, "\u200b", "*", "-"])
def test_other_names_pass_unchanged(name: str) -> None:
    assert tenant_id(name) == event_id(name) == resource_name(name) == event(tenant=name).tenant == name


@pytest.mark.parametrize("event_type", ["", "API", "api-call", "1call", "a" * 64, "é", "api_call\n", 5, None, HUGE])
def test_an_event_type_is_a_lower_case_name(event_type: object) -> None:
    error = refusal(event_type=event_type)
    assert isinstance(error, InvalidEvent)
    assert error.field == "event_type"


@pytest.mark.parametrize("success", [1, 0, "yes", None])
def test_success_is_a_bool(success: object) -> None:
    assert refusal(success=success).field == "success"


# -- metadata -----------------------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, object]:
    tree: dict[str, object] = {}
    for _ in range(depth):
        tree = {"a": tree}
    return tree


def circular() -> dict[str, object]:
    tree: dict[str, object] = {}
    tree["self"] = tree
    return tree


@pytest.mark.parametrize(
    "metadata",
    [
        nested(100_000),
        circular(),
        {"a": "x" * 1_000_000},
        {str(number): number for number in range(100_000)},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": "nul \0"},
        {"\0": 1},
        {"a": ["\0"]},
        {"a": "\\\0"},
        {"a": object()},
        {"a": b"\xff"},
        {1: 2},
        [1],
        "text",
        5,
    ],
    ids=lambda value: f"{value!r:.20}" if isinstance(value, list | str | int) else None,
)
def test_metadata_is_a_small_json_object(metadata: object) -> None:
    error = refusal(metadata=metadata)
    assert isinstance(error, InvalidEvent)
    assert error.field == "metadata"


def test_metadata_has_a_bound_of_4096_bytes() -> None:
    filled = {"a": "x" * (MAX_METADATA_BYTES - len('{"a":""}'))}
    assert len(metadata_json(filled)) == MAX_METADATA_BYTES
    assert "is 4097 bytes as JSON; the most is 4096" in str(refusal(metadata=filled | {"a": filled["a"] + "x"}))
    assert "bytes" in str(refusal(metadata={"a": "é" * 2_045}))


def test_the_text_of_an_escape_is_not_a_nul() -> None:
    assert json.loads(metadata_json({"a": r"\u0000"})) == {"a": r"\u0000"}


def test_numbers_that_json_does_not_have_become_words() -> None:
    text = metadata_json({"a": math.nan, "b": math.inf, "c": -math.inf})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text("xyz\\u0"), JSON, max_size=3))
def test_json_metadata_survives(metadata: dict[str, Any]) -> None:
    assert json.loads(metadata_json(metadata)) == metadata
