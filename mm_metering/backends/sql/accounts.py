"""Invoices and what stands beside them. Who books locks the tenants' rows first, then the numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from operator import itemgetter
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Table, Text, bindparam, delete, func, select, tuple_, update

from mm_metering.backends.accounts import Decide, Wanted
from mm_metering.backends.sql import cells, collecting, levels, tenants
from mm_metering.backends.sql.dialects import Columns, Keys
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import CELL, INT64, stored_cell
from mm_metering.backends.sql.tables import (
    adjustment,
    credit_grant,
    credit_note,
    discount,
    invoice,
    invoice_line,
    number,
    usage_cell,
)
from mm_metering.core.books import SERIES, Account, Entries
from mm_metering.core.cells import Cell
from mm_metering.core.invoices import Adjustment, CreditGrant, CreditNote, Discount, Invoice, InvoiceStatus, Value
from mm_metering.core.money import to_nanos
from mm_metering.core.tenancy import TenantRow

V = TypeVar("V", bound=Value)

BOOKING: Final = 0x6D6D_626F_6F6B_696E
"""The advisory lock's number: "mmbookin". Numbers have no gaps, so they are handed out one transaction at a time."""
_TENANT: Final[Columns] = {"tenant": Text()}
_MONTH: Final[Columns] = {"tenant": Text(), "period": Text()}
_INVOICE: Final[Columns] = {"invoice": Text()}
_ALL: Final[Mapping[str, Any]] = {"period": None, "state": None, "after": "", "limit": 2**31}


# -- reading -----------------------------------------------------------------------------------------------------------


async def account(tx: Transaction, tenant: str, wanted: Wanted) -> Account | None:
    row = await tenants.find(tx, tenant)
    return _numbered((await _accounts(tx, [row], wanted))[0], await _numbers(tx)) if row else None


def _numbered(account: Account, numbers: Counter[str]) -> Account:
    return replace(account, next_numbers={series: numbers[series] + 1 for series in SERIES})


async def _accounts(tx: Transaction, rows: Sequence[TenantRow], wanted: Wanted) -> list[Account]:
    ids = [row.id for row in rows]
    own_cells = await _cells(tx, rows, wanted)
    months = [(each, period) for each in ids for period in wanted.periods]
    invoices = await _documents(tx, invoice, Invoice, order=("period", "issue"), columns=_MONTH, keys=months)
    numbered = [each.id for theirs in invoices.values() for each in theirs]
    notes = await _notes(tx, numbered)
    grants = await _of_tenants(tx, credit_grant, ids, CreditGrant)
    discounts = await _of_tenants(tx, discount, ids, Discount)
    waiting = (adjustment.c.invoice.is_(None) | adjustment.c.invoice.in_(numbered),)
    adjustments = await _of_tenants(tx, adjustment, ids, Adjustment, waiting)
    return [
        Account(
            row,
            cells=own_cells[row.id],
            levels_before={day: await levels.values(tx, row.id, day) for day in wanted.level_days(row.anchor_day)},
            invoices=invoices[row.id],
            grants=grants[row.id],
            notes=[note for each in invoices[row.id] for note in notes[each.id]],
            discounts=discounts[row.id],
            adjustments=adjustments[row.id],
            collections=await collecting.page(tx, tenant=row.id, **_ALL) if wanted.collections else (),
        )
        for row in rows
    ]


async def _cells(tx: Transaction, rows: Sequence[TenantRow], wanted: Wanted) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = defaultdict(list)
    anchored: dict[tuple[date, date] | None, list[str]] = defaultdict(list)
    for each in rows:
        anchored[wanted.days(each.anchor_day)].append(each.id)
    for days, ids in anchored.items():
        if days is None:
            continue
        within = (
            usage_cell.c.day.between(*days),
            usage_cell.c.scope == "",
            usage_cell.c.meter > cells.EVENT_METERS_END,
            cells.IS_SHOWN,
        )
        columns = (*CELL, usage_cell.c.revision, usage_cell.c.refused)
        for row in await tx.matching(columns, _TENANT, [(each,) for each in ids], where=within):
            found[row.tenant].append(stored_cell(row))
    return found


async def _documents(
    tx: Transaction,
    table: Table,
    kind: type[V],
    *,
    order: Sequence[str],
    columns: Columns,
    keys: Keys,
    where: Sequence[Any] = (),
) -> dict[str, list[V]]:
    """The values under any of the keys, by the first of the key's columns, each list in that order."""
    fields = [table.c[name] for name in (next(iter(columns)), *order, "document")]
    found: dict[str, list[V]] = defaultdict(list)
    rows = await tx.matching(fields, columns, keys, where=where)
    for owner, *_, document in sorted(rows, key=itemgetter(slice(1, -1))):
        found[owner].append(kind.model_validate_json(document))
    return found


async def _of_tenants(
    tx: Transaction, table: Table, ids: Sequence[str], kind: type[V], where: Sequence[Any] = ()
) -> dict[str, list[V]]:
    """In order of creation."""
    return await _documents(
        tx, table, kind, order=("made",), columns=_TENANT, keys=[(each,) for each in ids], where=where
    )


async def _notes(tx: Transaction, invoices: Sequence[str]) -> dict[str, list[CreditNote]]:
    keys = [(each,) for each in invoices]
    return await _documents(tx, credit_note, CreditNote, order=("number",), columns=_INVOICE, keys=keys)


async def _numbers(tx: Transaction) -> Counter[str]:
    return Counter({row.series: row.last for row in await tx.all(select(number))})


async def find(tx: Transaction, name: str, *, column: ColumnElement[str] = invoice.c.id) -> Invoice | None:
    row = await tx.first(select(invoice.c.document).where(column == name))
    return None if row is None else Invoice.model_validate_json(row.document)


