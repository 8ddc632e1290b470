"""A call costs what its units cost, to the nano-dollar, or it says what has no price: never $0 by mistake."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any
from zoneinfo import ZoneInfo

import genai_prices.data
import genai_prices.data_snapshot
import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.ai import price_list
from mm_metering.ai import prices as module
from mm_metering.ai.names import parse
from mm_metering.ai.prices import Cost, Price, Prices
from mm_metering.ai.rates import PER_NANO, TokenRates, rate_of
from mm_metering.ai.replies import usage_of
from mm_metering.ai.usage import COUNTS, MAX_TOKENS, Usage
from mm_metering.core.catalogue import Catalogue
from mm_metering.errors import InvalidInput, InvalidMoney, MissingExtra
from tests.unit.ai_replies import CASES, a_round, chat, io, message, response, tokens

AT = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
LIST = Prices()
LISTED = f"genai-prices {genai_prices.__version__}"
MILLION = 1_000_000
DOLLAR = 1_000_000_000


def used(model: str, read: int = MILLION, wrote: int = MILLION, **more: Any) -> Usage:
    return Usage(model=model, input=read, output=wrote, **more)


def dollars(cost: Cost) -> Decimal:
    assert cost.status == "priced", cost.missing
    return Decimal(cost.nanos) / DOLLAR


def own(**more: Any) -> Price:
    return Price(**dict[str, Any]({"model": "m", "input": Decimal(2), "output": Decimal(8)} | more))


# The list: each trap of a price list once.


def test_the_list_prices_a_call() -> None:
    """gpt-4o: 1,000 x $2.50 + 100 x $10 per million = $0.0035."""
    cost = LIST.cost(used("gpt-4o", 1000, 100), AT)
    assert cost == Cost(3_500_000, f"{LISTED} openai/gpt-4o", None, "priced")


@pytest.mark.parametrize(
    ("name", "sold_by"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("GPT-4o", "openai/gpt-4o"),
        ("gpt-4 ", "openai/gpt-4"),
        (" gpt-4", "openai/gpt-4"),
        ("openai/gpt-4o", "openai/gpt-4o"),
        ("openai/ gpt-4o", "openai/gpt-4o"),
        ("openai:gpt-4o", "openai/gpt-4o"),
        ("azure/gpt-4o", "azure/gpt-4o"),
        ("openrouter/openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("groq/llama-3.3-70b-versatile", "groq/llama-3.3-70b-versatile"),
        ("xai/grok-4", "x-ai/grok-4-0709"),
        ("models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("gemini/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("projects/p/locations/l/publishers/google/models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("vertex_ai/claude-sonnet-4-5@20250929", "google/claude-sonnet-4-5"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "aws/regional.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (
            "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "aws/regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("bedrock/us-east-1/amazon.nova-lite-v1:0", "aws/amazon.nova-lite-v1:0"),
        ("arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0", "aws/amazon.nova-lite-v1:0"),
        ("mistral/mistral-large-latest", "mistral/mistral-large"),
        ("accounts/fireworks/models/deepseek-v3p2", "fireworks/deepseek-v3p2"),
        ("fireworks_ai/accounts/fireworks/models/deepseek-v3p2", "fireworks/deepseek-v3p2"),
        ("text-embedding-3-small", "openai/text-embedding-3-small"),
    ],
)
def test_a_name_is_found_behind_its_prefixes(name: str, sold_by: str) -> None:
    assert LIST.cost(used(name, 1, 0), AT).source == f"{LISTED} {sold_by}"


def test_a_resellers_names_are_its_own_where_it_is_known() -> None:
    """OpenRouter's replies name openai/gpt-4o too."""
    cost = LIST.cost(used("openai/gpt-4o", 1, 1, provider="openrouter"), AT)
    assert cost.source == f"{LISTED} openrouter/openai/gpt-4o"


def test_what_a_reply_does_not_name_is_priced_as_asked() -> None:
    """Bedrock's and some of Google's bodies have no model."""
    body = {"usage": {"inputTokens": MILLION, "outputTokens": 0, "totalTokens": MILLION}}
    usage = usage_of(body, model="amazon.nova-lite-v1:0")
    assert usage is not None
    assert dollars(LIST.cost(usage, AT)) == Decimal("0.06")
    nameless = usage_of(body)
    assert nameless is not None
    assert LIST.cost(nameless, AT).missing == ("model",)


