"""What the audit log says of each change: the entries that follow from a value as it was and as it is now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from mm_metering.core.audit import Act, AuditEntry, Said
from mm_metering.core.books import Account, Entries
from mm_metering.core.collecting import Collection
from mm_metering.core.deliveries import Delivery, EndpointRow
from mm_metering.core.invoices import Adjustment, CreditGrant, Discount, Invoice, Value
from mm_metering.core.periods import from_micros
from mm_metering.core.tenancy import OVERRIDE, TenantRow, plan_name, with_change
from mm_metering.core.timeline import Change, PlanChange, StateChange

Plans: TypeAlias = Mapping[str, tuple[int, Said]]
"""The newest version of each, and what it says."""
NO_PLAN: Final[tuple[int, Said]] = (0, {})
HOUSE: Final = ""
"""The tenant of what concerns all of them."""
_INVOICE: Final = ("status", "number", "total", "credited", "held")
_GRANT: Final = ("amount", "remaining", "kind", "priority", "applies_to", "expires_at")
_DISCOUNT: Final = ("name", "percent", "amount", "applies_to", "starts_at", "ends_at")
_ADJUSTMENT: Final = ("amount", "currency")
_WORDS: Final[Mapping[str, str]] = {"draft": "drafted", "void": "voided", "uncollectible": "given up"}
"""An invoice that became that was …"""


def differing(before: Said, after: Said) -> tuple[Said, Said]:
    """What is not the same in both."""
    names = [name for name in after if before.get(name) != after[name]]
    return {name: before[name] for name in names if name in before}, {name: after[name] for name in names}


# -- tenants, plans ----------------------------------------------------------------------------------------------------


def tenant_put(before: TenantRow | None, after: TenantRow, act: Act | None) -> Sequence[AuditEntry]:
    if act is None or after == before:
        return ()
    action = "tenant changed" if before else "tenant created"
    return (_of_tenant(action, before, after, act),)


def subscription_changed(before: TenantRow, after: TenantRow, change: Change, act: Act | None) -> Sequence[AuditEntry]:
    return () if act is None or after == before else (_of_tenant(_what(change), before, after, act),)


def _what(change: Change) -> str:
    match change:
        case PlanChange():
            return "plan changed"
        case StateChange():
            return f"subscription: {change.event}"
    return "add-on changed"


def _of_tenant(action: str, before: TenantRow | None, after: TenantRow, act: Act) -> AuditEntry:
    then, now = differing(_tenant(before, after) if before else {}, _tenant(after, before))
    return act.did(action, after.id, after.id, before=then, after=now)


def _tenant(row: TenantRow, other: TenantRow | None) -> dict[str, Any]:
    """``timeline``: what of it the other row does not have."""
    names = ("timezone", "tax_rate", "trial_us", "anchor_day")
    known = set(other.segments) if other else set()
    return {name: getattr(row, name) for name in names} | {
        "subscribed_at": f"{from_micros(row.subscribed_us):%Y-%m-%dT%H:%M:%SZ}",
        "timeline": [
            f"{from_micros(each.starts_us):%Y-%m-%dT%H:%M:%SZ} {each.plan} version {each.version} {each.status}"
            for each in row.segments
            if each not in known
        ],
    }


def plans_stored(before: Plans, after: Plans, act: Act | None) -> Iterator[AuditEntry]:
    """What differs from the version before; a tenant's own first one is told from the house's newest."""
    for plan, (version, definition) in sorted(after.items()):
        if act is not None and before.get(plan, NO_PLAN)[0] != version:
            known = before.get(plan) or before.get(plan_name(plan), NO_PLAN)
            then, now = differing(_flat(known[1]), _flat(definition))
            owner = plan.partition(OVERRIDE)[2] or HOUSE
            yield act.did("plan stored", owner, plan, before=then, after=now, detail=f"version {version}")


def _flat(definition: Said) -> dict[str, Any]:
    """With names such as quotas.api_calls."""
    flat: dict[str, Any] = {}
    for name, value in definition.items():
        flat |= {f"{name}.{of}": each for of, each in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


# -- accounts ----------------------------------------------------------------------------------------------------------


def audited(decide: Callable[[Account], Entries], act: Act) -> Callable[[Account], Entries]:
    """The same decision, with the entries of what it changes."""

    def decided(account: Account) -> Entries:
        entries = decide(account)
        return replace(entries, audit=(*entries.audit, *booked(account, entries, act)))

    return decided


def booked(account: Account, entries: Entries, act: Act) -> Iterator[AuditEntry]:
    """What is booked."""
    invoices = {each.id: each for each in account.invoices}
    for invoice in entries.invoices:
        yield from _invoice(invoices.get(invoice.id), invoice, act)
    for note in entries.notes:
        after = {"invoice": note.invoice, "total": note.total, "to_credit": note.to_credit}
        yield act.did("credit note issued", note.tenant, note.id, after=after, reason=note.reason)
    yield from _owned(account.grants, entries.grants, _GRANT, ("credit granted", "credit moved"), act)
    yield from _owned(account.discounts, entries.discounts, _DISCOUNT, ("discount given", "discount ended"), act)
    yield from _owned(account.adjustments, entries.adjustments, _ADJUSTMENT, ("invoice adjusted", ""), act)
    if entries.change is not None:
        after_it = with_change(account.tenant, entries.change)
        yield from subscription_changed(account.tenant, after_it, entries.change, act)
    collections = {each.invoice: each for each in account.collections}
    for collection in entries.collections:
        yield from _collection(collections.get(collection.invoice), collection, act)


def _invoice(before: Invoice | None, after: Invoice, act: Act) -> Iterator[AuditEntry]:
    then, now = differing(_some(before, _INVOICE), _some(after, _INVOICE))
    if not now:
        return
    what = _WORDS.get(after.status, after.status)
    if before is not None and before.status == after.status:
        what = "drafted again" if after.status == "draft" else "credited"
    yield act.did(f"invoice {what}", after.tenant, after.id, before=then, after=now, detail=after.period)


def _owned(
    before: Iterable[CreditGrant | Discount | Adjustment],
    after: Sequence[CreditGrant | Discount | Adjustment],
    names: Sequence[str],
    actions: tuple[str, str],
    act: Act,
) -> Iterator[AuditEntry]:
    """``actions``: for a new one, and for a changed one."""
    known: dict[str, Value] = {each.id: each for each in before}
    for each in after:
        then, now = differing(_some(known.get(each.id), names), _some(each, names))
        if now:
            why = getattr(each, "reason", "")
            yield act.did(actions[each.id in known], each.tenant, each.id, before=then, after=now, reason=why)


def _collection(before: Collection | None, after: Collection, act: Act) -> Iterator[AuditEntry]:
    if before is None:
        yield act.did("collection begun", after.tenant, after.invoice, after=_some(after, ("state", "amount")))
    elif before.state != after.state:
        last = after.attempts[-1] if after.attempts else None
        detail = after.note or (f"{last.key} {last.outcome} {last.code}".strip() if last else "")
        then, now = _some(before, ("state",)), _some(after, ("state",))
        action = f"collection {before.state} -> {after.state}"
        yield act.did(action, after.tenant, after.invoice, before=then, after=now, detail=detail)


def _some(value: Value | None, names: Sequence[str]) -> dict[str, Any]:
    """Those of a value's fields, as JSON has them."""
    return value.model_dump(mode="json", include=set(names)) if value is not None else {}


