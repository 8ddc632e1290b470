"""Plans files: what a wrong one is told and on which line, and the JSON Schema that editors use."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_metering import catalogues
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.catalogue_file import lines_of, parse
from mm_metering.errors import CatalogueError

SEED_FILE = Path(catalogues.__file__).with_name("seed.toml")
SEED_TEXT = SEED_FILE.read_text(encoding="utf-8")

METERS = """\
[meters]
api_calls = { event = "api_call" }
ai_tokens = { event = "ai_token" }
ai_cost = { event = "ai_call", unit = "money" }
users = { aggregation = "level" }
"""
PLAN = METERS + '[plans.pro]\nprice = "99.00"\n'  # lines 6 and 7
QUOTAS = PLAN + "[plans.pro.quotas]\n"  # line 8: what a test adds stands on line 9


def error_of(source: str) -> str:
    with pytest.raises(CatalogueError) as caught:
        parse(source, "plans.toml")
    return str(caught.value)


# ---- what a wrong file is told ----

LIMITS = "0 to 9007199254740991"


class Case(NamedTuple):
    name: str
    source: str
    message: str


AT_PRICE = "plans.toml:9: plans.pro.quotas.api_calls.price"
WRONG_PRICES = [
    (
        "a price in words for a price as a table",
        '"0.01"',
        (
            f'{AT_PRICE}: expected a table such as {{ package = 1_000, unit_price = "5.00" }}, got "0.01"; '
            "for one price per unit write unit_price"
        ),
    ),
    (
        "an empty price",
        "{}",
        (
            f'{AT_PRICE}: expected a table such as {{ package = 1_000, unit_price = "5.00" }}, got an empty table; '
            "for one price per unit write unit_price"
        ),
    ),
    (
        "a misspelled kind of price",
        "{ gradated = [] }",
        f'{AT_PRICE}: unknown price "gradated"; did you mean "graduated"?',
    ),
    (
        "two kinds of price",
        '{ flat = "10.00", package = 5, unit_price = "1" }',
        f"{AT_PRICE}: package and flat are 2 prices; keep one",
    ),
    (
        "an unknown key of a price",
        '{ flat = "10.00", unit_price = "1" }',
        f'{AT_PRICE}: unknown key "unit_price"; choose from: flat',
    ),
    (
        "no tiers",
        "{ graduated = [] }",
        (
            f"{AT_PRICE}.graduated: expected a list of tiers such as "
            '[{ up_to = 1_000, unit_price = "0.01" }, { unit_price = "0.008" }], got an empty list'
        ),
    ),
    (
        "one tier instead of a list",
        '{ volume = { unit_price = "0.01" } }',
        (
            f"{AT_PRICE}.volume: expected a list of tiers such as "
            '[{ up_to = 1_000, unit_price = "0.01" }, { unit_price = "0.008" }], got a table'
        ),
    ),
    (
        "tiers without an open end",
        '{ volume = [{ up_to = 5, unit_price = "1" }, { up_to = 9, unit_price = "1" }] }',
        f"{AT_PRICE}.volume[1]: units past 9 have no price; leave up_to out of the last tier, or add one without it",
    ),
    (
        "an open end in the middle",
        '{ graduated = [{ unit_price = "1" }, { up_to = 9, unit_price = "1" }] }',
        f"{AT_PRICE}.graduated[0]: up_to is missing; only the last tier goes without, and bills all further units",
    ),
    (
        "tiers that overlap",
        '{ graduated = [{ up_to = 9, unit_price = "1" }, { up_to = 5, unit_price = "1" }, { unit_price = "1" }] }',
        (
            f"{AT_PRICE}.graduated[1].up_to: 5 is not past 9, where the tier before ends and this one begins; "
            "write rising numbers"
        ),
    ),
    (
        "tiers that do not rise",
        '{ volume = [{ up_to = 9, unit_price = "1" }, { up_to = 9, unit_price = "1" }, { unit_price = "1" }] }',
        (
            f"{AT_PRICE}.volume[1].up_to: 9 is not past 9, where the tier before ends and this one begins; "
            "write rising numbers"
        ),
    ),
    (
        "tiers with a gap",
        '{ graduated = [{ up_to = 9, unit_price = "1" }, { from = 11, unit_price = "1" }] }',
        f'{AT_PRICE}.graduated[1]: unknown key "from"; choose from: up_to, unit_price, flat',
    ),
    (
        "a tier up to nothing",
        '{ graduated = [{ up_to = 0, unit_price = "1" }, { unit_price = "1" }] }',
        f"{AT_PRICE}.graduated[0].up_to: 0 is not a whole number from 1 to 9007199254740991",
    ),
    (
        "a tier up to a fraction",
        '{ graduated = [{ up_to = 1000.5, unit_price = "1" }, { unit_price = "1" }] }',
        f"{AT_PRICE}.graduated[0].up_to: 1000.5 is not a whole number from 1 to 9007199254740991",
    ),
    (
        "a tier without a price",
        '{ graduated = [{ flat = "1" }] }',
        f'{AT_PRICE}.graduated[0]: unit_price is missing; write unit_price = "0.01", or "0.00"',
    ),
    (
        "a tier's price as a float",
        "{ volume = [{ unit_price = 0.01 }] }",
        f'{AT_PRICE}.volume[0].unit_price: 0.01 is a float and not exact; write it as a string, "0.01"',
    ),
    (
        "a package of nothing",
        '{ package = 0, unit_price = "1" }',
        f"{AT_PRICE}.package: 0 is not a whole number from 1 to 9007199254740991",
    ),
    (
        "a package without a price",
        "{ package = 10 }",
        f'{AT_PRICE}: unit_price is missing; write {{ package = 1_000, unit_price = "5.00" }}',
    ),
    (
        "a flat price as a float",
        "{ flat = 9.99 }",
        f'{AT_PRICE}.flat: 9.99 is a float and not exact; write it as a string, "9.99"',
    ),
]


WRONG = [
    Case(
        "unknown meter",
        QUOTAS + 'api_call = { limit = 1, per = "day" }',
        'plans.toml:9: plans.pro.quotas: unknown meter "api_call"; did you mean "api_calls"?',
    ),
    Case(
        "unknown meter, nothing near",
        QUOTAS + 'zzz = { limit = 1, per = "day" }',
        'plans.toml:9: plans.pro.quotas: unknown meter "zzz"; choose from: api_calls, ai_tokens, ai_cost, users',
    ),
    Case(
        "unknown key of a plan",
        PLAN + 'suport = "email"',
        'plans.toml:8: plans.pro: unknown key "suport"; did you mean "support"?',
    ),
    Case(
        "unknown key of the file",
        PLAN + "[plan.free]\n",
        'plans.toml:8: unknown key "plan"; did you mean "plans"?',
    ),
    Case(
        "unknown key of a limit",
        QUOTAS + 'api_calls = [\n  { limit = 1, per = "day" },\n  { limit = 9, window = "month" },\n]',
        'plans.toml:11: plans.pro.quotas.api_calls[1]: unknown key "window"; choose from: limit, per, then, '
        "unit_price, price",
    ),
    Case(
        "unknown window",
        QUOTAS + 'api_calls = { limit = 1, per = "days" }',
        'plans.toml:9: plans.pro.quotas.api_calls.per: "days" is not one of "second", "minute", "day", "month"; '
        'did you mean "day"?',
    ),
    Case(
        "no window",
        QUOTAS + "api_calls = { limit = 1 }",
        'plans.toml:9: plans.pro.quotas.api_calls: per is missing; write per = "day" or "month", or "second" or '
        '"minute" for a burst rate',
    ),
    Case(
        "a level with a window",
        QUOTAS + 'users = { limit = 1, per = "day" }',
        "plans.toml:9: plans.pro.quotas.users: users is a level and has no window; leave per out",
    ),
    Case(
        "a level with a cap",
        QUOTAS + 'users = { limit = 1, then = { charge_up_to = "20" }, unit_price = "9.00" }',
        "plans.toml:9: plans.pro.quotas.users: users is a level, billed by its mean over the month, and has no cap; "
        'write then = "charge" or "block"',
    ),
    Case(
        "a level with a table of prices",
        QUOTAS + 'users = { limit = 1, then = "charge", unit_price = { admin = "9.00" } }',
        "plans.toml:9: plans.pro.quotas.users: users is a level, billed by the sum of its resources; "
        "write one price instead of a table of prices",
    ),
    Case(
        "a level that charges in a window",
        QUOTAS + 'users = { limit = 1, per = "month", then = "charge", unit_price = "9.00" }',
        "plans.toml:9: plans.pro.quotas.users: users is a level and has no window; leave per out",
    ),
    Case(
        "a level that charges nothing",
        QUOTAS + 'users = { limit = 1, then = "charge" }',
        'plans.toml:9: plans.pro.quotas.users: charging needs a price; add unit_price = "0.01", '
        'or write then = "block"',
    ),
    Case(
        "no limit",
        QUOTAS + 'api_calls = { per = "day" }',
        'plans.toml:9: plans.pro.quotas.api_calls: limit is missing; write a whole number from 0, or "unlimited"; '
        "0 that blocks means not in the plan",
    ),
    Case(
        "a negative limit",
        QUOTAS + 'api_calls = { limit = -1, per = "day" }',
        f'plans.toml:9: plans.pro.quotas.api_calls.limit: -1 is not a whole number from {LIMITS}, nor "unlimited"',
    ),
    Case(
        "a limit past the exact numbers",
        QUOTAS + 'api_calls = { limit = 9007199254740992, per = "day" }',
        f"plans.toml:9: plans.pro.quotas.api_calls.limit: 9007199254740992 is not a whole number from {LIMITS}, "
        'nor "unlimited"',
    ),
    Case(
        "a limit in words",
        QUOTAS + 'api_calls = { limit = "100/day", per = "day" }',
        f'plans.toml:9: plans.pro.quotas.api_calls.limit: "100/day" is not a whole number from {LIMITS}, '
        'nor "unlimited"',
    ),
    Case(
        "a bare number for a quota",
        QUOTAS + "api_calls = 100",
        'plans.toml:9: plans.pro.quotas.api_calls: expected a limit such as { limit = 100, per = "day" } or a list, '
        "got 100",
    ),
    Case(
        "an empty list of limits",
        QUOTAS + "api_calls = []",
        'plans.toml:9: plans.pro.quotas.api_calls: expected a limit such as { limit = 100, per = "day" } or a list, '
        "got an empty list",
    ),
    Case(
        "charge without a price",
        QUOTAS + 'api_calls = { limit = 1, per = "day", then = "charge" }',
        'plans.toml:9: plans.pro.quotas.api_calls: charging needs a price; add unit_price = "0.01", '
        'or write then = "block"',
    ),
    Case(
        "a price without charge",
        QUOTAS + 'api_calls = { limit = 1, per = "day", unit_price = "0.01" }',
        'plans.toml:9: plans.pro.quotas.api_calls: a limit that blocks has no price; add then = "charge", '
        "or leave unit_price out",
    ),
    Case(
        "a price as a float",
        QUOTAS + 'ai_tokens = { limit = 1, per = "day", then = "charge", unit_price = { "gpt-4" = 3e-5 } }',
        "plans.toml:9: plans.pro.quotas.ai_tokens.unit_price.gpt-4: 3e-5 is a float and not exact; "
        'write it as a string, "0.00003"',
    ),
    Case(
        "an empty table of prices",
        QUOTAS + 'ai_tokens = { limit = 1, per = "day", then = "charge", unit_price = {} }',
        'plans.toml:9: plans.pro.quotas.ai_tokens.unit_price: the table is empty; write resource = "price" pairs',
    ),
    Case(
        "a price of more than 24 places",
        QUOTAS + 'api_calls = { limit = 1, per = "day", then = "charge", unit_price = "0.1234567890123456789012345" }',
        "plans.toml:9: plans.pro.quotas.api_calls.unit_price: '0.1234567890123456789012345' is not a plain decimal "
        'number such as "0.01" (at most 24 places)',
    ),
    Case(
        "a cap without whole nano-units",
        QUOTAS + 'api_calls = { limit = 1, per = "day", then = { charge_up_to = "20" }, unit_price = "0.0000000001" }',
        "plans.toml:9: plans.pro.quotas.api_calls: charge_up_to needs a price of at most 9 decimal places "
        "(whole nano-units)",
    ),
    Case(
        "a cap over a table of prices",
        QUOTAS
        + 'ai_tokens = { limit = 1, per = "day", then = { charge_up_to = "20" }, unit_price = { "gpt-4" = "1" } }',
        "plans.toml:9: plans.pro.quotas.ai_tokens: charge_up_to needs one price for every unit, not a table of prices",
    ),
    *(
        Case(name, QUOTAS + f"api_calls = {{ limit = 1, per = 'day', then = 'charge', price = {price} }}", message)
        for name, price, message in WRONG_PRICES
    ),
    Case(
        "two prices for the same units",
        QUOTAS
        + 'api_calls = { limit = 1, per = "day", then = "charge", unit_price = "1", price = { flat = "10.00" } }',
        "plans.toml:9: plans.pro.quotas.api_calls: unit_price and price are two prices for the same units; keep one",
    ),
    Case(
        "another price without charge",
        QUOTAS + 'api_calls = { limit = 1, per = "day", price = { flat = "10.00" } }',
        'plans.toml:9: plans.pro.quotas.api_calls: a limit that blocks has no price; add then = "charge", '
        "or leave price out",
    ),
    Case(
        "a cap over another price",
        QUOTAS + 'api_calls = { limit = 1, per = "day", then = { charge_up_to = "20" }, price = { flat = "10.00" } }',
        "plans.toml:9: plans.pro.quotas.api_calls: charge_up_to needs one price for every unit; "
        "write unit_price instead of price",
    ),
    Case(
        "two limits with prices of two kinds",
        QUOTAS
        + 'api_calls = [{ limit = 1, per = "day", then = "charge", unit_price = "1" },\n'
        + '{ limit = 2, per = "month", then = "charge", price = { flat = "10.00" } }]',
        "plans.toml:10: plans.pro.quotas.api_calls[1]: api_calls has another limit with a price; "
        "one use is billed once, keep one price",
    ),
    Case(
        "a misspelled cap",
        QUOTAS + 'api_calls = { limit = 1, per = "day", then = { charge_upto = "20" }, unit_price = "1" }',
        'plans.toml:9: plans.pro.quotas.api_calls.then: unknown key "charge_upto"; did you mean "charge_up_to"?',
    ),
    Case(
        "a burst rate that charges",
        QUOTAS + 'api_calls = { limit = 1, per = "second", then = "charge", unit_price = "0.01" }',
        "plans.toml:9: plans.pro.quotas.api_calls: a limit per second is a burst rate and always blocks; "
        'charge per "day" or "month"',
    ),
    Case(
        "unlimited that charges",
        QUOTAS + 'api_calls = { limit = "unlimited", per = "day", then = "charge", unit_price = "0.01" }',
        "plans.toml:9: plans.pro.quotas.api_calls: nothing is past unlimited, so nothing is charged; "
        "write a number, or leave then and unit_price out",
    ),
    Case(
        "money that charges",
        QUOTAS + 'ai_cost = { limit = "5", per = "day", then = "charge", unit_price = "0.01" }',
        "plans.toml:9: plans.pro.quotas.ai_cost: ai_cost is money, and limits on money always block; "
        "leave then and unit_price out",
    ),
    Case(
        "money finer than a nano-unit",
        QUOTAS + 'ai_cost = { limit = "0.0000000001", per = "day" }',
        "plans.toml:9: plans.pro.quotas.ai_cost.limit: 0.0000000001 has 10 decimal places; this amount takes 9",
    ),
    Case(
        "money past the largest amount",
        QUOTAS + 'ai_cost = { limit = 9_000_001, per = "day" }',
        "plans.toml:9: plans.pro.quotas.ai_cost.limit: 9000001 is out of range; the largest amount is 9,000,000",
    ),
    Case(
        "a burst rate of money",
        QUOTAS + 'ai_cost = { limit = "5", per = "minute" }',
        'plans.toml:9: plans.pro.quotas.ai_cost: a limit on money is per "day" or "month", not per minute',
    ),
    Case(
        "a budget beside plans in another currency",
        'currency = "EUR"\n' + PLAN + '[plans.pro.ai]\ndaily_budget = "50.00"',
        "plans.toml:7: plans.pro: budgets limit provider cost, which is in USD, and the plans are in EUR: nothing "
        'converts. Write the budgets and [ai.prices] in USD, and say so: currency = "USD" under [ai]',
    ),
    Case(
        "a budget in another currency",
        PLAN + '[ai]\ncurrency = "EUR"',
        'plans.toml:9: ai.currency: "EUR" is not the currency of provider cost, "USD": nothing converts',
    ),
    Case(
        "two limits in one window",
        QUOTAS + 'api_calls = [\n  { limit = 1, per = "day" },\n\n  { limit = 2, per = "day" },\n]',
        "plans.toml:12: plans.pro.quotas.api_calls[1]: api_calls has another limit per day; keep one",
    ),
    Case(
        "two prices of one meter",
        QUOTAS
        + 'api_calls = [{ limit = 1, per = "day", then = "charge", unit_price = "1" },\n'
        + '{ limit = 2, per = "month", then = "charge", unit_price = "1" }]',
        "plans.toml:10: plans.pro.quotas.api_calls[1]: api_calls has another limit with a price; "
        "one use is billed once, keep one price",
    ),
    Case(
        "no price of a plan",
        METERS + "[plans.pro]\nsupport = 'email'",
        'plans.toml:6: plans.pro: price is missing; write price = "0.00" for a plan that is free',
    ),
    Case(
        "a price of a plan as a float",
        METERS + "[plans.pro]\n\nprice = 99.50",
        'plans.toml:8: plans.pro.price: 99.50 is a float and not exact; write it as a string, "99.50"',
    ),
    Case(
        "a negative price",
        METERS + "[plans.pro]\nprice = -1",
        "plans.toml:7: plans.pro.price: -1 is negative; the least is 0",
    ),
    Case(
        "a price in words",
        METERS + '[plans.pro]\nprice = "99 USD"',
        "plans.toml:7: plans.pro.price: '99 USD' is not a plain decimal number such as \"0.01\" (at most 24 places)",
    ),
    Case(
        "a plan with a bad name",
        METERS + '[plans."Pro Plus"]\nprice = "1"',
        'plans.toml:6: plans: "Pro Plus" is not a name of lower-case letters, digits and _ that starts with a letter '
        "(at most 63 characters)",
    ),
    Case(
        "a meter with a slash",
        '[meters]\n"a/b" = { event = "api_call" }\n[plans.p]\nprice = 1',
        'plans.toml:2: meters: "a/b" is not a name of lower-case letters, digits and _ that starts with a letter '
        "(at most 63 characters)",
    ),
    Case(
        "a meter without an event",
        "[meters]\nseats = {}\n[plans.p]\nprice = 1",
        'plans.toml:2: meters.seats: event is missing; name what it counts, such as event = "api_call", '
        'or write aggregation = "level"',
    ),
    Case(
        "a meter with a resource and no event",
        '[meters]\nseats = { aggregation = "level", resource = "x*" }\n[plans.p]\nprice = 1',
        "plans.toml:2: meters.seats: resource picks among the resources of an event; add event, or leave resource out",
    ),
    Case(
        "a level of money",
        '[meters]\n[meters.seats]\naggregation = "level"\nunit = "money"\n[plans.p]\nprice = 1',
        'plans.toml:4: meters.seats: a level counts things; leave unit = "money" out',
    ),
    Case(
        "a unit cost of money",
        '[meters]\nspend = { event = "a", unit = "money", cost = "1" }\n[plans.p]\nprice = 1',
        "plans.toml:2: meters.spend: a money meter sums the cost that events state; leave cost out",
    ),
    Case(
        "statuses of a level",
        '[meters]\nseats = { aggregation = "level", count_on = ["2xx"] }\n[plans.p]\nprice = 1',
        "plans.toml:2: meters.seats: only meters that count requests look at the status; leave count_on out",
    ),
    Case(
        "a status that does not exist",
        '[meters]\na = { event = "a", count_on = [\n  "2xx",\n  "6xx",\n] }\n[plans.p]\nprice = 1',
        'plans.toml:4: meters.a.count_on[1]: "6xx" is not one of "2xx", "3xx", "4xx", "5xx"; did you mean "5xx"?',
    ),
    Case(
        "an unknown default plan",
        'currency = "USD"\ndefault_plan = "fre"\n[plans.free]\nprice = 0',
        'plans.toml:2: default_plan: unknown plan "fre"; did you mean "free"?',
    ),
    Case(
        "a currency in small letters",
        'currency = "usd"\n[plans.free]\nprice = 0',
        'plans.toml:1: currency: "usd" is not a currency of 3 capital letters, such as "USD"',
    ),
    Case(
        "a zone that does not exist",
        'timezone = "Berlin"\n[plans.free]\nprice = 0',
        "plans.toml:1: timezone: 'Berlin' is not an IANA time zone such as Europe/Berlin",
    ),
    Case(
        "no plans",
        '# nothing here\ncurrency = "USD"',
        "plans.toml:1: plans is missing; write at least one, such as [plans.free]",
    ),
    Case("an empty file", "", "plans.toml:1: plans is missing; write at least one, such as [plans.free]"),
    Case(
        "a fallback outside the allowlist",
        PLAN + '[plans.pro.ai]\nmodel_allowlist = ["gpt-4"]\nfallback_model = "gpt-4o"',
        'plans.toml:10: plans.pro.ai.fallback_model: "gpt-4o" is not in model_allowlist; did you mean "gpt-4"?',
    ),
    Case(
        "an empty allowlist",
        PLAN + "[plans.pro.ai]\nmodel_allowlist = []",
        "plans.toml:9: plans.pro.ai.model_allowlist: the list is empty; leave it out to allow every model",
    ),
    Case(
        "a budget without its meter",
        '[plans.pro]\nprice = 1\n[plans.pro.ai]\ndaily_budget = "1"',
        "plans.toml:4: plans.pro.ai.daily_budget: a budget limits the meter ai_cost; add to [meters]: "
        'ai_cost = { event = "ai_call", unit = "money" }',
    ),
    Case(
        "a budget next to a quota of the same",
        QUOTAS + 'ai_cost = { limit = 5, per = "month" }\n[plans.pro.ai]\nmonthly_budget = "1"',
        "plans.toml:11: plans.pro.ai.monthly_budget: quotas.ai_cost has a limit per month too; keep one of the two",
    ),
    Case(
        "a route without a method",
        PLAN + '[routes]\n"/v1/search" = { api_calls = 5 }',
        'plans.toml:9: routes: "/v1/search" is not a route; write "METHOD /path", such as "POST /v1/search"',
    ),
    Case(
        "a route with an unknown meter",
        PLAN + '[routes]\n"POST /v1/search" = { api_call = 5 }',
        'plans.toml:9: routes."POST /v1/search": unknown meter "api_call"; did you mean "api_calls"?',
    ),
    Case(
        "a route with a fraction",
        PLAN + '[routes]\n"POST /v1/search" = { api_calls = 1.5 }',
        f'plans.toml:9: routes."POST /v1/search".api_calls: 1.5 is not a whole number from {LIMITS}',
    ),
    Case(
        "a route that says nothing",
        PLAN + '[routes]\n"POST /v1/search" = {}',
        'plans.toml:9: routes."POST /v1/search": the table is empty; write { api_calls = 5 }, '
        "or { api_calls = 0 } to switch off",
    ),
    Case(
        "a route that costs money",
        PLAN + '[routes]\n"POST /v1/search" = { ai_cost = 5 }',
        'plans.toml:9: routes."POST /v1/search".ai_cost: ai_cost is money and has no cost in units; leave it out',
    ),
    Case(
        "an exempt path that is none",
        PLAN + '[routes]\nexempt = ["healthz"]',
        'plans.toml:9: routes.exempt[0]: "healthz" is not a path; write "/healthz"',
    ),
    Case(
        "a path exempt twice",
        PLAN + '[routes]\nexempt = ["/a",\n"/a"]',
        'plans.toml:10: routes.exempt[1]: "/a" is listed twice; keep one',
    ),
    Case(
        "broken TOML",
        PLAN + "[plans.pro.quotas\n",
        "plans.toml:8: not valid TOML: Expected ']' at the end of a table declaration (column 18)",
    ),
    Case(
        "TOML that ends too early",
        PLAN + "support = [\n\n",
        "plans.toml:8: not valid TOML: Invalid value (the text ends too early)",
    ),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_a_wrong_file_is_told_the_line_and_the_way_out(case: Case) -> None:
    assert error_of(case.source) == case.message


ONLY_IN_TEXT = ("broken TOML", "TOML that ends too early", "a price of a plan as a float", "a price as a float")


@pytest.mark.parametrize("case", [case for case in WRONG if case.name not in ONLY_IN_TEXT], ids=lambda case: case.name)
def test_the_python_form_is_told_the_same_without_a_line(case: Case) -> None:
    with pytest.raises(CatalogueError) as caught:
        catalogues.load(tomllib.loads(case.source))
    assert str(caught.value) == re.sub(r"^plans\.toml:\d+: ", "", case.message)
    assert (caught.value.file, caught.value.line) == (None, None)


def test_a_file_of_any_size_is_answered() -> None:
    assert error_of("#" * 2_000_001) == "plans.toml: 2,000,001 characters; a plans file has at most 2,000,000"
    assert "nested too deeply" in error_of("a = " + "[" * 100_000)
    assert (
        error_of("x = 1\na" + ".a" * 300_000 + " = 1")
        == "plans.toml:2: a key of more than 32 parts; a plans file needs six"
    )
    assert error_of("a = " + "9" * 5_000).startswith("plans.toml: not valid TOML: ")


# ---- JSON Schema ----


RIGHT = (
    QUOTAS
    + """