def test_a_model_that_nobody_knows_is_priced_as_asked() -> None:
    usage = usage_of(chat(tokens(1000, 100), model="my-deployment"), model="gpt-4o")
    assert usage is not None
    assert dollars(LIST.cost(usage, AT)) == Decimal("0.0035")


@pytest.mark.parametrize(
    ("tier", "total"),
    [
        (None, "10"),
        ("default", "10"),
        ("auto", "10"),
        ("flex", "5"),
        ("priority", "17.5"),
        ("fast", "17.5"),
        ("batch", "5"),
    ],
)
def test_a_tier_has_its_own_price(tier: str | None, total: str) -> None:
    """o3, a million in and a million out."""
    usage = usage_of(response(io(MILLION, MILLION), model="o3", service_tier=tier))
    assert usage is not None
    assert dollars(LIST.cost(usage, AT)) == Decimal(total)


def test_a_speed_has_its_own_price() -> None:
    slow = usage_of(
        message({"input_tokens": MILLION, "output_tokens": MILLION, "speed": "standard"}, model="claude-opus-4-8")
    )
    fast = usage_of(
        message({"input_tokens": MILLION, "output_tokens": MILLION, "speed": "fast"}, model="claude-opus-4-8")
    )
    assert slow is not None
    assert fast is not None
    assert (dollars(LIST.cost(slow, AT)), dollars(LIST.cost(fast, AT))) == (Decimal(30), Decimal(60))


@pytest.mark.parametrize(
    ("model", "more", "missing"),
    [
        ("gpt-4", {"service_tier": "priority"}, ("service_tier=priority",)),
        ("gpt-4", {"service_tier": "turbo"}, ("service_tier=turbo",)),
        ("claude-sonnet-4-5", {"speed": "fast"}, ("speed=fast",)),
        ("azure/o3", {"service_tier": "priority"}, ("service_tier=priority",)),
        ("azure/gpt-5", {"service_tier": "priority"}, ("service_tier=priority",)),  # its maker's is not its seller's
    ],
)
def test_a_tier_that_may_cost_more_and_has_no_price_is_unpriced(
    model: str, more: dict[str, Any], missing: tuple[str, ...]
) -> None:
    cost = LIST.cost(used(model, **more), AT)
    assert (cost.status, cost.missing) == ("unpriced", missing)
    assert LIST.token_rates(model, 1, AT, **more) is None


@pytest.mark.parametrize(
    ("model", "tier", "total"),
    [
        ("gpt-4", "flex", "90"),
        ("gpt-4", "batch", "45"),
        ("gpt-4", "scale", "90"),
        ("claude-3-haiku-20240307", "priority", "1.5"),
    ],
)
def test_the_usual_price_is_enough_for_a_cheaper_tier(model: str, tier: str, total: str) -> None:
    assert dollars(LIST.cost(used(model, service_tier=tier), AT)) == Decimal(total)


def test_hidden_iterations_are_paid_for() -> None:
    """
    claude-sonnet-4-5  message     23,000 in x $3   1,000 out x $15  =  $0.084
                       compaction 180,000 in x $3   3,500 out x $15  =  $0.5925
    claude-opus-4-6    advisor        823 in x $5   1,612 out x $25  =  $0.044415
    """
    rounds = [
        a_round("compaction", 180_000, 3_500),
        a_round("message", 23_000, 1_000),
        a_round("advisor_message", 823, 1_612, model="claude-opus-4-6"),
    ]
    usage = usage_of(message({"input_tokens": 23_000, "output_tokens": 1_000, "iterations": rounds}))
    assert usage is not None
    cost = LIST.cost(usage, AT)
    assert dollars(cost) == Decimal("0.084") + Decimal("0.5925") + Decimal("0.044415")
    assert cost.source == f"{LISTED} anthropic/claude-sonnet-4-5 + {LISTED} anthropic/claude-opus-4-6"


