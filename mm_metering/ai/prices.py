"""What a call cost the host, in nano-dollars: by the host's own prices, or else by the public price list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, Protocol

from mm_metering.ai.defects import Defects
from mm_metering.ai.names import Name, parse
from mm_metering.ai.rates import PER_NANO, Rate, Rates, TokenRates, rate_of, with_fallbacks
from mm_metering.ai.usage import Usage
from mm_metering.core.money import EXACT, Amount, exact, non_negative
from mm_metering.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from mm_metering.ai.price_list import PriceList

MAX_MODELS: Final = 1_024
"""So many models, with their tiers, are kept as rates."""
_PER_MILLION: Final = (
    *("input", "cached", "cache_write", "cache_write_1h", "audio_input", "cached_audio", "image_input"),
    *("output", "reasoning", "audio_output", "image_output"),
)
_PER: Final = {**dict.fromkeys(_PER_MILLION, 1_000_000), "audio_hour": 3_600, "web_search": 1, "call": 1}
_UNITS: Final = {"audio_hour": "audio_seconds", "web_search": "web_searches", "call": "calls"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A host's own price of a model, in dollars: per million tokens, per ``audio_hour``, ``web_search`` and ``call``.

    It holds from ``since`` on (UTC, that day included), or always; with ``service_tier`` or ``speed`` only for calls of
    that tier or speed, and without for all that have no price of their own. What has no price is billed as what it is
    part of where that cannot be too little (reasoning, cached input, images as input), and else makes a call unpriced.
    """

    model: str
    input: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_input: Decimal | None = None
    cached_audio: Decimal | None = None
    image_input: Decimal | None = None
    output: Decimal | None = None
    reasoning: Decimal | None = None
    audio_output: Decimal | None = None
    image_output: Decimal | None = None
    audio_hour: Decimal | None = None
    web_search: Decimal | None = None
    call: Decimal | None = None
    since: date | None = None
    service_tier: str | None = None
    speed: str | None = None
    source: str = "own"

    def __post_init__(self) -> None:
        if parse(self.model) is None:
            raise InvalidInput("model", f"{self.model!r:.40} is no model's name: 1 to 200 printable characters")
        for unit in _PER:
            if getattr(self, unit) is not None:
                object.__setattr__(self, unit, non_negative(getattr(self, unit), unit))
        if all(getattr(self, unit) is None for unit in _PER):
            raise InvalidInput("price", f"{self.model} has none; give at least input= and output=")
        if isinstance(self.since, datetime):
            raise InvalidInput("since", "is a day, such as date(2026, 11, 1); prices change at midnight UTC")

    @classmethod
    def per_token(cls, model: str, amount: Amount, *, source: str = "catalogue") -> Price:
        """The same for every token that is read or produced, as the plans file has it in ``[ai.prices]``."""
        with localcontext(EXACT):
            price = exact(amount, f"ai.prices.{model}") * 1_000_000
        return cls(
            model=model,
            source=source,
            input=price,
            cached=price,
            cache_write=price,
            cache_write_1h=price,
            audio_input=price,
            output=price,
            audio_output=price,
            image_output=price,
        )

    @property
    def rates(self) -> Rates:
        prices = {unit: getattr(self, unit) for unit in _PER}
        by_unit = {
            _UNITS.get(unit, unit): Rate(rate_of(price, per=_PER[unit]))
            for unit, price in prices.items()
            if price is not None
        }
        return Rates(by_unit=with_fallbacks(by_unit), source=f"{self.source} {self.model}", dated=self.since)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost: ``nanos`` of a dollar, rounded up once.

    "unpriced": something that was used has no price, and ``missing`` says what; ``nanos`` is then only what the rest
    came to, and no cost. ``source`` and ``dated`` say whose prices these are and since when they hold: kept with the
    cost, since lists change and most of theirs have no date.
    """

    nanos: int
    source: str
    dated: date | None
    status: Literal["priced", "unpriced"]
    missing: tuple[str, ...] = ()


class _Priced(Protocol):
    """Something whose rates depend on when."""

    def rates(self, at: datetime) -> Rates: ...


class Prices:
    """Own prices first, then the list of the package genai-prices (the extra ``ai``), if ``price_list`` is not False.

    ``allowed``: the models that may be looked up at all, with their dated snapshots; None for any. A name is only ever
    looked up once it could be one, and the number of those that are kept is bounded. Safe to share between threads.
    """

    def __init__(
        self, own: Iterable[Price] = (), *, price_list: bool = True, allowed: Collection[str] | None = None
    ) -> None:
        self._own = _by_name(own)
        self.defects: Defects = Defects()
        self._uses_list = price_list
        self._list: PriceList | None = None
        self._missing: MissingExtra | None = None
        self._loading = Lock()
        self._allowed = None if allowed is None else frozenset(_forms(allowed))
        self._found = lru_cache(maxsize=MAX_MODELS)(self._find)

    @classmethod
    def of_catalogue(
        cls, ai_prices: Mapping[str, Decimal], *, price_list: bool = True, allowed: Collection[str] | None = None
    ) -> Prices:
        """With the plans file's prices per token."""
        own = [Price.per_token(model, price) for model, price in ai_prices.items()]
        return cls(own, price_list=price_list, allowed=allowed)

    def load(self) -> None:
        """Reads the list, once, for those who do not want the first call to wait for it: it takes 0.2 to 0.7 s, from
        any thread. MissingExtra without the package, each time."""
        if not self._uses_list or self._list is not None:
            return
        with self._loading:
            if self._missing is not None:
                raise self._missing.with_traceback(None)
            if self._list is None:
                try:
                    self._list = _price_list()
                except MissingExtra as error:
                    self._missing = error
                    raise

    def cost(self, usage: Usage, at: datetime) -> Cost:
        """What it cost at that time: the call and its lines, each by its own model. It does not raise for any usage."""
        total, sources, missing = 0, dict[str, None](), list[str]()
        dated: date | None = None
        for part in usage.parts:
            mark = f"{part.part}: " if part.part else ""
            try:
                rates = self._rates(part, at)
            except MissingExtra:
                rates = None
            if rates is None:
                missing.append(f"{mark}model")
                continue
            amount, without = rates.sum(part)
            total += amount
            missing += (mark + unit for unit in without)
            sources[rates.source] = None
            dated = rates.dated if part is usage else dated
        status: Literal["priced", "unpriced"] = "unpriced" if missing else "priced"
        return Cost(-(-total // PER_NANO), " + ".join(sources) or "none", dated, status, tuple(missing))

    def token_rates(
        self,
        model: str,
        input_tokens: int,
        at: datetime,
        *,
        provider: str | None = None,
        service_tier: str | None = None,
        speed: str | None = None,
    ) -> TokenRates | None:
        """The rates of a hold for so much input, as whole numbers; None for a model without a price. MissingExtra if
        the price list is needed and not installed."""
        asked = Usage(model=model, provider=provider, service_tier=service_tier, speed=speed)
        rates = self._rates(asked, at)
        return None if rates is None else rates.tokens(input_tokens)

    def worst_case(
        self, model: str, input_tokens: int, max_output_tokens: int, at: datetime, *, provider: str | None = None
    ) -> int | None:
        """Nano-dollars to hold for a call; None for a model without a price. MissingExtra as for ``token_rates``."""
        rates = self.token_rates(model, input_tokens, at, provider=provider)
        return None if rates is None else rates.worst_case(input_tokens, max_output_tokens)

    def affordable_output(
        self, model: str, input_tokens: int, nanos: int, at: datetime, *, provider: str | None = None
    ) -> int | None:
        """The most output tokens whose worst case is within ``nanos``; None for a model without a price."""
        rates = self.token_rates(model, input_tokens, at, provider=provider)
        return None if rates is None else rates.affordable_output(input_tokens, nanos)

    def _rates(self, usage: Usage, at: datetime) -> Rates | None:
        if at.tzinfo is None:
            raise InvalidInput("at", f"{at.isoformat()} has no time zone; pass the clock's now()")
        found = self._found(usage.model, usage.asked_model, usage.provider, usage.service_tier, usage.speed)
        return None if found is None else found.rates(at.astimezone(UTC))

    def _find(
        self, model: str | None, asked: str | None, provider: str | None, tier: str | None, speed: str | None
    ) -> _Priced | None:
        """The reply's own model or else the asked one: in the host's prices, then in the list."""
        parsed = (parse(each) for each in dict.fromkeys((model, asked)))
        names = [name for name in parsed if name is not None and self._is_allowed(name)]
        for name in names:
            prices = next((self._own[form] for form in name.forms if form in self._own), None)
            if prices is not None:
                return _Own(prices, tier=tier, speed=speed)
        if not names:
            return None
        self.load()
        if self._list is None:
            return None
        listed = (self._list.find(name, provider=provider, tier=tier, speed=speed) for name in names)
        return next((each for each in listed if each is not None), None)

    def _is_allowed(self, name: Name) -> bool:
        return self._allowed is None or not self._allowed.isdisjoint(name.forms)


class _Own:
    """A host's prices of one model, for one service tier and speed."""

    def __init__(self, prices: list[Price], *, tier: str | None, speed: str | None) -> None:
        fitting = [each for each in prices if each.service_tier in (None, tier) and each.speed in (None, speed)]
        order = sorted(fitting, key=lambda each: (_specific(each), each.since or date.min))
        self._rates = [(each.since or date.min, each.rates) for each in reversed(order)]

    def rates(self, at: datetime) -> Rates:
        day = at.date()
        for since, rates in self._rates:
            if since <= day:
                return rates
        return _NO_RATES


_NO_RATES: Final = Rates(by_unit={}, source="own", unmet=("a price for that day, tier and speed",))


def _price_list() -> PriceList:
    from mm_metering.ai.price_list import PriceList

    return PriceList()


def _specific(price: Price) -> int:
    return (price.service_tier is not None) + (price.speed is not None)


def _by_name(own: Iterable[Price]) -> dict[str, list[Price]]:
    found: dict[str, list[Price]] = {}
    for price in own:
        found.setdefault(price.model.strip().lower(), []).append(price)
    return found


def _forms(names: Iterable[str]) -> Iterable[str]:
    """Allowed names as they are compared: each as it was written, and without a router's prefix."""
    for each in names:
        name = parse(each)
        if name is not None:
            yield from (name.full, name.bare, name.vendors)