# -- all else ----------------------------------------------------------------------------------------------------------


def mute_put(rule: str, tenant: str, before_us: int | None, until_us: int, act: Act | None) -> Sequence[AuditEntry]:
    """``tenant`` "*": of all."""
    if act is None or before_us == until_us:
        return ()
    then = None if before_us is None else {"until": from_micros(before_us)}
    owner = HOUSE if tenant == "*" else tenant
    return (act.did("alerts muted", owner, rule, before=then, after={"until": from_micros(until_us)}),)


def payer_moved(tenant: str, before: str | None, after: str | None, act: Act | None) -> Sequence[AuditEntry]:
    """The payment provider's customer of a tenant."""
    if act is None or before == after:
        return ()
    then, now = ({"customer": each} if each else None for each in (before, after))
    action = "payer linked" if after else "payer unlinked"
    return (act.did(action, tenant, after or before or "", before=then, after=now),)


def endpoint_changed(before: EndpointRow | None, after: EndpointRow, what: str, act: Act) -> AuditEntry:
    then, now = differing(_endpoint(before) if before else {}, _endpoint(after))
    return act.did(f"endpoint {what}", after.tenant, after.id, before=then, after=now)


def endpoint_disabled(before: EndpointRow, after: EndpointRow, act: Act | None) -> Sequence[AuditEntry]:
    """By what came back from it."""
    if act is None or after.enabled or not before.enabled:
        return ()
    return (endpoint_changed(before, after, "disabled", act),)


def _endpoint(row: EndpointRow) -> dict[str, Any]:
    """A URL's path may be a secret: its digest tells one from another."""
    url = f"{urlsplit(row.url).hostname} {sha256(row.url.encode()).hexdigest()[:8]}"
    shown = {"url": url, "events": row.events, "enabled": row.enabled, "why_disabled": row.why_disabled}
    return shown | {"secrets": len(row.secrets)}


def deliveries_opened(opened: Sequence[Delivery], act: Act | None) -> Iterator[AuditEntry]:
    """One for each endpoint."""
    of: dict[tuple[str, str], list[str]] = {}
    for each in opened:
        of.setdefault((each.tenant, each.endpoint), []).append(each.id)
    for (tenant, endpoint), ids in of.items():
        if act is not None:
            after = {"deliveries": len(ids), "first": ids[0], "last": ids[-1]}
            yield act.did("deliveries sent again", tenant, endpoint, after=after)


def letters_posted(count: int, act: Act | None) -> Sequence[AuditEntry]:
    return (act.did("dead letters posted again", HOUSE, "", after={"letters": count}),) if act and count else ()


def cells_rebuilt(tenant: str, cells: int, act: Act | None) -> Sequence[AuditEntry]:
    return (act.did("cells made anew", tenant, tenant, after={"wrong": cells}),) if act and cells else ()
