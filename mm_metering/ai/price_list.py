"""The public price list, as the package genai-prices brings it: the one file that knows its types.

The package finds models through caches that grow with every name asked for, and its prices are one object for the
whole process that others may replace. So its models are looked for here, in a copy of its list, and nothing of it is
called that keeps anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from mm_metering.ai.names import Name
from mm_metering.ai.rates import Rate, Rates, rate_of, with_fallbacks
from mm_metering.errors import MissingExtra

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, PriceVariant, Provider, TieredPrices

MAX_MOMENTS: Final = 64
"""So many states of a model's dates are kept as rates; a model has fewer."""

_UNITS: Final[Mapping[str, tuple[str, int]]] = {
    "input_mtok": ("input", 1_000_000),
    "cache_read_mtok": ("cached", 1_000_000),
    "cache_write_mtok": ("cache_write", 1_000_000),
    "cache_write_5m_mtok": ("cache_write", 1_000_000),
    "cache_write_1h_mtok": ("cache_write_1h", 1_000_000),
    "input_audio_mtok": ("audio_input", 1_000_000),
    "cache_audio_read_mtok": ("cached_audio", 1_000_000),
    "input_image_mtok": ("image_input", 1_000_000),
    "output_mtok": ("output", 1_000_000),
    "output_reasoning_mtok": ("reasoning", 1_000_000),
    "output_audio_mtok": ("audio_output", 1_000_000),
    "output_image_mtok": ("image_output", 1_000_000),
    "audio_hours": ("audio_seconds", 3_600),
    "input_audio_hours": ("audio_seconds", 3_600),
    "web_searches_kcount": ("web_searches", 1_000),
    "requests_kcount": ("calls", 1_000),
}
"""The list's words, with how many units a price is for. Prices for anything else are of no use here."""
_USUAL_TIERS: Final = frozenset(
    {"default", "standard", "auto", "on_demand", "scale", "provisioned_throughput", "reserved"}
)
"""At the usual price, or paid for beforehand."""
_CHEAPER_TIERS: Final = frozenset({"flex", "batch"})
"""The usual price is never too low for these."""
_MAKERS: Final = (
    *("openai", "anthropic", "google", "mistral", "cohere", "voyageai", "deepseek", "x-ai", "moonshotai", "perplexity"),
)
"""Asked last, since the list does not know each of their models by its name alone."""


class PriceList:
    """Prices that hold until the package is installed anew."""

    def __init__(self) -> None:
        """MissingExtra without the package. Takes about 0.2 s, once per process."""
        try:
            from genai_prices import __version__
            from genai_prices.data import providers
        except ImportError as error:
            raise MissingExtra("ai", "the price list of AI models") from error
        self.source: str = f"genai-prices {__version__}"
        self._providers = list(providers)
        self._by_id = {provider.id: provider for provider in providers}
        self._resellers = {each.id for each in providers if any("/" in model.id for model in each.models)}

    def find(self, name: Name, *, provider: str | None, tier: str | None, speed: str | None) -> ListedModel | None:
        """The model of that name: its own provider's, or else that of ``provider``, or else of whoever makes it."""
        for seller, called in self._candidates(name, provider):
            model = seller.find_model(called, all_providers=self._providers)
            if model is not None:
                return ListedModel(model, seller, source=self.source, tier=tier, speed=speed)
        return None

    def _candidates(self, name: Name, provider: str | None) -> Iterator[tuple[Provider, str]]:
        if provider in self._resellers:  # whose own names are others' with a slash
            yield self._by_id[provider], name.full
        if name.provider in self._by_id:
            yield self._by_id[name.provider], name.bare
            if name.provider != "aws":
                return
        elif provider in self._by_id:
            yield self._by_id[provider], name.bare
        for called in dict.fromkeys((name.bare, name.vendors)):
            for seller in self._providers:
                if seller.model_match is not None and seller.model_match.is_match(called):
                    yield seller, called
            yield from ((self._by_id[maker], called) for maker in _MAKERS if maker in self._by_id)


