"""Lines of usage files: what is read fast is read as what is read with care, and a file is read from any line on."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering import UsageEvent, catalogues
from mm_metering.backends.bulk import Stated
from mm_metering.cli.checkpoint import Checkpoint, Place
from mm_metering.cli.usage_files import MAX_LINE_BYTES, Sink, Source, format_of
from mm_metering.core.events import MAX_QUANTITY
from mm_metering.core.periods import micros
from mm_metering.errors import InvalidInput
from mm_metering.gate.stated import Stating, derived_id, payload_digest
from mm_metering.usage.backfill import BackfillTally, Rejection
from mm_metering.usage.plain import Plain
from mm_metering.usage.reading import Item, Reader

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
NOW_US = micros(NOW)
CATALOGUE = catalogues.load(
    {
        "currency": "USD",
        "meters": {
            "calls": {"event": "api_call", "cost": "0.0000000015"},
            "searches": {"event": "api_call", "resource": "/v1/search*"},
            "exports": {"event": "export"},
            "disk": {"event": "storage", "aggregation": "level"},
            "spend": {"event": "ai_call", "unit": "money"},
        },
        "plans": {"p": {"price": "0"}},
    }
)
STATING = Stating(CATALOGUE, lambda: "new")
READER = Reader(CATALOGUE, STATING)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text)


instants = st.datetimes(day("1999-12-31"), day("9998-12-31")) | st.datetimes(day("2023-12-01"), day("2024-01-16"))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))) | st.just(UTC)
texts = st.text(max_size=20) | st.sampled_from(["org_1", "/v1/search?", "e\u0301", 'a"b', "back\\slash", "😀", "\x7f"])
rows = st.fixed_dictionaries(
    {
        "tenant": texts,
        "event_type": st.sampled_from(["api_call", "export", "storage", "ai_call", "other", "Bad", ""]),
        "resource": texts,
        "id": texts | st.text("abc", min_size=250, max_size=260),
        "occurred_at": st.builds(lambda at, zone: at.replace(tzinfo=zone).isoformat(), instants, zones)
        | st.sampled_from(
            ["2024-01-15T12:00:00Z", "20240115T120000Z", "2024-01-15 12:00:00,5+01:00", "2024-W03-1", "x"]
        )
        | st.sampled_from(["2024-01-15T12:05:00Z", "2024-01-15T12:05:00.000001Z", "0001-01-01T00:00:00+14:00"]),
    },
    optional={
        "quantity": st.integers(-1, 3) | st.sampled_from([MAX_QUANTITY, MAX_QUANTITY + 1, True, 1.0, "1"]),
        "cost": st.decimals(-1, 10_000_000, places=9).map(str) | st.sampled_from(["1e3", "0.0100", "", 1, 0.5, "NaN"]),
        "success": st.booleans(),
        "metadata": st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    },
)


def with_care(row: dict[str, Any]) -> Stated | str:
    try:
        event = UsageEvent(**row)
        return Stated(STATING.fact(event, NOW_US), row["id"], payload_digest(event))
    except InvalidInput as error:
        return str(error)


def read(row: dict[str, Any]) -> Stated | str | None:
    try:
        return READER(row, NOW_US)
    except InvalidInput as error:
        return str(error)


@given(rows)
def test_what_is_read_fast_is_read_as_with_care(row: dict[str, Any]) -> None:
    """The same fact and digest, or the same reason; an id's digest decides what is a duplicate for ever."""
    found = read(row)
    assert found == with_care(row) or (isinstance(found, str) and found.startswith("event: "))
    fast = Plain(STATING)(row, NOW_US)
    assert fast is None or fast == found


def test_usual_events_are_read_fast() -> None:
    plain = Plain(STATING)
    row = {"tenant": "org_1", "event_type": "api_call", "resource": "/v1/search", "id": "e1"}
    for changes in ({}, {"quantity": 7}, {"cost": "0.25"}, {"occurred_at": "2024-01-15T13:00:00.5+01:00"}):
        fields = {"occurred_at": "2024-01-15T12:00:00Z", **row, **changes}
        assert plain(fields, NOW_US) == with_care(fields)
    found = plain({**row, "occurred_at": "2024-01-15T12:00:00Z", "quantity": 2}, NOW_US)
    assert found is not None
    assert (found.fact.id, [count.meter for count in found.fact.counts]) == (derived_id("e1"), ["calls", "searches"])
    assert found.fact.cost_nanos == 3


# -- files -------------------------------------------------------------------------------------------------------------


def items(content: bytes, form: Any = "ndjson", **place: int) -> list[Item]:
    return list(Source(io.BytesIO(content), form, **place))


def reasons(found: list[Item]) -> list[str]:
    return [str(each) for each in found if isinstance(each, InvalidInput)]


def test_a_line_that_is_no_event_is_a_reason_and_hinders_no_other() -> None:
    bad = b"\n".join([b"{", b"[1]", b'"x"', b"\xff", b'{"a":"\\ud800"}', b"nope", b"[" * 5_000])
    found = items(b'{"id":"1"}\n' + bad + b'\n\n   \n{"id":"2"}')
    assert (found[0], found[-1], found.count(None)) == ({"id": "1"}, {"id": "2"}, 2)
    assert len(found) == 11
    assert len(reasons(found)) == 7
    assert all(each.startswith("line: is not") for each in reasons(found))


