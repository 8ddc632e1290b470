"""Rating tests that read like a statement: ``@billing_case`` runs the statement in a test's docstring.

    zone      America/New_York                    UTC if absent
    plan      pro                                 in force from the month's start
    plan      pro from 2024-01-20                 at first: the sign-up; later ones are changes of plan
    usage     2024-01-15  api_calls  10,250       at noon of that local day
    usage     2024-01-15T03:00Z  api_calls  5     at that instant
    usage     2024-01-01..2024-01-30  api_calls  8,000           on each of the days
    usage     2024-01-15  ai_tokens(gpt-4)  1  x 1,000           as 1,000 events
    period    2024-01                             the month of the first usage or change of plan, if absent
    invoice   250 api_calls x 0.01 = 2.50 USD     all overage lines, in order
    invoice   1,500 api_calls = 14.00 USD         overage through tiers, packages or at a flat price
    invoice   proration = -51.10 USD              all lines of that kind, if one is listed
    total     101.50 USD

The facts are shuffled, split into cells in random batches, and rated; several times, always with the same outcome.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal, localcontext
from types import FunctionType, ModuleType

from mm_metering import catalogues
from mm_metering.core import cells as folding
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Calendar, Cell, CellKey, CellSum, Segment
from mm_metering.core.facts import Count, Fact
from mm_metering.core.invoices import FEES, Invoice, InvoiceLine
from mm_metering.core.invoicing import draft
from mm_metering.core.periods import day_start, days_between, micros, period_span, zone
from mm_metering.core.pricing import TierUse
from mm_metering.core.rating import Terms
from mm_metering.core.tenancy import TenantRow

RESOURCES = {"api_call": "/v1/x", "ai_call": "gpt-4", "ai_token": "gpt-4", "export": "report_pdf"}
SHUFFLES = 4

_USAGE = re.compile(r"(\S+)\s+(\w+)(?:\((.+)\))?\s+([\d,]+)(?:\s+x\s+([\d,]+))?")
_OVERAGE = re.compile(r"([\d,]+) (\w+(?:\(.+\))?)(?: x ([\d.]+))? = ([\d.]+) [A-Z]{3}")
_OTHER = re.compile(r"(\w+) = (-?[\d.]+) [A-Z]{3}")


@dataclass
class Statement:
    """A parsed docstring."""

    zone: str = "UTC"
    plans: list[tuple[str, str]] = field(default_factory=list)
    usage: list[tuple[str, str, str, int, int]] = field(default_factory=list)
    period: str = ""
    overage: list[tuple[int, str, Decimal | None, Decimal]] = field(default_factory=list)
    other: list[tuple[str, Decimal]] = field(default_factory=list)
    total: Decimal | None = None


def parse(text: str) -> Statement:
    """The statement in a docstring; AssertionError for a line that is not one."""
    found = Statement()
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        _read(found, word, rest.strip())
    first = [when for _, when in found.plans if when] + [when for when, *_ in found.usage]
    found.period = found.period or first[0][:7]
    return found


def _read(found: Statement, word: str, rest: str) -> None:
    if word == "zone":
        found.zone = rest
    elif word == "period":
        found.period = rest
    elif word == "plan":
        name, _, when = rest.partition(" from ")
        found.plans.append((name, when))
    elif word == "usage":
        when, meter, resource, quantity, events = _matched(_USAGE, rest)
        found.usage.append((when, meter, resource or "", _int(quantity), _int(events or "1")))
    elif word == "invoice" and (match := _OVERAGE.fullmatch(rest)):
        price = Decimal(match[3]) if match[3] else None
        found.overage.append((_int(match[1]), match[2], price, Decimal(match[4])))
    elif word == "invoice":
        kind, amount = _matched(_OTHER, rest)
        found.other.append((kind, Decimal(amount)))
    elif word == "total":
        found.total = Decimal(rest.split(maxsplit=1)[0])
    else:
        raise AssertionError(f"not a line of a statement: {word} {rest}")


def _matched(pattern: re.Pattern[str], text: str) -> Sequence[str]:
    match = pattern.fullmatch(text)
    assert match, f"not a line of a statement: {text}"
    return match.groups()


def _int(text: str) -> int:
    return int(text.replace(",", ""))


def instant(text: str, timezone: str) -> datetime:
    """ "2024-01-15T03:00Z", or noon of the local day "2024-01-15"."""
    if "T" in text:
        return datetime.fromisoformat(text)
    return datetime.combine(date.fromisoformat(text), time(12), zone(timezone)).astimezone(UTC)


def instants(text: str, timezone: str) -> list[datetime]:
    """The instants of "2024-01-01..2024-01-30", or the one of a single day or instant."""
    first, _, last = text.partition("..")
    if not last:
        return [instant(first, timezone)]
    days = days_between(date.fromisoformat(first), date.fromisoformat(last))
    return [instant(day.isoformat(), timezone) for day in days]


def statement_terms(statement: Statement, catalogue: Catalogue) -> Terms:
    """The tenant, with a segment per plan line, and version 1 of each plan."""
    segments = [Segment(micros(start_of(when, statement)), name, 1) for name, when in statement.plans]
    plans = {(name, 1): plan for name, plan in catalogue.plans.items()}
    row = TenantRow("t", statement.zone, segments[0].starts_us, 1, None, tuple(segments))
    return Terms(row, plans)


def start_of(when: str, statement: Statement) -> datetime:
    """The start of a local day, or an instant; of the month, if nothing is said."""
    tz = zone(statement.zone)
    if not when:
        return period_span(statement.period, tz).start
    return instant(when, statement.zone) if "T" in when else day_start(date.fromisoformat(when), tz)


def facts_of(statement: Statement, catalogue: Catalogue) -> list[Fact]:
    """One use fact per event, counted in every meter that it matches."""
    found: list[Fact] = []
    for when, meter_name, named_resource, quantity, events in statement.usage:
        event = catalogue.meters[meter_name].event or ""
        resource = named_resource or RESOURCES.get(event, "x")
        for moment in instants(when, statement.zone):
            for _ in range(events):
                found.append(use_fact(catalogue, f"f{len(found)}", moment, event, resource=resource, quantity=quantity))
    return found


def use_fact(
    catalogue: Catalogue,
    fact_id: str,
    moment: datetime,
    event: str,
    *,
    resource: str,
    quantity: int,
    cost_nanos: int = 0,
) -> Fact:
    """A fact as the gate makes it: it counts in every meter that its event and resource match."""
    counts = tuple(
        Count(meter.name, "", cost_nanos if meter.unit == "money" else quantity)
        for meter in catalogue.meters_of(event, resource)
    )
    return Fact(fact_id, micros(moment), "use", "t", event, resource, quantity, cost_nanos, counts)


def folded(facts: Iterable[Fact], row: TenantRow, rng: random.Random) -> list[Cell]:
    """The facts' cells as a ledger comes to them: in any order, batch by batch, each batch with a new calendar."""
    left = list(facts)
    rng.shuffle(left)
    total: dict[CellKey, CellSum] = {}
    while left:
        size = rng.randint(1, len(left))
        batch, left = left[:size], left[size:]
        _merge(total, batch, Calendar(row.timezone, row.segments))
    found = [Cell(key, cell, 1) for key, cell in total.items()]
    rng.shuffle(found)
    return found


