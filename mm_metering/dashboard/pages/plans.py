"""The plans side by side, who is on what, and what differs between two versions. Nothing is changed here."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from mm_metering.billing.plan_review import Review, dropped_words, review
from mm_metering.core.addons import terms_words
from mm_metering.core.catalogue import UNLIMITED, AiPolicy, Catalogue, Plan
from mm_metering.core.lifecycles import SUBSCRIPTION
from mm_metering.core.periods import Window
from mm_metering.core.plan_changes import Form, PlanDifference, Stored, differences, limit_forms, newest_versions
from mm_metering.core.plan_words import changes, past_words
from mm_metering.core.schema import money_text
from mm_metering.core.tenancy import OVERRIDE, plan_name
from mm_metering.dashboard.page import Link, Page, Rows, Visit
from mm_metering.dashboard.render import count, words
from mm_metering.errors import NotFound
from mm_metering.gate.plans import APPLY_COMMAND, DIFF_COMMAND

MAX_VERSIONS: Final = 500
"""Entries of the audit log that dates of versions are looked for in."""
MAX_REVIEWED: Final = 2_000
"""Most tenants that are read while somebody waits for the page: the command reads any number."""
NOTHING: Final = "–"
NOT_LIMITED: Final = "not limited"
WINDOWS: Final[Mapping[Window, str]] = {Window.NONE: "at a time", Window.DAY: "a day", Window.MONTH: "a month"}


@dataclass(frozen=True, slots=True)
class Row:
    """What each plan says of something: a cell is one or more lines."""

    name: str
    cells: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Version:
    plan: str
    version: int
    price: str
    stored_at: datetime | None
    is_newest: bool

    @property
    def key(self) -> str:
        return f"{self.plan}@{self.version}"


async def plans(visit: Visit) -> Page:
    house, catalogue = visit.house, visit.house.catalogue
    known, tenants, dates = await asyncio.gather(
        house.ledger.plan_versions(), house.ledger.count_tenants(visit.now_us), _dates(visit)
    )
    stored = _of_house(known)
    versions = _versions(stored, dates)
    rows = table(catalogue)
    in_use = differences(stored, catalogue.plans)
    total = sum(tenants.values())
    data = {
        "plans": [*catalogue.plans],
        "rows": rows,
        "addons": [(name, each.plans, terms_words(each)) for name, each in catalogue.addons.items()],
        "only_counted": _only_counted(catalogue),
        "currency": catalogue.currency,
        "tenants": _on_what(tenants),
        "statuses": [*SUBSCRIPTION.moves],
        "total": total,
        "versions": versions,
        "differences": [_in_words(each) for each in in_use],
        "review": await _review(visit) if in_use and total <= MAX_REVIEWED else None,
        "dropped_words": dropped_words,
        "most": MAX_REVIEWED,
        "compared": await _compared(visit, stored),
        "commands": (DIFF_COMMAND, APPLY_COMMAND),
    }
    return Page(
        "plans.html", "Plans", data, files={"plans": _file(catalogue, rows), "versions": _versions_file(versions)}
    )


# -- side by side -----------------------------------------------------------------------------------------------------


def table(catalogue: Catalogue) -> list[Row]:
    """A row for the fee, for each meter that a plan limits, and for each rule of AI calls."""
    plans = [*catalogue.plans.values()]
    rows = [Row("price a month", [[f"{money_text(each.price)} {catalogue.currency}"] for each in plans])]
    rows += _row("minimum a month", [_money(each.minimum or None, catalogue.currency) for each in plans])
    rows += _row("support", [[each.support] if each.support else [] for each in plans])
    forms = [limit_forms(each) for each in plans]
    for meter in catalogue.meters:
        cells = [[limit_words(window, form) for (of, window), form in each.items() if of == meter] for each in forms]
        rows += [Row(words(meter), [cell or [NOT_LIMITED] for cell in cells])] if any(cells) else []
    return [*rows, *_ai_rows(plans, catalogue.ai_currency or catalogue.currency)]


def limit_words(window: Window, form: Form) -> str:
    """ "10,000 a day, then 0.01 each"."""
    if form["limit"] == UNLIMITED:
        return UNLIMITED
    past = past_words(form)
    if form["limit"] == 0 and form["then"] == "block":
        return past
    most = count(form["limit"]) if isinstance(form["limit"], int) else str(form["limit"])
    return f"{most} {WINDOWS.get(window) or f'a {window}'}, then {past}"


def _row(name: str, cells: Sequence[Sequence[str]]) -> list[Row]:
    """None where no plan says anything."""
    return [Row(name, [cell or [NOTHING] for cell in cells])] if any(cells) else []


def _money(amount: Decimal | None, currency: str) -> list[str]:
    return [] if amount is None else [f"{money_text(amount)} {currency}"]


def _ai_rows(plans: Iterable[Plan], currency: str) -> Iterator[Row]:
    """Where a plan has rules of AI calls, each of them."""
    said: Sequence[tuple[str, Callable[[AiPolicy], Sequence[str]]]] = (
        ("AI budget a day", lambda rule: _money(rule.daily_budget, currency)),
        ("AI budget a month", lambda rule: _money(rule.monthly_budget, currency)),
        ("AI budgets of parts", lambda rule: [*_parts(rule.budgets or {}, currency)]),
        ("AI models", lambda rule: rule.model_allowlist or ("all",)),
        ("AI model to fall back to", lambda rule: [rule.fallback_model] if rule.fallback_model else []),
        ("AI model without a price", lambda rule: ["refused" if rule.on_unpriced == "block" else "allowed"]),
    )
    rules = [each.ai for each in plans]
    for name, say in said:
        yield from _row(name, [say(rule) if rule else [] for rule in rules])


def _parts(budgets: Mapping[str, Mapping[str, Decimal]], currency: str) -> Iterator[str]:
    for scope, sums in budgets.items():
        yield f"{scope}: {', '.join(f'{money_text(most)} {currency} {name}' for name, most in sums.items())}"


def _only_counted(catalogue: Catalogue) -> list[str]:
    limited = {meter for plan in catalogue.plans.values() for meter in plan.limits}
    return [words(meter) for meter in catalogue.meters if meter not in limited]


def _on_what(tenants: Mapping[tuple[str, str], int]) -> list[tuple[str, Counter[str]]]:
    """By plan: how many in which state."""
    found: dict[str, Counter[str]] = {}
    for (plan, status), number in sorted(tenants.items()):
        found.setdefault(plan, Counter())[status] += number
    return [*found.items()]


# -- versions ---------------------------------------------------------------------------------------------------------


def _of_house(known: Mapping[tuple[str, int], Mapping[str, Any]]) -> Stored:
    """The versions of the house's plans; a tenant's own are found one by one."""
    ours = {key: value for key, value in known.items() if OVERRIDE not in key[0]}
    return {(plan, version): Plan.from_definition(plan, value) for (plan, version), value in ours.items()}


async def _dates(visit: Visit) -> Mapping[tuple[str, str], datetime]:
    """When a version was stored, as the audit log says it: by plan and "version 1"."""
    entries = await visit.house.ledger.audit_page(tenant="", action="plan stored", limit=MAX_VERSIONS)
    return {(each.subject, each.detail): each.at for each in entries}


def _versions(stored: Stored, dates: Mapping[tuple[str, str], datetime]) -> list[Version]:
    newest = newest_versions(stored)
    return [
        Version(plan, version, money_text(each.price), dates.get((plan, f"version {version}")), newest[plan] == version)
        for (plan, version), each in sorted(stored.items(), key=lambda item: (item[0][0], -item[0][1]))
    ]


@dataclass(frozen=True, slots=True)
class Differs:
    """A plan of the process against the newest version that is stored."""

    plan: str
    version: int
    kind: str
    lines: Sequence[str]


def _in_words(each: PlanDifference) -> Differs:
    return Differs(each.plan, each.version, each.kind, [*changes(each)] if each.kind == "changed" else [])


async def _review(visit: Visit) -> Review:
    """Whom it would touch if all were moved."""
    house = visit.house
    return await review(house.ledger, house.catalogue, now=visit.now, progress=lambda _: None)


async def _compared(visit: Visit, stored: Stored) -> tuple[str, str, Sequence[str]] | None:
    """The two versions that were chosen, and what is not the same; NotFound for one that there is not."""
    first, second = visit.text("from"), visit.text("to")
    if not (first and second):
        return None
    before, after = await _version(visit, stored, first), await _version(visit, stored, second)
    return first, second, [*changes(PlanDifference(before.name, 0, before, after))]


async def _version(visit: Visit, stored: Stored, name: str) -> Plan:
    plan, _, version = name.rpartition("@")
    number = int(version[:9]) if version.isascii() and version.isdigit() else 0
    found = stored.get((plan, number)) or (await visit.house.plans.get(plan, number) if OVERRIDE in plan else None)
    if found is None:
        raise NotFound(f"there is no version {name[:60]!r}; it is written as {plan_name(plan)[:40] or 'pro'}@1")
    return found


# -- files ------------------------------------------------------------------------------------------------------------


def _file(catalogue: Catalogue, rows: Iterable[Row]) -> Rows:
    return Rows(("", *catalogue.plans), [(each.name, *("; ".join(cell) for cell in each.cells)) for each in rows])


def _versions_file(versions: Iterable[Version]) -> Rows:
    header = ("plan", "version", "price", "stored_at", "newest")
    return Rows(header, [(each.plan, each.version, each.price, each.stored_at, each.is_newest) for each in versions])


LINK = Link("plans", "Plans", plans)
