"""How ``mm-metering plans shadow`` shows what plans would have decided that are not in force yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from mm_metering.cli.show import console, say, table
from mm_metering.core.money import Money, plain
from mm_metering.core.periods import Window
from mm_metering.core.plan_words import limit_name
from mm_metering.core.shadow_report import LimitShadow, ShadowReport, TenantShadow
from mm_metering.core.simulation import Amounts, Units

if TYPE_CHECKING:
    from rich.console import Console

SHOWN: Final = 20
"""Tenants in a table; ``--json`` has all of them."""
NO_LIMIT: Final = "none"
COLUMNS: Final = (
    *("tenant", "plan", "limit", ">now", ">then", ">used", ">refused"),
    *(">refused then", ">in the month", ">let in then", "since"),
)


def show(found: ShadowReport, file: str) -> None:
    """Who would be refused or let in, whose bill would be another, and what to know about that."""
    screen = console()
    say(screen, f"{found.as_of:%Y-%m-%d %H:%M} UTC under {file}: tenants compared: {found.compared:,}")
    say(screen, f"would be refused what was let in: {found.blocked:,}{_units(found.refused_then)}")
    say(screen, f"would be let in what was refused: {found.freed:,}{_units(found.allowed_then)}")
    _show_limits(screen, [each for each in found.tenants if each.limits][:SHOWN])
    _show_bills(screen, found)
    for note in _notes(found):
        say(screen, note)


def _show_limits(screen: Console, tenants: Sequence[TenantShadow]) -> None:
    rows = table(*COLUMNS)
    for tenant in tenants:
        for limit in tenant.limits:
            rows.add_row(*_limit(tenant, limit))
    if tenants:
        screen.print(rows)


def _show_bills(screen: Console, found: ShadowReport) -> None:
    is_one = found.compared == 1
    billed = [each for each in found.tenants if is_one or each.difference or each.difference_with_refused][:SHOWN]
    rows = table("month so far", "plan", f">now, {found.currency}", ">then", ">difference", ">with refused demand")
    for tenant in billed:
        rows.add_row(tenant.tenant, tenant.plan, *_money(tenant))
    if not is_one:
        rows.add_section()
        rows.add_row("all", "", *_money(found.total))
    screen.print(rows)


def _limit(tenant: TenantShadow, limit: LimitShadow) -> Iterator[str]:
    yield from (tenant.tenant, tenant.plan, limit_name(limit.meter, Window(limit.window)))
    yield from (NO_LIMIT if most is None else _amount(most) for most in (limit.limit_now, limit.limit_then))
    yield from map(_amount, (limit.used, limit.refused, limit.refused_then, limit.refused_then_month))
    yield _amount(limit.allowed_then)
    yield "" if limit.since is None else f"{limit.since:%d %b %H:%M:%S}"


def _amount(units: int | Money) -> str:
    return plain(units) if isinstance(units, Decimal) else f"{units:,}"


def _units(units: Units) -> str:
    some = [f"{meter} {_amount(each)}" for meter, each in units.items() if each]
    return f" ({', '.join(some)})" if some else ""


def _money(amounts: Amounts) -> Iterator[str]:
    yield from map(plain, (amounts.before, amounts.after, amounts.difference, amounts.with_refused))


def _notes(found: ShadowReport) -> Iterator[str]:
    more = len([each for each in found.tenants if each.limits]) - SHOWN
    if more > 0:
        yield f"{more:,} tenants more are in --json"
    if found.allowed_then:
        yield "tries again count each time, so what would be let in is the most it can be"
    if estimated := sum(each.estimated for each in found.tenants):
        yield f"tenants with too many facts to look at each: {estimated:,}; theirs is counted by day, without rates"
    for plan, tenants in found.missing_plans.items():
        yield f"plan {plan} is not in the file: tenants that keep it as it is: {tenants:,}"
    if found.own_plans:
        yield f"tenants with a version of their own, which they keep: {found.own_plans:,}"
    if found.left_out:
        yield f"left out, without a plan or anything to be billed: {found.left_out:,}"