api_calls = [{ limit = 2, per = "second" }, { limit = 9, per = "day", then = { charge_up_to = "20" }, unit_price = 1 }]
ai_tokens = { limit = 0, per = "month", then = "charge", unit_price = { "gpt-4" = "0.00003" } }
ai_cost = { limit = "5.50", per = "day" }
users = { limit = 5, then = "charge", price = { package = 5, unit_price = "9.00" } }
[plans.max]
price = 199
[plans.max.quotas]
api_calls = { limit = 9, per = "day", then = "charge", price = { graduated = [
  { up_to = 1_000, unit_price = "0.01" }, { unit_price = 0, flat = "5.00" } ] } }
ai_tokens = { limit = 0, per = "month", then = "charge", price = { volume = [{ unit_price = "0.000000000001" }] } }
users = { limit = 5, then = "charge", price = { flat = "9.00" } }
[plans.pro.ai]
monthly_budget = 7
model_allowlist = ["gpt-4"]
[routes]
"GET /v1/{id}" = { api_calls = 0 }
exempt = ["/healthz"]
[ai.prices]
"gpt-4" = "0.00003"
"""
)


def violations(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    """Enough of JSON Schema 2020-12 for what ``json_schema`` uses; an unknown keyword fails the test."""
    checks: dict[str, Callable[[Any], object]] = {
        "type": lambda want: isinstance(value, TYPES[want]) and not (want == "integer" and isinstance(value, bool)),
        "enum": lambda want: value in want,
        "const": lambda want: value == want,
        "pattern": lambda want: not isinstance(value, str) or re.search(want, value),
        "minimum": lambda want: not isinstance(value, int) or value >= want,
        "maximum": lambda want: not isinstance(value, int) or value <= want,
        "minItems": lambda want: not isinstance(value, list) or len(value) >= want,
        "uniqueItems": lambda want: not isinstance(value, list) or len(set(map(repr, value))) == len(value),
        "minProperties": lambda want: not isinstance(value, dict) or len(value) >= want,
        "required": lambda want: not isinstance(value, dict) or set(want) <= set(value),
        "anyOf": lambda want: any(not list(violations(value, each)) for each in want),
    }
    for keyword, want in schema.items():
        if keyword in checks and not checks[keyword](want):
            yield f"{keyword} {want}: {value!r}"
    assert set(schema) <= {*checks, "items", "properties", "patternProperties", "additionalProperties"} | ANNOTATIONS
    if isinstance(value, list):
        for each in value:
            yield from violations(each, schema.get("items", {}))
    if isinstance(value, dict) and schema.get("type") == "object":
        for key, each in value.items():
            inner = [schema["properties"][key]] if key in schema["properties"] else []
            inner += [s for pattern, s in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
            yield from () if inner else [f"additional property {key}"]
            for one in inner:
                yield from violations(each, one)


TYPES = {"object": dict, "array": list, "string": str, "integer": int}
ANNOTATIONS = {"$schema", "title", "description"}


@pytest.mark.parametrize("text", [SEED_TEXT, RIGHT], ids=["seed", "right"])
def test_the_json_schema_accepts_right_files(text: str) -> None:
    assert list(violations(tomllib.loads(text), Catalogue.json_schema())) == []


@pytest.mark.parametrize(
    "key",
    [
        "unknown key of a plan",
        "unknown key of a limit",
        "unknown window",
        "no limit",
        "a negative limit",
        "a bare number for a quota",
        "an empty list of limits",
        "an empty table of prices",
        "a price in words for a price as a table",
        "an empty price",
        "a misspelled kind of price",
        "two kinds of price",
        "an unknown key of a price",
        "no tiers",
        "tiers with a gap",
        "a tier up to nothing",
        "a tier up to a fraction",
        "a tier without a price",
        "a tier's price as a float",
        "a package of nothing",
        "a package without a price",
        "no price of a plan",
        "a price in words",
        "a plan with a bad name",
        "a currency in small letters",
        "an empty file",
        "an empty allowlist",
        "a route without a method",
        "an exempt path that is none",
    ],
)
def test_the_json_schema_refuses_wrong_files(key: str) -> None:
    (source,) = [case.source for case in WRONG if case.name == key]
    assert list(violations(tomllib.loads(source), Catalogue.json_schema())) != []


def test_the_json_schema_is_json() -> None:
    schema = Catalogue.json_schema()
    assert json.loads(json.dumps(schema)) == schema


# ---- lines ----

TRICKY = '''\
# a comment with [brackets] = "and quotes
title = "a # that is no comment, and \\" a quote"
"quoted key" = 1
'literal.key' = 2
"\\u0061b" = 3
a.b . "c d" = 4
text = """
[not.a.table]
x = 1
"""  # done
raw = \'\'\'
it's = 2\'\'\'\'
list = [
  1, 2,  # two on a line
  { x = 1, y = { z = "}" } },
  [
    3,
  ],
]
when = 1979-05-27 07:32:00
pi = 3.14

[ table . inner ]
key = 1
[[items]]
n = 1
[[items]]
n = 2
[items.sub]
m = 3
[table]
late = true
'''
TRICKY_LINES = {
    ("title",): 2,
    ("quoted key",): 3,
    ("literal.key",): 4,
    ("ab",): 5,
    ("a",): 6,
    ("a", "b"): 6,
    ("a", "b", "c d"): 6,
    ("text",): 7,
    ("raw",): 11,
    ("list",): 13,
    ("list", 0): 14,
    ("list", 1): 14,
    ("list", 2): 15,
    ("list", 2, "x"): 15,
    ("list", 2, "y"): 15,
    ("list", 2, "y", "z"): 15,
    ("list", 3): 16,
    ("list", 3, 0): 17,
    ("when",): 20,
    ("pi",): 21,
    ("table", "inner"): 23,
    ("table", "inner", "key"): 24,
    ("items",): 25,
    ("items", 0): 25,
    ("items", 0, "n"): 26,
    ("items", 1): 27,
    ("items", 1, "n"): 28,
    ("items", 1, "sub"): 29,
    ("items", 1, "sub", "m"): 30,
    ("table",): 31,
    ("table", "late"): 32,
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_every_key_of_tricky_toml_is_found_on_its_line(ending: str) -> None:
    text = TRICKY.replace("\n", ending)
    assert {path: lines_of(text)[path] for path in paths_of(tomllib.loads(text))} == TRICKY_LINES


def test_every_key_of_the_seed_is_found_on_its_line() -> None:
    lines, rows = lines_of(SEED_TEXT), SEED_TEXT.split("\n")
    paths = list(paths_of(tomllib.loads(SEED_TEXT)))
    assert len(paths) > 100
    for path in paths:
        assert str(path[-1]) in rows[lines[path] - 1], path


def paths_of(tree: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from paths_of(value, (*path, key))


# ---- whatever comes in ----

PIECES = st.sampled_from(
    [
        *"[]{}=\"'.,#\n \\-_",
        "[[",
        '"""',
        "'''",
        "-1",
        "1.5",
        "nan",
        "1_0",
        "plans",
        "limit",
        "unlimited",
        "é",
        "\0",
        "\r",
    ]
)


@st.composite
def damaged_seeds(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from([SEED_TEXT, RIGHT, TRICKY, PLAN]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 30))
        text = text[:start] + "".join(draw(st.lists(PIECES, max_size=4))) + text[end:]
    return text


@settings(deadline=None, max_examples=300)
@given(st.one_of(damaged_seeds(), st.lists(PIECES, max_size=60).map("".join), st.text(max_size=200)))
def test_any_text_is_a_catalogue_or_a_catalogue_error(text: str) -> None:
    lines_of(text)  # never crashes, not even on what is not TOML
    catalogue = parsed_or_refused(text)
    if isinstance(catalogue, CatalogueError):
        assert catalogue.line is None or 1 <= catalogue.line <= text.count("\n") + 1
    else:
        assert Catalogue.from_dict(catalogue.to_dict()) == catalogue


def parsed_or_refused(text: str) -> Catalogue | CatalogueError:
    try:
        return parse(text, "plans.toml")
    except CatalogueError as error:
        return error