@pytest.mark.parametrize(
    ("usage", "missing"),
    [
        (used("whisper-1"), ("input", "output")),
        (used("gpt-4o-audio-preview", audio_input=5), ("audio_input",)),
        (used("gpt-4o-audio-preview", audio_output=5), ("audio_output",)),
        (used("gemini-2.5-flash", image_output=5), ("image_output",)),
        (used("gpt-4", web_searches=1), ("web_searches",)),
        (used("openrouter/meta-llama/llama-3.3-70b-instruct:free"), ("input", "output")),
        (used("gpt-4o", lines=(used("nobodys", part="advisor_message"),)), ("advisor_message: model",)),
        (used("nobodys"), ("model",)),
        (used("text-embedding-3-small"), ("output",)),
    ],
)
def test_a_unit_without_a_price_makes_a_call_unpriced(usage: Usage, missing: tuple[str, ...]) -> None:
    cost = LIST.cost(usage, AT)
    assert (cost.status, cost.missing) == ("unpriced", missing)


@pytest.mark.parametrize(
    ("usage", "total"),
    [
        (used("gpt-4o", cached=400_000), "12"),  # 0.6 x 2.5 + 0.4 x 1.25 + 10
        (used("gpt-4o", reasoning=400_000), "12.5"),
        (used("gpt-4o", cache_write=400_000), "12.5"),  # its list prices what a cache gives, not what it keeps
        (used("gpt-4o", web_searches=3), "12.53"),
        (
            used("gpt-realtime", audio_input=500_000, cached=200_000, cached_audio=100_000),
            "30.48",
        ),  # 1.6 + 0.04 + 12.8 + 0.04 + 16
        (used("gpt-realtime", audio_output=500_000), "44"),
        (used("gpt-audio", 1000, 0, audio_input=1000, cached=500, cached_audio=500), "0.032"),
        (used("claude-opus-4-8", cache_write=400_000, cache_write_1h=200_000, cached=100_000), "31.05"),
        (used("gemini-2.5-pro", 100_000, 0, audio_input=50_000), "0.125"),  # Google has one price for all there
        (used("text-embedding-3-small", wrote=0), "0.02"),
        (Usage(model="whisper-1", audio_seconds=3600), "0.36"),
        (used("gpt-image-1", 1000, 4000, image_input=900, image_output=4000), "0.1695"),  # 0.0005 + 0.009 + 0.16
        (used("sonar-pro", 1000, 100, web_searches=2), "0.0185"),  # 0.003 + 0.0015 + 0.014 a call
        (used("claude-sonnet-4-5", 200_000, 1000), "0.615"),
        (used("claude-sonnet-4-5", 200_001, 1000), "1.222506"),  # past 200,000 all of it costs more
    ],
)
def test_each_unit_has_its_price(usage: Usage, total: str) -> None:
    assert dollars(LIST.cost(usage, AT)) == Decimal(total)


def test_the_hosts_price_for_a_kept_cache_is_not_the_price_of_its_reading() -> None:
    """Anthropic's list has a price for an hour; one that has none for it, but for five minutes, is not enough."""
    price = own(cached=Decimal(1), cache_write=Decimal(3))
    assert Prices([price]).cost(used("m", cache_write_1h=1), AT).missing == ("cache_write_1h",)


@pytest.mark.parametrize(
    ("at", "total", "dated"),
    [
        (datetime(2025, 6, 9, 23, 59, tzinfo=UTC), Decimal(50), None),
        (datetime(2025, 6, 10, tzinfo=UTC), Decimal(10), date(2025, 6, 10)),
    ],
)
def test_a_dated_price_holds_from_its_day(at: datetime, total: Decimal, dated: date | None) -> None:
    cost = LIST.cost(used("o3"), at)
    assert (dollars(cost), cost.dated) == (total, dated)


def test_days_are_utcs() -> None:
    """Two in the morning of 10 June in Berlin was still 9 June."""
    berlin = datetime(2025, 6, 10, 1, 59, tzinfo=ZoneInfo("Europe/Berlin"))
    assert dollars(LIST.cost(used("o3"), berlin)) == 50
    prices = Prices([own(), own(since=date(2025, 6, 10), output=Decimal(1))])
    assert dollars(prices.cost(used("m"), berlin)) == 10