def _merge(total: dict[CellKey, CellSum], batch: Iterable[Fact], calendar: Calendar) -> None:
    part: dict[CellKey, CellSum] = {}
    for fact in batch:
        folding.add(part, fact, calendar)
    folding.merge(total, part)


def invoice_of(statement: Statement, catalogue: Catalogue, rng: random.Random) -> Invoice:
    terms = statement_terms(statement, catalogue)
    cells = folded(facts_of(statement, catalogue), terms.tenant, rng)
    return draft(terms, statement.period, cells, currency=catalogue.currency)


def check(statement: Statement, invoice: Invoice) -> None:
    """The invoice says what the statement says, and each line follows from its explanation."""
    lines = [line for line in invoice.lines if line.kind == "overage"]
    shown = [(line.quantity, _described(line), _unit_price(line), line.amount) for line in lines]
    if statement.overage or not statement.other:
        assert shown == statement.overage, shown
    for kind in {kind for kind, _ in statement.other}:
        wanted = [amount for each, amount in statement.other if each == kind]
        amounts = [line.amount for line in invoice.lines if line.kind == kind]
        assert amounts == wanted, (kind, amounts)
    if statement.total is not None:
        assert invoice.total == statement.total, invoice.total
    check_explained(invoice)


def _described(line: InvoiceLine) -> str:
    return f"{line.meter}({line.resource})" if line.resource else str(line.meter)


def _unit_price(line: InvoiceLine) -> Decimal | None:
    return None if line.explanation and line.explanation.tiers else line.unit_price


def check_explained(invoice: Invoice) -> None:
    """Every line can be computed again from its explanation alone, and the total from the lines."""
    with localcontext(prec=80):
        _check_explained(invoice)