class ListedModel:
    """A model, for one service tier and speed. Its prices may depend on the day, and on the time of day."""

    def __init__(self, model: ModelInfo, seller: Provider, *, source: str, tier: str | None, speed: str | None) -> None:
        self._model = model
        self._seller = seller
        self._source = f"{source} {seller.id}/{model.id}"
        self._wanted = tuple(_wanted(seller.id, tier, speed))
        self._is_own = any(each is model for each in seller.models)
        self._kept: dict[tuple[bool, ...], Rates] = {}

    def rates(self, at: datetime) -> Rates:
        """The rates that hold at that moment."""
        moment = tuple(each.constraint is None or each.constraint.active(at) for each in self._dated())
        rates = self._kept.get(moment)
        if rates is None:
            if len(self._kept) >= MAX_MOMENTS:
                self._kept.clear()
            rates = self._kept[moment] = self._resolve(at)
        return rates

    def _dated(self) -> Iterator[ConditionalPrice | PriceVariant]:
        if isinstance(self._model.prices, list):
            yield from self._model.prices
        if self._wanted:
            yield from self._model.price_variants or ()

    def _resolve(self, at: datetime) -> Rates:
        prices, dated = self._usual(at)
        by_unit, unmet = _rates(prices), list[str]()
        for when, label, is_needed in self._wanted:
            variant = self._variant(when, at)
            if variant is not None:
                by_unit |= _rates(variant)
            elif is_needed:
                unmet.append(label)
        if not any(rate.base for rate in by_unit.values()):
            by_unit = {}  # a model whose prices are all zero is one whose prices nobody has looked up
        found = with_fallbacks(by_unit, is_one_price_for_all=self._seller.id == "google")
        return Rates(by_unit=found, source=self._source, dated=dated, unmet=tuple(unmet))

    def _usual(self, at: datetime) -> tuple[ModelPrice, date | None]:
        """The last of the prices whose time it is, and its date."""
        prices = self._model.prices
        if not isinstance(prices, list):
            return prices, None
        active = [each for each in prices if each.constraint is None or each.constraint.active(at)]
        if not active:
            return self._model.get_prices(at), None
        return active[-1].prices, getattr(active[-1].constraint, "start_date", None)

    def _variant(self, when: Mapping[str, str], at: datetime) -> ModelPrice | None:
        if not self._is_own:  # variants are its maker's, and another sells it
            return None
        for each in self._model.price_variants or ():
            if each.when == when and (each.constraint is None or each.constraint.active(at)):
                return each.prices
        return None


def _wanted(seller: str, tier: str | None, speed: str | None) -> Iterator[tuple[dict[str, str], str, bool]]:
    """The variants to look for, what they are called, and whether the usual price would be too low."""
    if tier == "batch":
        yield {"processing": "batch"}, "service_tier=batch", False
    elif tier == "priority" and seller == "anthropic":
        pass  # tokens of a commitment, at or below the usual price
    elif tier is not None and tier not in _USUAL_TIERS:
        yield {"service_tier": tier}, f"service_tier={tier}", tier not in _CHEAPER_TIERS
    if speed not in (None, "standard"):
        yield {"speed": str(speed)}, f"speed={speed}", True


def _rates(prices: ModelPrice) -> dict[str, Rate]:
    found = dict[str, Rate]()
    for key, (unit, per) in _UNITS.items():
        price: Decimal | TieredPrices | None = vars(prices).get(key)
        if price is None:
            continue
        if isinstance(price, Decimal):
            found[unit] = Rate(rate_of(price, per=per))
        else:
            steps = tuple((tier.start, rate_of(tier.price, per=per)) for tier in price.tiers)
            found[unit] = Rate(rate_of(price.base, per=per), steps)
    return found
