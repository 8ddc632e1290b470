"""Callers' event ids, claimed for ever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from typing import Final

from sqlalchemy import Text

from mm_metering.backends.ledger import Claim, ClaimRequest
from mm_metering.backends.sql.dialects import Columns
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.facts import ROW_KEY
from mm_metering.backends.sql.tables import event_key, usage_fact

_KEY: Final[Columns] = {"tenant": Text(), "event_id": Text()}
EventKey = tuple[str, str]
RowKey = tuple[str, str, int]


async def claim(tx: Transaction, requests: Sequence[ClaimRequest]) -> list[Claim]:
    first: dict[EventKey, ClaimRequest] = {}
    for request in requests:
        first.setdefault(_event(request), request)
    new = await _insert(tx, [first[key] for key in sorted(first)])
    stored = first | await _stored(tx, sorted(first.keys() - new))
    held = await _held(tx, [stored[key] for key in first.keys() - new])
    return [_answer(request, first, new, stored[_event(request)], held) for request in requests]


async def claim_new(tx: Transaction, requests: Iterable[ClaimRequest]) -> bool:
    """Claims all of them, thousands, where none was claimed before; otherwise False, and nothing is written."""
    return await tx.appended(event_key, sorted(requests))


async def claim_all(tx: Transaction, requests: Sequence[ClaimRequest]) -> list[Claim]:
    """As ``claim``, for thousands of which most are claimed already."""
    first: dict[EventKey, ClaimRequest] = {}
    for request in requests:
        first.setdefault(_event(request), request)
    stored = await _stored(tx, sorted(first))
    new = first.keys() - stored.keys()
    await tx.append(event_key, [first[key] for key in sorted(new)])
    held, known = await _held(tx, stored.values()), first | stored
    return [_answer(request, first, new, known[_event(request)], held) for request in requests]


async def foresee(tx: Transaction, requests: Sequence[ClaimRequest]) -> list[Claim]:
    """What they would be answered; one that is new may be in the ledger nevertheless, as another's fact."""
    first: dict[EventKey, ClaimRequest] = {}
    for request in requests:
        first.setdefault(_event(request), request)
    stored = first | await _stored(tx, sorted(first))
    new = {key for key, request in first.items() if stored[key] is request}
    held = await _held(tx, stored.values())
    answers = [_answer(request, first, new, stored[_event(request)], held) for request in requests]
    return [
        replace(claim, in_ledger=_row_key(request) in held) if claim.outcome == "new" else claim
        for claim, request in zip(answers, requests, strict=True)
    ]


def _event(request: ClaimRequest) -> EventKey:
    return request.tenant, request.event_id


def _row_key(request: ClaimRequest) -> RowKey:
    return request.tenant, request.fact_id, request.occurred_us


async def _insert(tx: Transaction, requests: Sequence[ClaimRequest]) -> set[EventKey]:
    """Which of them were not claimed before. In key order: two batches never wait for each other crosswise."""
    if not requests:
        return set()
    statement = tx.insert(event_key).on_conflict_do_nothing().returning(event_key.c.tenant, event_key.c.event_id)
    result = await tx.connection.execute(statement, [request._asdict() for request in requests])
    return {(row.tenant, row.event_id) for row in result}


async def _stored(tx: Transaction, keys: Sequence[EventKey]) -> dict[EventKey, ClaimRequest]:
    rows = await tx.matching(tuple(event_key.c), _KEY, keys)
    return {
        (row.tenant, row.event_id): ClaimRequest(row.tenant, row.event_id, row.digest, row.occurred_us, row.fact_id)
        for row in rows
    }


async def _held(tx: Transaction, claims: Iterable[ClaimRequest]) -> set[RowKey]:
    """Which of the claims' facts the ledger has."""
    rows = await tx.matching(
        (usage_fact.c.tenant, usage_fact.c.id, usage_fact.c.occurred_us, usage_fact.c.kind),
        ROW_KEY,
        map(_row_key, claims),
    )
    return {(row.tenant, row.id, row.occurred_us) for row in rows if row.kind != "void"}


def _answer(
    request: ClaimRequest,
    first: dict[EventKey, ClaimRequest],
    new: Set[EventKey],
    stored: ClaimRequest,
    held: set[RowKey],
) -> Claim:
    key = _event(request)
    if request is first[key] and key in new:
        return Claim("new", request.occurred_us, in_ledger=False)
    if stored.digest != request.digest:
        return Claim("conflict", stored.occurred_us, in_ledger=True)
    return Claim("known", stored.occurred_us, in_ledger=_row_key(stored) in held)