def _check_explained(invoice: Invoice) -> None:
    cent = Decimal("0.01")
    assert invoice.total == sum(line.amount for line in invoice.lines)
    for line in invoice.lines:
        why = line.explanation
        assert why is not None
        if line.kind == "overage":
            for window in why.windows:
                past = max(0, window.used - max(window.allowance, window.before))
                assert window.overage == past - window.unbilled > 0
            units = sum(window.overage for window in why.windows)
            assert (line.quantity, line.unit_price) == (units, why.unit_price)
            exact = explained_by_tiers(why.tiers, line) if why.tiers else units * why.unit_price
        else:
            assert why.share is not None or line.kind == "commitment"
            exact = why.unit_price * why.share.seconds / why.share.of_seconds if why.share else why.unit_price
            if line.kind == "commitment":
                exact -= sum(each.amount for each in invoice.lines if each.kind in FEES | {"overage"})
        assert line.amount == exact.quantize(cent, "ROUND_HALF_UP")
        if not why.tiers:
            assert line.amount == (line.quantity * line.unit_price).quantize(cent, "ROUND_HALF_UP")


def explained_by_tiers(tiers: Sequence[TierUse], line: InvoiceLine) -> Decimal:
    """The exact amount of a line, from what each tier says of itself."""
    assert sum(tier.quantity for tier in tiers) == line.quantity
    amounts = [math.ceil(tier.quantity / tier.package) * tier.unit_price for tier in tiers if tier.package]
    amounts += [tier.quantity * tier.unit_price + tier.flat for tier in tiers if not tier.package]
    assert amounts == [tier.amount for tier in tiers]
    assert line.unit_price == (sum(amounts, Decimal(0)) / line.quantity).quantize(Decimal("1e-12"), "ROUND_HALF_UP")
    return sum(amounts, Decimal(0))


Case = Callable[[Invoice], None]


def statements_of(module: ModuleType, catalogue: Catalogue) -> dict[str, Statement]:
    """The statements of a module's tests that are about this catalogue, by the names of the tests."""
    tests = {name: test for name, test in vars(module).items() if isinstance(test, FunctionType)}
    return {name: parse(test.__doc__ or "") for name, test in tests.items() if vars(test).get("catalogue") is catalogue}


def billing_case(test: Case | None = None, *, catalogue: Catalogue | None = None) -> Callable[..., object]:
    """Runs the statement in the docstring, with the shipped plans or another catalogue; then the test's own body."""

    def decorate(case: Case) -> Callable[[], None]:
        def run() -> None:
            statement = parse(case.__doc__ or "")
            invoices = [
                invoice_of(statement, catalogue or catalogues.seed, random.Random(seed)) for seed in range(SHUFFLES)
            ]
            assert all(invoice == invoices[0] for invoice in invoices)
            check(statement, invoices[0])
            case(invoices[0])

        run.__name__, run.__doc__, run.__module__ = case.__name__, case.__doc__, case.__module__
        vars(run)["catalogue"] = catalogue or catalogues.seed
        return run

    return decorate if test is None else decorate(test)


# -- catalogues, terms and facts of tests without a statement ---------------------------------------------------

JANUARY = datetime(2024, 1, 1, tzinfo=UTC)


def charge(limit: int, per: str, price: object, *, cap: str | None = None) -> dict[str, object]:
    return {"limit": limit, "per": per, "then": {"charge_up_to": cap} if cap else "charge", "unit_price": price}


def block(limit: int | str, per: str) -> dict[str, object]:
    return {"limit": limit, "per": per}


def catalogue_of(**plans: Mapping[str, object]) -> Catalogue:
    """The seed's meters and zone, with other plans: each a table of quotas, at no base price."""
    tree = {"currency": "USD", "meters": catalogues.seed.to_dict()["meters"]}
    prices = {name: {"price": "0.00", "quotas": quotas} for name, quotas in plans.items()}
    return Catalogue.from_dict(tree | {"plans": prices})


def seed_with(plan: str, **quotas: object) -> Catalogue:
    """The seed's catalogue with other quotas in one plan."""
    tree = catalogues.seed.to_dict()
    tree["plans"][plan]["quotas"] |= quotas
    return Catalogue.from_dict(tree)


def api_fact(number: int, moment: datetime, quantity: int) -> Fact:
    counts = (Count("api_calls", "", quantity),)
    return Fact(f"f{number}", micros(moment), "use", "t", "api_call", f"/v{number % 2}", quantity, 0, counts)


def terms_of(
    catalogue: Catalogue,
    plan: str,
    *,
    start: datetime = JANUARY,
    then: Sequence[tuple[int, str]] = (),
    timezone: str = "UTC",
) -> Terms:
    segments = (Segment(micros(start), plan, 1), *(Segment(at, name, 1) for at, name in then))
    row = TenantRow("t", timezone, micros(start), 1, None, segments)
    return Terms(row, {(name, 1): plan for name, plan in catalogue.plans.items()})
