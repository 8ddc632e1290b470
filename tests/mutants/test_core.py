"""Bugs put into the real core one by one, each of which the fast tests must catch.

The protocol's own are in ``tests/sim``. A mutant is one piece of a module's source, written otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest

RATING: Final = ("tests/unit/test_rating.py", "tests/unit/test_rating_prices.py", "tests/unit/test_rating_levels.py")
PUMPS: Final = ("sound_ones_have_none", "a_trip_costs_what_its_invoice_says_and_nothing_where_it_is_refused")
TESTS: Final = {
    "limits": ("tests/unit/test_limits.py", "tests/contract/test_counters.py::TestMemory"),
    "rating": (*RATING, "tests/unit/test_oracle.py"),
    "pricing": ("tests/unit/test_pricing.py", "tests/unit/test_oracle.py"),
    "standing": ("tests/unit/test_rating_levels.py", "tests/unit/test_oracle.py"),
    "invoicing": (*RATING, "tests/unit/test_commitments.py", "tests/unit/test_addons.py"),
    "commitments": ("tests/unit/test_commitments.py",),
    "addons": ("tests/unit/test_addons.py",),
    "money": ("tests/unit/test_money.py",),
    "periods": ("tests/unit/test_periods.py", "tests/unit/test_zones.py"),
    "cells": ("tests/unit/test_cells.py", "tests/unit/test_usage.py"),
    "facts": ("tests/unit/test_facts.py",),
    "events": ("tests/unit/test_events.py",),
    "identity": ("tests/unit/test_events.py",),
    "tenancy": ("tests/unit/test_timeline.py", "tests/contract/test_ledger.py::TestMemory"),
    "timeline": ("tests/unit/test_timeline.py", "tests/unit/test_addons.py"),
    "lifecycles": ("tests/unit/test_timeline.py",),
    "pumps": tuple(f"tests/flows/test_pumps.py::test_{name}" for name in PUMPS),
    "usage": ("tests/unit/test_usage.py",),
    "catalogue": ("tests/unit/test_catalogue.py",),
    "catalogue_layout": ("tests/unit/test_catalogue_file.py", "tests/unit/test_overrides.py"),
    "price_layout": ("tests/unit/test_catalogue_file.py",),
}
"""By ``core``'s module, those that must notice a bug in it."""
SURVIVED, CAUGHT = 0, 1


class Mutant(NamedTuple):
    """In a module of ``core``, ``new`` instead of ``old``."""

    module: str
    old: str
    new: str