def test_a_time_of_day_is_looked_at_with_each_call() -> None:
    """deepseek-chat was cheaper from 16:30 to 00:30 UTC, until September 2025."""
    noon, night = datetime(2025, 5, 1, 12, tzinfo=UTC), datetime(2025, 5, 1, 20, tzinfo=UTC)
    first = LIST.cost(used("deepseek/deepseek-chat"), noon).nanos
    assert LIST.cost(used("deepseek/deepseek-chat"), night).nanos < first
    assert LIST.cost(used("deepseek/deepseek-chat"), noon).nanos == first


def test_usage_that_contradicts_itself_is_priced() -> None:
    usage = usage_of(chat(tokens(10, 5, prompt_tokens_details={"cached_tokens": 40})))
    assert usage is not None
    assert LIST.cost(usage, AT).nanos == 10 * 2_500 + 40 * 1_250 + 5 * 10_000


def test_every_reply_of_the_table_that_has_usage_costs_something() -> None:
    """And nothing of it is priced at $0."""
    found = [usage_of(case.reply, **{"model": "gpt-4o"} | dict(case.asked)) for case in CASES if case.used]
    costs = [LIST.cost(usage, AT) for usage in found if usage is not None]
    assert len(costs) >= 90
    assert all(cost.nanos > 0 for cost in costs if cost.status == "priced")
    assert sum(cost.status == "priced" for cost in costs) >= 85


def test_bogus_names_grow_nothing() -> None:
    prices = Prices()
    for number in range(3_000):
        assert prices.cost(used(f"bogus-{number}"), AT).status == "unpriced"
    snapshot = genai_prices.data_snapshot._bundled_snapshot()
    assert not any("bogus" in str(key) for key in snapshot._provider_misses)
    assert not any("bogus" in str(key) for key in (*snapshot._lookup_cache, *snapshot._provider_cache))
    assert prices._found.cache_info().currsize == module.MAX_MODELS


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb", "a\x00b", "\ud800", "a\u202eb"])
def test_what_is_no_name_is_looked_up_nowhere(name: str) -> None:
    assert parse(name) is None
    assert LIST.cost(used(name, 1, 1), AT).missing == ("model",)


def test_only_allowed_models_are_looked_up() -> None:
    prices = Prices(allowed=["gpt-4o", "anthropic/claude-opus-4-8"])
    priced = ["gpt-4o", "openai/gpt-4o", "gpt-4o-2024-08-06", "claude-opus-4-8"]
    assert [prices.cost(used(name), AT).status for name in priced] == ["priced"] * 4
    assert prices.cost(used("gpt-4o-mini"), AT).missing == ("model",)
    assert prices.token_rates("gpt-4", 1, AT) is None


def test_others_may_replace_the_packages_prices_and_ours_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = genai_prices.data_snapshot.DataSnapshot(providers=[], from_auto_update=True)
    monkeypatch.setattr(genai_prices.data_snapshot, "_custom_snapshot", empty)
    with pytest.raises(LookupError):
        calc_price(TheirUsage(input_tokens=1), "gpt-4o")
    assert Prices().cost(used("gpt-4o"), AT).status == "priced"


def test_others_may_empty_the_packages_list_and_ours_stays() -> None:
    prices = Prices()
    prices.load()
    theirs = list(genai_prices.data.providers)
    try:
        genai_prices.data.providers.clear()
        assert prices.cost(used("azure/gpt-4o"), AT).status == "priced"
    finally:
        genai_prices.data.providers[:] = theirs


def test_without_the_extra_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a call; what was called already is unpriced."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    prices = Prices([own()])
    assert prices.worst_case("m", 1, 1, AT) == 10_000
    with pytest.raises(MissingExtra, match=r'pip install "mm-metering\[ai\]"'):
        prices.worst_case("gpt-4o", 1, 1, AT)
    assert prices.cost(used("gpt-4o"), AT).status == "unpriced"
    assert Prices([own()], price_list=False).worst_case("gpt-4o", 1, 1, AT) is None
    monkeypatch.undo()
    with pytest.raises(MissingExtra):
        prices.load()  # it is not looked for at every call