def test_a_line_without_an_end_takes_no_more_memory_than_an_event_may() -> None:
    found = items(b'{"id":"' + b"x" * (3 * MAX_LINE_BYTES) + b'"}\n{"id":"2"}\n')
    assert (reasons(found), found[-1]) == ([f"line: is longer than {MAX_LINE_BYTES:,} bytes"], {"id": "2"})


def test_a_cost_is_what_is_written_and_never_a_float() -> None:
    found = items(b'{"cost":0.1000000000000000055}\n{"cost":3}\n{"cost":"0.10"}\n')
    costs = [each["cost"] for each in found if isinstance(each, dict)]
    assert costs == [Decimal("0.1000000000000000055"), 3, "0.10"]
    assert type(costs[0]) is Decimal


CSV = b"""tenant,event_type,id,quantity,resource,occurred_at,cost,model,metadata,success
acme,api_call,1,2,"/v1/a,b",2024-01-15T12:00:00Z,0.10,,"{""a"":
""b""}",true

acme,ai_call,2,,,,,gpt-4,,
acme,api_call,3,1e3,,,,,,
acme,api_call,4,1,/v1
acme,api_call,5,1,"un"closed,,,,,
acme,api_call,6,1,/v1,,,,,FALSE
"""


def test_csv_has_the_same_columns() -> None:
    found = items(CSV, "csv")
    assert found[:2] == [
        None,
        {"tenant": "acme", "event_type": "api_call", "id": "1", "quantity": 2, "resource": "/v1/a,b"}
        | {"occurred_at": "2024-01-15T12:00:00Z", "cost": "0.10", "metadata": {"a": "b"}, "success": True},
    ]
    assert found[2:4] == [None, {"tenant": "acme", "event_type": "ai_call", "id": "2", "model": "gpt-4"}]
    assert reasons(found) == [
        "quantity: '1e3' cannot be read",
        "line: has 5 fields, and the header 10",
        "line: ',' expected after '\"'",
    ]
    assert found[-1] == {"tenant": "acme", "event_type": "api_call", "id": "6", "quantity": 1, "resource": "/v1"} | {
        "success": False
    }


@pytest.mark.parametrize("head", [b"", b"tenant,id\n", b"tenant,event_type,id,colour\n", b"tenant,event_type,id,id\n"])
def test_a_csv_file_must_name_its_columns(head: bytes) -> None:
    with pytest.raises(InvalidInput):
        items(head + b"a,b,c\n", "csv")


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_reading_goes_on_after_any_item(form: Any) -> None:
    content = CSV if form == "csv" else b'{"id":"1"}\n\nnope\n{"id":"2"}\r\n{"id":"3"}'
    whole = [str(each) for each in items(content, form)]
    for count in range(len(whole) + 1):
        source = Source(io.BytesIO(content), form)
        first = [str(each) for each in islice(source, count)]
        place = {"offset": source.offset, "line": source.line} if count else {}
        rest = [str(each) for each in items(content, form, **place)]
        assert first + rest == whole
    source = Source(io.BytesIO(content), form)
    source.stop = True
    assert [each for each in source if each is not None] == []


def test_the_format_follows_from_the_name() -> None:
    assert [format_of(name, "") for name in ("a.csv", "a.CSV", "a.ndjson", "a.jsonl", "-")] == [
        *("csv", "csv", "ndjson", "ndjson", "ndjson")
    ]
    assert format_of("a.csv", "ndjson") == "ndjson"
    with pytest.raises(InvalidInput, match="'xml' is neither ndjson nor csv"):
        format_of("a.csv", "xml")


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_what_is_written_is_read_as_it_was(form: Any) -> None:
    full = {"tenant": 'a,"b', "kind": "use", "id": "x1", "event_type": "", "resource": "é\u2028", "quantity": -3}
    full |= {"occurred_at": "2024-01-15T12:00:00Z", "cost": "-0.25", "success": False}
    full |= {"counts": [["calls", "user:7", -3]], "metadata": {"a": [1, None, "ü"]}}
    least = {"tenant": "b", "kind": "set", "id": "x2", "event_type": "storage", "resource": "disk", "quantity": 0}
    file = io.StringIO()
    sink = Sink(file, form)
    for line in (full, least):
        sink.write(line)
    found = [each for each in items(file.getvalue().encode(), form) if each is not None]
    expected = [{name: value for name, value in each.items() if value != ""} for each in (full, least)]
    assert found == (expected if form == "csv" else [full, least])


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was_and_knows_its_file(tmp_path: Path) -> None:
    file, at = tmp_path / "events.ndjson", tmp_path / "events.ndjson.backfill"
    file.write_text("one\ntwo\n")
    tally = BackfillTally(5, 3, 1, 0, 1, (Rejection(4, "why"),), settled=3)
    kept = Checkpoint.of(file, Place(4, 1), tally)
    kept.write(at)
    assert Checkpoint.read(at, file) == kept
    file.write_text("one\ntwo\nthree\n")
    assert Checkpoint.read(at, file) == kept
    file.write_text("One\ntwo\nthree\n")
    with pytest.raises(InvalidInput, match="is of another file than"):
        Checkpoint.read(at, file)
    for text in ("", "{}", "[]", json.dumps({"format": 2})):
        at.write_text(text)
        with pytest.raises(InvalidInput, match="delete it to begin anew"):
            Checkpoint.read(at, file)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["events.ndjson", "events.ndjson.backfill"]
