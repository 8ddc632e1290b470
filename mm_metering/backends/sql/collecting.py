"""Between us and the payment provider: collections, hints, notices."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import delete, select, update

from mm_metering.backends.collecting import AT_ONCE, Hint, Mute, Waiting
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import AnyRow, stored
from mm_metering.backends.sql.tables import collection, hint, invoice, mute, notice, payer
from mm_metering.core.audit import Act
from mm_metering.core.audited import mute_put
from mm_metering.core.books import Entries
from mm_metering.core.collecting import Collection, Notice
from mm_metering.core.invoices import Invoice
from mm_metering.core.money import to_nanos
from mm_metering.core.periods import from_micros, micros

# -- collections ------------------------------------------------------------------------------------------------------


async def uncollected(tx: Transaction, limit: int) -> list[Invoice]:
    begun = collection.c.invoice == invoice.c.id
    statement = (
        select(invoice.c.document)
        .join(payer, payer.c.tenant == invoice.c.tenant)
        .outerjoin(collection, begun)
        .where(invoice.c.status == "finalized", collection.c.invoice.is_(None))
        .order_by(invoice.c.tenant, invoice.c.period)
        .limit(limit)
    )
    return [Invoice.model_validate_json(row.document) for row in await tx.all(statement)]


async def page(
    tx: Transaction, *, tenant: str | None, period: str | None, state: str | None, after: str, limit: int
) -> list[Collection]:
    statement = select(collection.c.document).where(collection.c.invoice > after)
    for column, value in ((collection.c.tenant, tenant), (collection.c.period, period), (collection.c.state, state)):
        if value is not None:
            statement = statement.where(column == value)
    rows = await tx.all(statement.order_by(collection.c.invoice).limit(limit))
    return [Collection.model_validate_json(row.document) for row in rows]


async def due(tx: Transaction, now_us: int, limit: int) -> list[Collection]:
    statement = select(collection.c.document).where(collection.c.next_us <= now_us)
    rows = await tx.all(statement.order_by(collection.c.next_us, collection.c.invoice).limit(limit))
    return [Collection.model_validate_json(row.document) for row in rows]


async def find(tx: Transaction, invoice_id: str) -> Collection | None:
    row = await tx.first(select(collection.c.document).where(collection.c.invoice == invoice_id))
    return None if row is None else Collection.model_validate_json(row.document)


async def at(tx: Transaction, provider_invoice: str) -> Collection | None:
    row = await tx.first(select(collection.c.document).where(collection.c.provider_invoice == provider_invoice))
    return None if row is None else Collection.model_validate_json(row.document)


async def write(tx: Transaction, entries: Entries) -> None:
    """The collections and notices among them; audit entries are noted."""
    for each in entries.collections:
        row = {name: getattr(each, name) for name in ("invoice", "tenant", "period", "state", "provider_invoice")}
        row |= {"next_us": each.next_at and micros(each.next_at), "document": each.model_dump_json()}
        row["amount"] = stored(to_nanos(each.amount))
        statement = tx.insert(collection).values(row)
        await tx.run(statement.on_conflict_do_update(index_elements=[collection.c.invoice], set_=row))
    if entries.notices:
        await tx.run_each(tx.insert(notice).on_conflict_do_nothing(), [notice_row(each) for each in entries.notices])
    tx.note(entries.audit)


# -- hints ------------------------------------------------------------------------------------------------------------


async def put_hint(tx: Transaction, given: Hint) -> bool:
    return bool(await tx.run(tx.insert(hint).values(given._asdict()).on_conflict_do_nothing()))


async def hints_due(tx: Transaction, now_us: int, limit: int) -> list[Hint]:
    statement = select(hint).where(hint.c.next_us <= now_us).order_by(hint.c.next_us, hint.c.id).limit(limit)
    return [Hint(*row) for row in await tx.all(statement)]


async def move_hint(tx: Transaction, moved: Hint) -> None:
    changes = {"next_us": moved.next_us, "tries": moved.tries, "note": moved.note}
    await tx.run(update(hint).where(hint.c.id == moved.id).values(changes))


async def forget_hints(tx: Transaction, before_us: int) -> int:
    return await tx.run(delete(hint).where(hint.c.next_us.is_(None), hint.c.stored_us < before_us))


# -- notices ----------------------------------------------------------------------------------------------------------


def notice_row(each: Notice) -> dict[str, object]:
    return {
        "id": each.id,
        "tenant": each.tenant,
        "type": each.type,
        "data": json.dumps(each.data),
        "made_us": micros(each.made_at),
        "next_us": AT_ONCE if each.source == "house" else None,
        "tries": 0,
        "source": each.source,
    }


def notice_of(row: AnyRow) -> Notice:
    """Of the columns of ``notice``."""
    return Notice(row.id, row.tenant, row.type, json.loads(row.data), from_micros(row.made_us), row.source)


async def notices_due(tx: Transaction, now_us: int, limit: int) -> list[Waiting]:
    order = (notice.c.next_us, notice.c.made_us, notice.c.id)
    statement = select(notice).where(notice.c.next_us <= now_us).order_by(*order).limit(limit)
    return [Waiting(notice_of(row), row.next_us, row.tries) for row in await tx.all(statement)]


async def notices(tx: Transaction, tenant: str | None, limit: int) -> list[Notice]:
    statement = select(notice).order_by(notice.c.made_us.desc(), notice.c.id.desc()).limit(limit)
    if tenant is not None:
        statement = statement.where(notice.c.tenant == tenant)
    return [notice_of(row) for row in await tx.all(statement)]


async def add_notices(tx: Transaction, given: Sequence[Notice]) -> list[Notice]:
    statement = tx.insert(notice).on_conflict_do_nothing()
    return [each for each in given if await tx.run(statement, notice_row(each))]


async def put_mute(tx: Transaction, given: Mute, act: Act | None = None) -> None:
    stands = select(mute.c.until_us).where(mute.c.rule == given.rule, mute.c.tenant == given.tenant)
    before = await tx.first(stands)
    statement = tx.insert(mute).values(given._asdict())
    key = [mute.c.rule, mute.c.tenant]
    await tx.run(statement.on_conflict_do_update(index_elements=key, set_={"until_us": given.until_us}))
    tx.note(mute_put(given.rule, given.tenant, before.until_us if before else None, given.until_us, act))


async def mutes(tx: Transaction, now_us: int) -> list[Mute]:
    statement = select(mute).where(mute.c.until_us > now_us).order_by(mute.c.rule, mute.c.tenant)
    return [Mute(*row) for row in await tx.all(statement)]


async def move_notice(tx: Transaction, notice_id: str, next_us: int | None, tries: int) -> None:
    await tx.run(update(notice).where(notice.c.id == notice_id).values(next_us=next_us, tries=tries))


async def forget_notices(tx: Transaction, before_us: int) -> int:
    return await tx.run(delete(notice).where(notice.c.made_us < before_us))