MUTANTS: Final = {
    # -- the rule
    "one unit too many is granted": Mutant("limits", "if granted < need:", "if granted + 1 < need:"),
    "what is held does not count": Mutant("limits", "slot.maximum - used - held)", "slot.maximum - used)"),
    "a meter's longest window decides alone": Mutant(
        "limits", "min(granted, grants[meter]) if meter in grants else granted", "granted"
    ),
    "a cap ends one unit early": Mutant(
        "limits", "> slot.cap:\n            return False", ">= slot.cap:\n            return False"
    ),
    "a cap forgets what the month has cost": Mutant("limits", "if cost and extra + added", "if cost and added"),
    "free units cost": Mutant("limits", "(max(0, base + change - slot.free)", "(max(0, base + change)"),
    "the second choice is taken first": Mutant(
        "limits", "return Verdict(index, grants)", "verdict = Verdict(index, grants)"
    ),
    "windows before 1970 have the name of later ones": Mutant("limits", 'f"-{text}" if second < 0', "text if 0"),
    # -- rating
    "usage to the allowance itself is billed": Mutant(
        "rating", "max(0, limit.maximum - counted)", "max(0, limit.maximum - counted - 1)"
    ),
    "a change of plan forgets what was counted": Mutant(
        "rating", "self.counted[window, self.terms.first_day(window, use.day)] += use.quantity", "self.counted.clear()"
    ),
    "what a quota blocks is billed": Mutant("rating", "min(use.quantity, blocked_from) - free", "use.quantity - free"),
    "a cap is no bound": Mutant("rating", "return min(past, left // nanos) if nanos else past", "return past"),
    "a cap lasts for ever": Mutant(
        "rating", "month, nanos = self.terms.first_day(Window.MONTH, day),", "month, nanos = date.min,"
    ),
    "a cap is spent by what is billed alone": Mutant(
        "rating", "self.capped_nanos[month] += nanos * past", "self.capped_nanos[month] += min(left, nanos * past)"
    ),
    "the cheapest resource is free first": Mutant("rating", "dearest.copy_negate()", "dearest"),
    "scoped cells count again": Mutant("rating", "if not key.scope:", "if True:"),
    "a window says nothing of earlier plans": Mutant("rating", "0 if by_resource else step.before", "0"),
    "levels are billed by what changed them": Mutant(
        "rating", "if not limit.blocks and not limit.is_level:", "if not limit.blocks:"
    ),
    "a level has the whole month's allowance under each plan": Mutant(
        "rating", "(limit.maximum or 0) * part.seconds", "(limit.maximum or 0) * month.seconds"
    ),
    "a mean is cut off": Mutant("rating", "quantize(_MILLIONTH, ROUND_HALF_UP)", 'quantize(_MILLIONTH, "ROUND_DOWN")'),
    "another level's value is billed": Mutant("rating", "stood[meter] += value", 'stood["storage_mb"] += value'),
    "what is not billed is not told": Mutant("rating", "unbilled=row.past - row.billed", "unbilled=0"),
    # -- prices and levels
    "a tier is reached by the unit before it": Mutant("pricing", "if after < quantity)", "if after <= quantity)"),
    "a volume ends one unit early": Mutant(
        "pricing", "quantity <= (each[1].up_to or quantity)", "quantity < (each[1].up_to or quantity + 1)"
    ),
    "only whole packages are billed": Mutant(
        "pricing", "to_integral_value(ROUND_CEILING)", 'to_integral_value("ROUND_FLOOR")'
    ),
    "a flat part is forgotten": Mutant(
        "pricing", "quantity * tier.unit_price + tier.flat", "quantity * tier.unit_price"
    ),
    "no units cost a flat price": Mutant("pricing", "or quantity <= 0:", "or quantity < 0:"),
    "two prices are one": Mutant("pricing", "return json.dumps(price_form(price))", 'return "other"'),
    "a change counts past its plan": Mutant("standing", "(left(day) - end)", "left(day)"),
    "what stood before a change of plan is forgotten": Mutant(
        "standing", "level += sum(total.quantity for _, total in inside)", "pass"
    ),
    "a level of before the sign-up is billed": Mutant("standing", "if sign_up_us > micros(start):", "if 0:"),
    "tiers may end where they began": Mutant(
        "price_layout", "following.up_to <= tier.up_to", "following.up_to < tier.up_to"
    ),
    "tiers may have no end": Mutant("price_layout", "if tiers[-1].up_to is not None:", "if 0:"),
    "an override takes no limits away": Mutant(
        "catalogue_layout", "plan.quotas.items() if name not in entries}", "plan.quotas.items()}"
    ),
    # -- invoices
    "a neighbouring month is billed": Mutant(
        "invoicing", "if first <= cell[0].day <= last)", "if first <= cell[0].day)"
    ),
    "an old plan is not given back": Mutant(
        "invoicing", 'yield from self._fee("proration", since, old, sign=-1)', "pass"
    ),
    "a plan of the month's last second is charged whole": Mutant(
        "invoicing", "if start < second < end]", "if start < second <= end]"
    ),
    "tax on what is not due": Mutant("invoicing", "taxes if subtotal > 0 else ()", "taxes"),
    "an invoice is negative": Mutant("invoicing", "-due) if due < 0 else None", "-due) if 0 else None"),
    "an invoice's id depends on its plan's name alone": Mutant(
        "invoicing", "self.terms.tenant.id, self.period, self.issue, *parts)", "self.terms.tenant.id, *parts)"
    ),
    "a minimum is whole however short it held": Mutant(
        "commitments", "minimum * seconds for minimum, seconds in self.terms", "minimum for minimum, _ in self.terms"
    ),
    "late usage under a minimum is billed twice": Mutant(
        "invoicing", "found[_COMMITMENT].append(line)", "found.get(_COMMITMENT)"
    ),
    "what the minimum paid is discounted again": Mutant(
        "invoicing", 'shrunk = min(_ZERO, self.commitment) if scope == "all"', "shrunk = _ZERO if scope"
    ),
    "an old add-on is not given back": Mutant(
        "invoicing", "yield self._shared(_addon_fee(name, gone, old), since, -1)", "pass"
    ),
    "all add-ons are split where one changes": Mutant(
        "invoicing", "if gone and fresh and (gone.quantity, gone.price) == (fresh.quantity, fresh.price):", "if 0:"
    ),
    "many add-ons raise as one": Mutant(
        "addons", "maximum=limit.maximum + by * units", "maximum=limit.maximum + units"
    ),
    "an add-on raises what is unlimited": Mutant(
        "addons", "return limit if limit.maximum is None or not units else", "return limit if not units else"
    ),
    "an add-on goes along wherever it is sold": Mutant("addons", "and refusal(sold[name], plan) is None", ""),
    "an add-on ends what is planned": Mutant(
        "timeline",
        "(_in_version(each, change.versions) for each in changed)",
        "[_in_version(changed[0], change.versions)]",
    ),
    # -- money
    "halves are rounded to even": Mutant(
        "money",
        "return amount.quantize(minor_unit(currency), ROUND_HALF_UP)",
        'return amount.quantize(minor_unit(currency), "ROUND_HALF_EVEN")',
    ),
    "nano-units are cut off": Mutant(
        "money", "(amount * NANOS_PER_UNIT).quantize(Decimal(1), ROUND_HALF_UP)", "amount * NANOS_PER_UNIT"
    ),
    "a float is money": Mutant("money", "if isinstance(value, float):", "if 0:"),
    "yen have cents": Mutant("money", "ISK JPY KMF", "ISK KMF"),
    "a split loses its remainder": Mutant("money", "extra = set(by_remainder[:left])", "extra = set[int]()"),
    "the host's precision reaches a bill": Mutant("money", "EXACT = Context(prec=60,", "EXACT = Context(prec=9,"),
    # -- periods
    "the end belongs to a span": Mutant(
        "periods", "self.start <= moment < self.end", "self.start <= moment <= self.end"
    ),
    "a skipped midnight is an hour late": Mutant(
        "periods",
        "return start if is_shown else _jump_over_midnight(day, start, tz)",
        "return start",
    ),
    "a day comes back": Mutant(
        "periods", "return day if moment < day_start(following, tz) else following", "return day"
    ),
    "months drift to the 28th": Mutant(
        "periods", "min(anchor, calendar.monthrange(year, month)[1])", "min(anchor, 28)"
    ),
    "December has no end": Mutant(
        "periods", "return year + month // 12, month % 12 + 1", "return year, month % 12 + 1"
    ),
    # -- facts and cells
    "a failed call counts": Mutant("cells", "quantity if success else 0", "quantity"),
    "what is taken back still costs": Mutant("cells", "sign * cost, sign * digest)", "cost, sign * digest)"),
    "what is taken back stays in the digest": Mutant("cells", "sign * cost, sign * digest)", "sign * cost, digest)"),
    "facts that are alike count once": Mutant("cells", "number * amount", "amount"),
    "facts are alike whatever they count in": Mutant(
        "cells", "quantity, success, counts)\n", "quantity, success, ())\n"
    ),
    "each cell of a fact holds it": Mutant("cells", "if not order:", "if True:"),
    "the instant of a change belongs to the old plan": Mutant(
        "cells", "bisect_right(self._starts, occurred_us) - 1", "bisect_right(self._starts, occurred_us - 1) - 1"
    ),
    "a level falls below zero": Mutant("cells", "after = max(0, fact.quantity if", "after = (fact.quantity if"),
    "levels go in the order in which they come": Mutant(
        "cells", "in sorted(facts, key=lambda fact: (fact.occurred_us, fact.id))", "in facts"
    ),
    "a level's mean begins with the day": Mutant(
        "cells", "(after - value) * calendar.seconds_left(fact.occurred_us)", "(after - value) * 86_400"
    ),
    "a void has another instant": Mutant(
        "facts",
        'blank = fact._replace(id=f"{fact.id}:void"',
        'blank = fact._replace(occurred_us=0, id=f"{fact.id}:void"',
    ),
    "grants go to the wrong meters": Mutant(
        "facts",
        "dict.fromkeys(count.meter for count in fact.counts)",
        "dict.fromkeys(sorted((count.meter for count in fact.counts), reverse=True))",
    ),
    # -- at the door
    "a bool is a quantity": Mutant(
        "events", "isinstance(value, bool) or not isinstance(value, int)", "not isinstance(value, int)"
    ),
    "2**53 is a quantity": Mutant("events", "if value > MAX_QUANTITY:", "if value > MAX_QUANTITY + 1:"),
    "a NUL passes in metadata": Mutant("events", "if _NUL.search(text):", "if 0:"),
    "a naive instant is taken": Mutant("events", "if value.utcoffset() is None:", "if 0:"),
    "a control character passes in an id": Mutant("identity", "if ord(character) < 0x20 or", "if"),
    "an id may be as long as it likes": Mutant("identity", "if not 1 <= size <= most_bytes:", "if not 1 <= size:"),
    # -- tenants and what is read
    "a revision does not rise": Mutant("tenancy", "replace(after, revision=before.revision + 1)", "after"),
    "planned changes stay beside a new one": Mutant(
        "timeline",
        "replace(plan=change.plan, version=change.version) for each in changed]",
        "replace(plan=change.plan, version=change.version) for each in changed[:1]]",
    ),
    "a range has its last level's sum": Mutant(
        "usage", "return days[-1].meters[meter.name]", "return days[0].meters[meter.name]"
    ),
    "a level is not carried over": Mutant(
        "usage", "Calendar(self.timezone, ()), Counter(carried)", "Calendar(self.timezone, ()), Counter()"
    ),
    "a limit of zero that charges is no feature": Mutant(
        "catalogue", 'return self.maximum == 0 and self.then == "block"', "return self.maximum == 0"
    ),
    "5xx stay counted": Mutant(
        "catalogue", 'COUNT_ON = ("2xx", "3xx", "4xx")', 'COUNT_ON = ("2xx", "3xx", "4xx", "5xx")'
    ),
    # -- subscriptions over time
    "a change is lost on a segment that begins with it": Mutant(
        "timeline", "if each.starts_us < change.at_us]", "if each.starts_us <= change.at_us]"
    ),
    "a pause brings back what is canceled": Mutant(
        "timeline", "return SUBSCRIPTION.moves[planned].get(event, planned)", "return becomes"
    ),
    "resume leaves a planned cancellation": Mutant(
        "timeline", "if planned in (PAUSED, CANCELED) else", "if planned == PAUSED else"
    ),
    "a change of plan undoes a planned cancellation": Mutant(
        "timeline", "if planned == was == CANCELED else", "if planned == CANCELED else"
    ),
    "a trial does not end before a change": Mutant(
        "timeline", "trial_ends_us < segments[number + 1].starts_us)", "False)"
    ),
    "who owes may pause": Mutant("lifecycles", '"resume": PAST_DUE,', '"resume": PAST_DUE, "pause": PAUSED,'),
    "a trial does not move with the sign-up": Mutant(
        "tenancy",
        "segments=settled(after.segments, after.subscribed_us + trial_us)",
        "segments=settled(after.segments, before.trial_ends_us)",
    ),
    "an anchor may change for ever": Mutant("tenancy", "if now_us >= micros(", "if 0 > micros("),
    "a day of 30 hours": Mutant("periods", "LONGEST_DAY = timedelta(hours=26)", "LONGEST_DAY = timedelta(hours=30)"),
    "a month of 31 begins a day late": Mutant("periods", "if day < first:", "if day <= first:"),
    "a zone that moves un-begins its day": Mutant(
        "periods", "if day <= tz.first_day else", "if day < tz.first_day else"
    ),
    "staying is compared with the dearest plan": Mutant(
        "pumps", "instead, otherwise = min(", "instead, otherwise = max("
    ),
    "what is refused is free": Mutant(
        "pumps", "used[limit.window] <= limit.maximum for", "used[limit.window] >= 0 for"
    ),
    "money is allowed in an outage": Mutant("catalogue", '"money": "deny"', '"money": "allow"'),
}

