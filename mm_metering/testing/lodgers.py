"""Who lives in a furnished house, and what they use: events by weekday, hour and growth, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Final, NamedTuple

from mm_metering.core.catalogue import Catalogue, Meter, Plan
from mm_metering.core.events import UsageEvent
from mm_metering.core.periods import Window, zone

DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
MIDDLE, TOP = 1, 2


class Lodger(NamedTuple):
    """A tenant. ``rank``: of its plan, by price. ``share``: how much of its limits it uses on a working day at the end.
    ``grown``: how much of that at the beginning. ``since``: days ago; None: from the first day on."""

    id: str
    rank: int = 0
    zone: str = "UTC"
    share: float = 0.4
    grown: float = 0.7
    since: int | None = None
    trial_days: int | None = None
    card: str = ""


LODGERS: Final = (
    Lodger("acme", MIDDLE, "Europe/Berlin", 0.62, 0.5, card="pm_card_visa"),
    Lodger("brightwater", TOP, "America/New_York", 0.5, 0.8, card="pm_card_mastercard"),
    Lodger("corvid-press", MIDDLE, "Europe/London", 0.9, 0.6),
    Lodger("dune-logistics", MIDDLE, "Asia/Dubai", 1.2, 0.8, card="pm_card_visa"),
    Lodger("elmwood", 0, "America/Chicago", 0.12),
    Lodger("fable-games", TOP, "Asia/Tokyo", 0.7, 0.4, card="pm_card_visa"),
    Lodger("granary", 0, "Europe/Paris", 0.06),
    Lodger("harbour", 0, "Europe/Lisbon", 0.1, 0.9, card="pm_card_visa"),
    Lodger("inkwell", MIDDLE, "Australia/Sydney", 0.4, since=6, trial_days=14),
    Lodger("juniper", MIDDLE, "UTC", 0.25, card="pm_card_visa"),
    Lodger("kestrel", MIDDLE, "America/Sao_Paulo", 0.3, card="pm_card_visa"),
    Lodger("larch", MIDDLE, since=2, share=0),
)
HOSTILE: Final = (
    '<script>alert("owned")</script>',
    "=SUM(A1:A9)",
    "a/b?c#d:{}&e=%2F..",
    "\u202e\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd\u202c",
    "🧾💸 日本語",
    "W" * 256,
)
"""Names that a page, a link or a spreadsheet could take for something else; one of them is written from the right."""
AI_CALL, AI_TOKEN = "ai_call", "ai_token"
ROUTES: Final = ("GET /v1/orders", "GET /v1/orders/{id}", "POST /v1/orders", "POST /v1/search", "GET /v1/stock")
RESOURCES: Final[dict[str, tuple[str, ...]]] = {
    "api_call": ROUTES,
    "export": ("report_pdf", "report_csv", "orders_csv"),
}
MODELS: Final = (("gpt-4", "0.031"), ("claude-3-haiku", "0.0021"), ("gpt-3.5-turbo", "0.0014"))
"""Each with what a call costs, in USD."""
OFTEN: Final = (5, 3, 2)
TOKENS: Final = (350, 1_400)
"""Of a call."""
NOT_BY_HAND: Final = ("webhook_delivery", AI_TOKEN)
"""Types of events that follow from others."""
USUAL: Final = {"api_call": 2_000, AI_CALL: 120}
"""Uses of a day where a plan has no limit to go by; RARE of all else."""
RARE: Final = 4
PART: Final = {AI_CALL: 0.4}
"""What the share is taken times."""
BUSY: Final = (*(0.1,) * 7, 0.5, 1.0, *(1.6,) * 8, 1.0, 0.7, *(0.4,) * 3, 0.2, 0.1)
"""How busy each hour of a tenant's day is."""
SATURDAY: Final = 5
PARTS: Final = ((11, 24), (1, 8), (0, 2))
"""From how many days ago on a day's use is written down in parts of how many hours."""
WEEKEND: Final = 0.35