def test_the_list_is_read_once_whoever_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[int]()
    real = price_list.PriceList.__init__

    def reading(self: price_list.PriceList) -> None:
        read.append(threading.get_ident())
        real(self)

    monkeypatch.setattr(price_list.PriceList, "__init__", reading)
    prices = Prices()
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(lambda _: prices.worst_case("gpt-4o", 1_000_000, 0, AT), range(8))]
    assert (len(read), set(found)) == (1, {2_500_000_000})


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "openai"),
        ("claude-opus-4-8", "anthropic"),
        ("gemini-2.5-flash", "google"),
        ("mistral-large-latest", "mistral"),
    ],
)
@given(read=st.integers(0, 500_000), wrote=st.integers(0, 500_000), cached=st.integers(0, 500_000))
def test_it_agrees_with_the_packages_own_sums(model: str, provider: str, read: int, wrote: int, cached: int) -> None:
    cached = min(cached, read)
    theirs = calc_price(
        TheirUsage(input_tokens=read, output_tokens=wrote, cache_read_tokens=cached),
        model,
        provider_id=provider,
        genai_request_timestamp=AT,
    )
    exact = theirs.total_price * DOLLAR
    cost = LIST.cost(used(model, read, wrote, cached=cached, provider=provider), AT)
    assert cost.status == "priced"
    assert 0 <= cost.nanos - exact < 1


@pytest.mark.parametrize("seller", ["openai", "anthropic", "google", "groq", "deepseek", "x-ai", "cohere"])
def test_every_model_of_a_seller_costs_what_the_package_says(seller: str) -> None:
    """Those that it finds by their id; a price of input alone leaves output unpriced."""
    provider = next(each for each in genai_prices.data_snapshot._bundled_snapshot().providers if each.id == seller)
    theirs = TheirUsage(input_tokens=1000, output_tokens=100, cache_read_tokens=10)
    compared = 0
    for model in provider.models:
        cost = LIST.cost(used(model.id, 1000, 100, cached=10, provider=seller), AT)
        if cost.status == "priced" and cost.source == f"{LISTED} {seller}/{model.id}":
            exact = model.calc_price(theirs, provider, genai_request_timestamp=AT).total_price * DOLLAR
            assert 0 <= cost.nanos - exact < 1, model.id
            compared += 1
    assert compared >= len(provider.models) // 2 > 0


# The host's own prices.


def test_own_prices_come_first() -> None:
    price = Price(model="gpt-4o", input=Decimal(1), output=Decimal(2), since=date(2026, 1, 1), source="contract")
    cost = Prices([price]).cost(used("gpt-4o-2024-08-06"), AT)
    assert cost == Cost(3 * DOLLAR, "contract gpt-4o", date(2026, 1, 1), "priced")


def test_the_asked_name_of_an_own_price_comes_before_the_list() -> None:
    prices = Prices([own(model="fast")])
    usage = replace(used("gpt-4o"), asked_model="fast")
    assert dollars(prices.cost(usage, AT)) == 10


@pytest.mark.parametrize(
    "name", ["m-20250929", "m@20250929", "m-2025-09-29", "M-latest", "openai/m", "us.anthropic.m-v1:0"]
)
def test_an_own_price_is_for_every_name_of_its_model(name: str) -> None:
    assert dollars(Prices([own()]).cost(used(name), AT)) == 10


@pytest.mark.parametrize("name", ["m-mini", "m-2", "mm", "m.1"])
def test_an_own_price_is_for_no_other_model(name: str) -> None:
    assert Prices([own()], price_list=False).cost(used(name), AT).missing == ("model",)


def test_the_catalogues_price_is_of_every_token() -> None:
    catalogue = Catalogue.from_dict({"plans": {"free": {"price": 0}}, "ai": {"prices": {"gpt-4": "0.00003"}}})
    prices = Prices.of_catalogue(catalogue.ai_prices)
    usage = used("gpt-4", 1500, 500, cached=1000, reasoning=100, audio_output=50)
    assert prices.cost(usage, AT) == Cost(2000 * 30_000, "catalogue gpt-4", None, "priced")
    assert prices.worst_case("gpt-4", 1500, 500, AT) == 60_000_000