async def numbered(tx: Transaction, number: str) -> Invoice | None:
    return await find(tx, number, column=invoice.c.number)


async def inputs(tx: Transaction, invoice_id: str) -> bytes | None:
    row = await tx.first(select(invoice.c.inputs).where(invoice.c.id == invoice_id))
    return None if row is None else row.inputs


async def of_line(tx: Transaction, line_id: str) -> Invoice | None:
    row = await tx.first(select(invoice_line.c.invoice).where(invoice_line.c.id == line_id))
    return None if row is None else await find(tx, row.invoice)


async def page(
    tx: Transaction,
    *,
    tenant: str | None,
    period: str | None,
    status: InvoiceStatus | None,
    after: tuple[str, str, int],
    limit: int,
) -> list[Invoice]:
    key = (invoice.c.period, invoice.c.tenant, invoice.c.issue)
    statement = select(invoice.c.document).where(tuple_(*key) > after).order_by(*key).limit(limit)
    for column, value in ((invoice.c.tenant, tenant), (invoice.c.period, period), (invoice.c.status, status)):
        if value is not None:
            statement = statement.where(column == value)
    return [Invoice.model_validate_json(row.document) for row in await tx.all(statement)]


async def credit_notes(tx: Transaction, invoice_id: str) -> list[CreditNote]:
    return (await _notes(tx, [invoice_id]))[invoice_id]


async def grants(tx: Transaction, tenant: str) -> list[CreditGrant]:
    return (await _of_tenants(tx, credit_grant, [tenant], CreditGrant))[tenant]


# -- booking -----------------------------------------------------------------------------------------------------------


async def book(tx: Transaction, ids: Sequence[str], wanted: Wanted, decide: Decide) -> None:
    rows = await tenants.locked_all(tx, ids)
    await tx.lock(BOOKING)
    before = await _numbers(tx)
    numbers, decided = Counter(before), list[Entries]()
    for each in await _accounts(tx, rows, wanted):
        decided.append(decide(_numbered(each, numbers)))
        numbers.update(decided[-1].numbered)
    await _write(tx, decided)
    for row, entries in zip(rows, decided, strict=True):
        await collecting.write(tx, entries)
        if entries.change is not None:
            await tenants.change_subscription(tx, row.id, entries.change)
    await _put(tx, number, [{"series": each, "last": last} for each, last in numbers.items() if before[each] != last])


async def _write(tx: Transaction, decided: Sequence[Entries]) -> None:
    invoices = [each for entries in decided for each in entries.invoices]
    made_of = {invoice_id: packed for entries in decided for invoice_id, packed in entries.inputs.items()}
    await _put(tx, invoice, [_invoice_row(each) for each in invoices])
    await tx.run_each(_SET_INPUTS, [{"of_id": each, "packed": packed} for each, packed in made_of.items()])
    await tx.run_each(_FORGET_LINES, [{"of_invoice": each.id} for each in invoices])
    await tx.run_each(invoice_line.insert(), [row for each in invoices for row in _line_rows(each)])
    await _put(tx, credit_note, [_note_row(each) for entries in decided for each in entries.notes])
    for entries in decided:
        for grant in entries.grants:
            await _put_own(tx, credit_grant, grant, remaining=_nanos(grant.remaining))
        for cut in entries.discounts:
            await _put_own(tx, discount, cut)
        for one in entries.adjustments:
            await _put_own(tx, adjustment, one, invoice=one.invoice)


_SET_INPUTS: Final = update(invoice).where(invoice.c.id == bindparam("of_id")).values(inputs=bindparam("packed"))
_FORGET_LINES: Final = delete(invoice_line).where(invoice_line.c.invoice == bindparam("of_invoice"))


async def _put(tx: Transaction, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Each row in place of the one with its key; columns that are not given stay."""
    if not rows:
        return
    statement = tx.insert(table)
    others = [name for name in rows[0] if not table.c[name].primary_key]
    upsert = statement.on_conflict_do_update(
        index_elements=list(table.primary_key), set_={name: statement.excluded[name] for name in others}
    )
    await tx.run_each(upsert, rows)


async def _put_own(tx: Transaction, table: Table, each: CreditGrant | Discount | Adjustment, **columns: Any) -> None:
    """The same, in the order of creation among the tenant's."""
    document = {"document": each.model_dump_json(), **columns}
    if await tx.run(update(table).where(table.c.id == each.id).values(document)):
        return
    last = await tx.first(select(func.max(table.c.made).label("made")).where(table.c.tenant == each.tenant))
    made = 1 + (last.made or 0) if last else 1
    await tx.run(table.insert(), {"id": each.id, "tenant": each.tenant, "made": made, **document})


def _invoice_row(each: Invoice) -> dict[str, Any]:
    columns = {name: getattr(each, name) for name in ("id", "period", "tenant", "issue", "status", "number")}
    return columns | {"total": _nanos(each.total), "document": each.model_dump_json()}


def _line_rows(each: Invoice) -> list[dict[str, Any]]:
    return [
        {name: getattr(line, name) for name in ("id", "kind", "meter", "resource")}
        | {"invoice": each.id, "amount": _nanos(line.amount)}
        for line in each.lines
    ]


def _note_row(each: CreditNote) -> dict[str, Any]:
    columns = {"id": each.id, "invoice": each.invoice, "number": each.number}
    return columns | {"total": _nanos(each.total), "document": each.model_dump_json()}


def _nanos(amount: Decimal) -> int:
    """Beyond any real amount it is the largest that fits: the document has the truth."""
    return max(-INT64, min(to_nanos(amount), INT64))