def lodgers(count: int, *, hostile: bool) -> Iterator[Lodger]:
    """The named ones first."""
    yield from LODGERS[:count]
    for number in range(len(LODGERS), count):
        yield Lodger(f"tenant-{number + 1:04}", number % 3, share=0.1 + number % 7 / 20)
    if hostile:
        yield from (Lodger(name, at % 3, share=0.1) for at, name in enumerate(HOSTILE))


class Habits:
    """What lodgers use of a catalogue whose plans of rank 0, 1 and 2 are ``plans``, over so many days up to ``now``."""

    def __init__(self, catalogue: Catalogue, plans: Sequence[Plan], now: datetime, days: int, random: Random) -> None:
        self._meters: Mapping[str, Meter] = catalogue.meters
        self._plans = plans
        self._now = now
        self._days = max(1, days)
        self._random = random
        summed = (each.event for each in catalogue.meters.values() if each.aggregation == "sum")
        self._events = [each for each in dict.fromkeys(summed) if each and each not in NOT_BY_HAND]
        self._has_tokens = any(each.event == AI_TOKEN for each in catalogue.meters.values())

    def uses(self, of: Sequence[Lodger], ago: int) -> Iterator[UsageEvent]:
        """Of the 24 hours up to so many days ago, in parts that are smaller the later they are."""
        hours = next(part for days, part in PARTS if ago >= days)
        for number, lodger in enumerate(of):
            if not lodger.share or (lodger.since is not None and ago >= lodger.since):
                continue
            grown = lodger.grown + (1 - lodger.grown) * (1 - ago / self._days)
            for back in range(24, 0, -hours):
                at = self._now - ago * DAY - back * HOUR
                busy = lodger.share * grown * rhythm(lodger.zone, at, hours)
                for event in self._events:
                    daily = self.daily(lodger, event) * PART.get(event, 1)
                    count = int(daily * busy * self._random.uniform(0.9, 1.05) + self._random.random())
                    if count:
                        yield from self._use(lodger.id, event, count, at, f"{number}/{event}/{at:%Y%m%dT%H}")

    def daily(self, lodger: Lodger, event: str) -> float:
        """What its plan lets it use of that in a day."""
        for meter, limits in self._plans[lodger.rank].limits.items():
            for limit in limits if self._meters[meter].event == event else ():
                if limit.maximum and limit.unit != "money" and limit.window in (Window.DAY, Window.MONTH):
                    return limit.maximum / (1 if limit.window is Window.DAY else 30)
        return USUAL.get(event, RARE)

    def _use(self, tenant: str, event: str, count: int, at: datetime, name: str) -> Iterator[UsageEvent]:
        models = RESOURCES.get(event, (event,)) if event != AI_CALL else [model for model, _ in MODELS]
        resource = self._random.choices(models, OFTEN if event == AI_CALL else None)[0]
        made = UsageEvent(
            tenant=tenant,
            event_type=event,
            resource=resource,
            quantity=count,
            cost=Decimal(dict(MODELS)[resource]) * count if event == AI_CALL else None,
            occurred_at=at + self._random.randrange(3_000) * timedelta(seconds=1),
            id=name,
        )
        yield made
        if event == AI_CALL and self._has_tokens:
            tokens = {"event_type": AI_TOKEN, "quantity": count * self._random.randint(*TOKENS), "cost": None}
            yield UsageEvent(**made.model_dump() | tokens | {"id": f"{name}/tokens"})


def rhythm(name: str, at: datetime, hours: int) -> float:
    """The part of a working day's use that these hours have in a zone."""
    local = [(at + hour * HOUR).astimezone(zone(name)) for hour in range(hours)]
    return sum(BUSY[each.hour] * (WEEKEND if each.weekday() >= SATURDAY else 1) for each in local) / sum(BUSY)