def test_the_newest_price_that_has_begun_holds() -> None:
    prices = Prices(
        [own(since=date(2026, 6, 1), output=Decimal(4)), own(), own(since=date(2027, 1, 1), output=Decimal(1))]
    )
    days = [datetime(2026, 5, 31, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]
    assert [dollars(prices.cost(used("m"), day)) for day in days] == [10, 6, 3]


def test_before_the_first_price_there_is_none() -> None:
    prices = Prices([own(since=date(2026, 6, 1))])
    assert prices.cost(used("m"), datetime(2026, 5, 1, tzinfo=UTC)).status == "unpriced"


def test_a_price_of_a_tier_is_for_that_tier_alone() -> None:
    prices = Prices([own(), own(service_tier="flex", output=Decimal(4)), own(speed="fast", output=Decimal(16))])
    usages = [used("m"), used("m", service_tier="flex"), used("m", service_tier="priority"), used("m", speed="fast")]
    assert [dollars(prices.cost(usage, AT)) for usage in usages] == [10, 6, 10, 18]


def test_a_zero_that_the_host_wrote_is_a_price() -> None:
    free = Prices([own(input=0, output=0)])
    assert free.cost(used("m"), AT) == Cost(0, "own m", None, "priced")
    assert free.affordable_output("m", 10, 0, AT) == MILLION * 1000


def test_a_call_and_a_search_have_prices() -> None:
    prices = Prices([own(call=Decimal("0.005"), web_search=Decimal("0.01"), audio_hour=Decimal("0.36"))])
    assert dollars(prices.cost(used("m", 0, 0, web_searches=2, audio_seconds=100), AT)) == Decimal("0.035")
    assert prices.worst_case("m", 0, 0, AT) == 5_000_000


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"input": 0.1}, InvalidMoney, "is a float"),
        ({"input": "-1"}, InvalidMoney, "is negative"),
        ({"model": ""}, InvalidInput, "is no model's name"),
        ({"input": None, "output": None}, InvalidInput, "has none"),
        ({"since": AT}, InvalidInput, "is a day"),
    ],
)
def test_a_price_that_cannot_be_is_not_built(values: dict[str, Any], error: type[InvalidInput], words: str) -> None:
    with pytest.raises(error, match=words):
        own(**values)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at: 2026-01-01T00:00:00 has no time zone"):
        LIST.cost(used("gpt-4o"), datetime(2026, 1, 1))  # noqa: DTZ001 - it is what is refused


# Sums.


def test_a_cost_is_rounded_up_once() -> None:
    """Three parts of 0.1 nano-dollars each come to one, not to three."""
    price = own(input="0.0001", output="0.0001", reasoning="0.0001")
    usage = used("m", 1, 1, lines=(used("m", 1, 0),))
    assert Prices([price]).cost(usage, AT).nanos == 1


def test_the_hosts_decimal_context_reaches_no_cost() -> None:
    with localcontext() as context:
        context.prec, context.rounding = 3, ROUND_HALF_UP
        prices = Prices([own(input="1.23456789", output="9.87654321")])
        assert prices.cost(used("m"), AT).nanos == 11_111_111_100


PRICES = st.decimals(0, 1000, places=6)
COUNTED = st.integers(0, 10_000_000)


@given(PRICES, PRICES, st.lists(st.tuples(COUNTED, COUNTED), min_size=1, max_size=4))
def test_a_cost_is_the_exact_sum_rounded_up(read: Decimal, wrote: Decimal, calls: list[tuple[int, int]]) -> None:
    first, *others = [used("m", *call) for call in calls]
    cost = Prices([own(input=read, output=wrote)]).cost(replace(first, lines=tuple(others)), AT)
    exact = sum(call[0] * read + call[1] * wrote for call in calls) * 1000
    assert cost.status == "priced"
    assert 0 <= cost.nanos - exact < 1


@given(st.dictionaries(st.sampled_from(COUNTS), st.integers(0, 1000)), st.sampled_from(COUNTS), st.integers(1, 1000))
def test_more_of_anything_never_costs_less(counts: dict[str, int], name: str, more: int) -> None:
    """With what it is a part of growing along."""

    def usage(given_counts: dict[str, int]) -> Usage:
        parts = dict.fromkeys(COUNTS, 0) | given_counts
        cached = parts["cached"] + parts["cache_write"] + parts["cache_write_1h"]
        audio = max(parts["audio_input"], parts["cached_audio"])
        parts["cached"] = max(parts["cached"], parts["cached_audio"])
        cached = parts["cached"] + parts["cache_write"] + parts["cache_write_1h"]
        parts["audio_input"] = audio
        parts["input"] += cached + audio + parts["image_input"]
        parts["output"] += parts["reasoning"] + parts["audio_output"] + parts["image_output"]
        return Usage(model="m", **dict[str, Any](parts))

    price = Price.per_token("m", "0.000002")
    prices = Prices([replace(price, audio_hour=Decimal(1), web_search=Decimal(1))])
    less, greater = usage(counts), usage(counts | {name: counts.get(name, 0) + more})
    assert prices.cost(less, AT).status == "priced"
    assert prices.cost(less, AT).nanos <= prices.cost(greater, AT).nanos


