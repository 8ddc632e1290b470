"""Lines that cannot be folded: kept, told, and no hindrance to any other."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mm_metering import Metering
from mm_metering.backends.counters import Append
from mm_metering.backends.work import DEAD_LETTERS, DeadLetter
from mm_metering.core import facts
from mm_metering.core.facts import Count, Fact, encode
from mm_metering.worker import drain
from mm_metering.worker.dead_letters import every, tenant_of
from tests.flows.conftest import Make

NOON_US = 1_705_320_000_000_000
USE = Fact("f", NOON_US, "use", "acme", "api_call", "/v1/items", 1, None, (Count("api_calls", "", 1),))

POISON = {
    "no text": b"\xff\xfe",
    "no JSON": b"not a fact",
    "no list": b"{}",
    "too few fields": b'["f", 1]',
    "deep": b"[" * 100_000,
    "an unknown kind": encode(USE._replace(kind="grant")),
    "a number as a text": encode(USE._replace(quantity="7")),  # type: ignore[arg-type]
    "a fraction": encode(USE).replace(b'"",1]', b'"",1.5]'),
    "no number": encode(USE).replace(b'"",1]', b'"",NaN]'),
    "a void of nothing": encode(USE._replace(kind="void")),
    "65 bits": encode(USE._replace(quantity=2**64)),
    "a count of 65 bits": encode(USE._replace(counts=(Count("api_calls", "", -(2**64)),))),
    "no day": encode(USE._replace(occurred_us=2**60)),
    "NUL": encode(USE._replace(resource="a\0b")),
    "a lone surrogate": encode(USE._replace(metadata='"\udfff"')),
    "grants that fit nothing": b"1,2,3;" + encode(USE._replace(kind="hold")),
}


@pytest.mark.parametrize("name", POISON)
def test_what_is_no_fact_is_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        facts.decode(POISON[name])


@pytest.mark.parametrize("text", ["\\u0000", "😀 Ω", "\x7f", "100 % ;"])
def test_any_text_that_every_ledger_can_hold_is_a_fact(text: str) -> None:
    fact = USE._replace(resource=text, metadata=text, quantity=-(2**63) + 1)
    assert facts.decode(encode(fact)) == fact


async def stream(metering: Metering, lines: Sequence[bytes]) -> None:
    """Puts lines into a tenant's stream, past all that makes facts."""
    lane = metering.gate._lane("acme")
    for line in lines:
        await lane.submit(Append((("acme", line),)), allow=True)


async def letters(metering: Metering) -> list[DeadLetter]:
    return [letter async for page in every(metering.ledger) for letter in page]


async def test_poison_among_good_facts_is_kept_and_keeps_none_out(
    metering: Metering, caplog: pytest.LogCaptureFixture
) -> None:
    good = [encode(USE._replace(id=f"f{number}")) for number in range(300)]
    lines = [*good, *POISON.values()]
    random.Random(1).shuffle(lines)
    await stream(metering, lines)
    await metering.flush()
    snapshot = await metering.create_usage_snapshot("acme", "2024-01-15")
    assert snapshot.api_calls == 300
    kept = await letters(metering)
    assert sorted(letter.line for letter in kept) == sorted(POISON.values())
    assert all(letter.reason.isascii() and letter.reason for letter in kept)
    assert {tenant_of(letter) for letter in kept} == {"", "acme"}
    assert [(alert.kind, alert.subject) for alert in await metering.ledger.open_alerts()] == [(DEAD_LETTERS, "0")]
    told = [record for record in caplog.records if record.levelno == logging.ERROR and "dead letter" in record.message]
    assert len(told) == len(POISON)


async def test_a_database_that_refuses_a_value_keeps_the_others(make: Make, postgres_url: str) -> None:
    """Nothing that is known today: an index's row is too long."""
    metering = await make(ledger=postgres_url)
    long = "".join(map(str, range(40_000)))
    lines = [encode(USE._replace(id=f"f{number}")) for number in range(50)]
    lines.insert(20, b"\n".join(encode(USE._replace(id=name)) for name in ("before", long, "after")))
    await stream(metering, lines)
    await metering.flush()
    assert (await metering.create_usage_snapshot("acme", "2024-01-15")).api_calls == 52
    (letter,) = await letters(metering)
    assert letter.line == encode(USE._replace(id=long))
    assert letter.number == 1
    assert "index row" in letter.reason


async def test_a_retry_counts_what_is_a_fact_to_a_later_release_once(
    shared_stores: dict[str, str], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await make(**shared_stores, worker="off")

    def knows_no_use(line: bytes) -> Fact:
        raise ValueError(f"not a fact to this release: {line!r}")

    with monkeypatch.context() as patch:
        patch.setattr(drain, "decode", knows_no_use)
        await stream(old, [encode(USE), b"garbage", encode(USE._replace(id="g"))])
        await old.flush()
    assert len(await letters(old)) == 3
    await retried(shared_stores, posted=2, left=1)
    await old.flush()
    assert (await old.create_usage_snapshot("acme", "2024-01-15")).api_calls == 2
    assert [letter.line for letter in await letters(old)] == [b"garbage"]
    assert len(await old.ledger.open_alerts()) == 1
    await retried(shared_stores, posted=0, left=1)


async def test_a_retry_that_fails_again_keeps_the_letter(make: Make, postgres_url: str, tmp_path: Path) -> None:
    stores = {"counters": f"local://{tmp_path}/counters", "ledger": postgres_url}
    metering = await make(**stores, worker="off")
    await stream(metering, [encode(USE._replace(id="".join(map(str, range(40_000)))))])
    await metering.flush()
    (before,) = await letters(metering)
    await retried(stores, posted=1, left=1)
    (after,) = await letters(metering)
    assert (after.line, after.position != before.position) == (before.line, True)
    assert len(await metering.ledger.open_alerts()) == 1


async def retried(stores: dict[str, Any], *, posted: int, left: int) -> None:
    """As ``mm-metering dead-letters retry`` does it: a process of its own."""
    assert await Metering(**stores, worker="off").retry_dead_letters() == (posted, left)