Run = Callable[[str, str, str, tuple[str, ...]], dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs tests on a changed module ("" for none), in a fork of a process that has all libraries loaded."""
    command = [sys.executable, "-m", "tests.mutants.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(module: str, old: str, new: str, tests: tuple[str, ...]) -> dict[str, Any]:
            print(json.dumps({"module": module, "old": old, "new": new, "tests": tests}), file=server.stdin, flush=True)
            answer: dict[str, Any] = json.loads(server.stdout.readline())  # type: ignore[union-attr]
            return answer

        yield ask
        server.stdin.close()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_is_caught(run: Run, name: str) -> None:
    mutant = MUTANTS[name]
    answer = run(f"mm_metering.core.{mutant.module}", mutant.old, mutant.new, TESTS[mutant.module])
    assert answer["code"] == CAUGHT, answer["said"] or "no test notices it"


def test_without_a_bug_the_same_tests_pass(run: Run) -> None:
    tests = tuple(dict.fromkeys(test for tests in TESTS.values() for test in tests))
    answer = run("", "", "", tests)
    assert answer["code"] == SURVIVED, answer["said"]


def test_a_bug_whose_source_is_gone_is_no_bug(run: Run) -> None:
    answer = run("mm_metering.core.limits", "no such line", "", TESTS["limits"])
    assert answer["code"] not in (SURVIVED, CAUGHT)
    assert "no such line" in answer["said"]