@given(PRICES, PRICES, PRICES, COUNTED, COUNTED)
def test_a_hold_is_never_below_the_price(read: Decimal, wrote: Decimal, call: Decimal, n: int, m: int) -> None:
    prices = Prices([own(input=read, output=wrote, call=call)])
    worst = prices.worst_case("m", n, m, AT)
    cost = prices.cost(used("m", n, m), AT).nanos
    assert worst is not None
    assert cost <= worst <= cost + (n + m) // 1000 + 2


@given(
    st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**9)
)
def test_what_is_affordable_is_the_most_that_is(read: int, wrote: int, call: int, n: int, nanos: int) -> None:
    rates = TokenRates(input_picos=read, output_picos=wrote, call_picos=call)
    most = rates.affordable_output(n, nanos)
    at_most, one_more = rates.worst_case(n, most), rates.worst_case(n, most + 1)
    assert at_most is not None
    assert one_more is not None
    assert one_more > nanos or most == MAX_TOKENS
    assert at_most <= nanos or most == 0


def test_no_hold_is_for_more_tokens_than_a_call_may_have() -> None:
    assert TokenRates(input_picos=1, output_picos=1).affordable_output(0, 10**18) == MAX_TOKENS


def test_a_script_multiplies_a_hold_exactly() -> None:
    """What a Lua script does with doubles: as Python's floats, up to 2^53."""
    rates = TokenRates(input_picos=899_999_999, output_picos=3, call_picos=0)
    for tokens_ in (1, 999, 1_000, 123_457, 10_000_000):
        sum_ = float(tokens_) * rates.input_picos + 7.0 * 3
        rounded = (sum_ + 999 - (sum_ + 999) % 1000) / 1000
        assert sum_ < 2**53 - 1000
        assert rounded == rates.worst_case(tokens_, 7)


def test_a_price_below_a_pico_is_rounded_up_to_one() -> None:
    rates = Prices([own(input="0.0000001", output="0.0000011")]).token_rates("m", 1, AT)
    assert rates == TokenRates(input_picos=1, output_picos=2, call_picos=0)


def test_a_hold_is_for_what_costs_more_of_text_and_reasoning() -> None:
    prices = Prices([own(reasoning=Decimal(10))])
    assert prices.token_rates("m", 1, AT) == TokenRates(input_picos=2_000_000, output_picos=10_000_000)
    usage = used("m", 100, 100, reasoning=100)
    assert prices.worst_case("m", 100, 100, AT) == prices.cost(usage, AT).nanos == 1_200_000


def test_what_has_no_output_price_cannot_be_held_for_output() -> None:
    rates = LIST.token_rates("text-embedding-3-small", 1000, AT)
    assert rates == TokenRates(input_picos=20_000, output_picos=None)
    assert (rates.worst_case(1000, 0), rates.worst_case(1000, 1)) == (20_000, None)
    assert rates.affordable_output(1000, DOLLAR) == 0


def test_a_long_prompt_is_held_at_its_price() -> None:
    short, long = (LIST.token_rates("claude-sonnet-4-5", tokens_, AT) for tokens_ in (200_000, 200_001))
    assert short == TokenRates(input_picos=3_000_000, output_picos=15_000_000)
    assert long == TokenRates(input_picos=6_000_000, output_picos=22_500_000)


def test_a_rate_keeps_24_places_and_rounds_up_past_them() -> None:
    assert rate_of(Decimal(1)) == 1000 * PER_NANO
    assert rate_of(Decimal("1E-24")) == 1
    assert rate_of(Decimal("1E-30")) == 1
    assert rate_of(Decimal(0)) == 0
