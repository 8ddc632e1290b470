"""The law of ``Counters`` as tests, for any implementation of the Protocol.

    class TestMine(CountersContract):
        @pytest_asyncio.fixture
        async def counters(self) -> AsyncIterator[Counters]:
            mine = Mine()
            yield mine
            await mine.aclose()

Each test needs counters that are empty. Nothing but the Protocol is used.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import pytest

from mm_metering.backends.counters import (
    LAST_SEQ,
    START,
    Answer,
    Append,
    Batch,
    Counters,
    Denied,
    Done,
    Fenced,
    Level,
    Load,
    Miss,
    NotLoaded,
    Op,
    OpenHold,
    OtherGeneration,
    Post,
    Reply,
    Result,
    Retag,
    Stale,
    Stamp,
    Take,
    Taken,
    position_key,
)
from mm_metering.core.limits import UNBOUNDED, Delta, Line, Slot, State

NOON_US: Final = 1_705_320_000_000_000
"""2024-01-15T12:00Z."""

SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400 * SECOND_US

DAY, MONTH = "@ds7a000", "@ms6k2o0"
YESTERDAY, LAST_MONTH, LONG_AGO = "@ds785c0", "@ms4yo00", "@ds72lc0"

FACT: Final = b'["1",1705320000000000,"use"]'
BIGGEST: Final = 2**53 - 1

Wish: TypeAlias = tuple[Slot, int] | tuple[Slot, int, int]
"""A slot with its cost, or with need and want."""


def api(maximum: int = 10, window: str = DAY) -> Slot:
    return Slot(f"api{window}", "api", maximum=maximum)


def capped(cap: int, *, free: int = 2, price: int = 5, window: str = DAY) -> Slot:
    """A slot that charges 5 past 2 free units, up to a cap."""
    return Slot(f"api{window}", "api", free=free, price=price, cap_field=f"api${MONTH}", cap=cap)


def lines(*wishes: Wish) -> tuple[Line, ...]:
    return tuple(Line(wish[0], wish[1], wish[-1]) for wish in wishes)


def take(*wishes: Wish, tenant: str = "t", tag: str = "1.1", payload: bytes = FACT, hold: str = "") -> Take:
    return Take(tenant, tag, (lines(*wishes),), (payload,), hold, NOON_US if hold else 0)


def look(*wishes: Wish, tenant: str = "t", tag: str = "1.1") -> Take:
    return Take(tenant, tag, (lines(*wishes),))


def post(*deltas: Delta, tenant: str = "t", tag: str = "1.1", payload: bytes = FACT, close: str = "") -> Post:
    return Post(tenant, tag, deltas, payload, close)


def load(values: dict[str, int] | None = None, *, tenant: str = "t", tag: str = "1.1", barrier: str = START) -> Load:
    return Load(tenant, tag, barrier, values or {}, {})


def level(value: int, at_us: int, *, absolute: bool = True, resource: str = "x", tenant: str = "t") -> Level:
    stamp = Stamp(f"mb/{resource}@-!", at_us)
    return Level(tenant, "1.1", "mb@-", f"mb/{resource}@-", stamp, value, absolute, FACT)


class Process:
    """One process at its shard: numbers its batches."""

    def __init__(self, counters: Counters, *, name: str = "p", generation: int = 1) -> None:
        self.counters = counters
        self.name = name
        self.generation = generation
        self.seq: int = 0

    async def send(self, *ops: Op, seq: int | None = None, now_us: int = NOON_US) -> Answer:
        if seq is None:
            self.seq += 1
        number = self.seq if seq is None else seq
        return await self.counters.apply(0, Batch(self.name, self.generation, number, now_us, ops))

    async def reply(self, *ops: Op, now_us: int = NOON_US) -> Reply:
        answer = await self.send(*ops, now_us=now_us)
        assert isinstance(answer, Reply), answer
        return answer

    async def one(self, op: Op, now_us: int = NOON_US) -> Result:
        (result,) = (await self.reply(op, now_us=now_us)).results
        return result

    async def load(self, values: dict[str, int] | None = None, *, tenant: str = "t", tag: str = "1.1") -> None:
        """Loads the tenant, whatever its barrier is."""
        result = await self.one(load(values, tenant=tenant, tag=tag))
        while isinstance(result, NotLoaded) and result.why == "behind":
            result = await self.one(load(values, tenant=tenant, tag=tag, barrier=result.barrier))
        assert result == Done(counted=True)

    async def stored(self, tenant: str = "t") -> dict[str, int]:
        return dict(await self.counters.counters(0, tenant))

    async def facts(self) -> list[bytes]:
        backlog = await self.counters.read(0, after=START, limit=1000)
        return [line for entry in backlog.entries for line in entry.lines]


def used(*numbers: int) -> tuple[State, ...]:
    return tuple(State(number, 0, 0) for number in numbers)


@pytest.mark.asyncio
class CountersContract:
    """Subclasses give a fixture ``counters``: empty, and closed afterwards."""

    @pytest.fixture
    def counters(self) -> Counters:
        raise NotImplementedError("give a fixture `counters`")

    @staticmethod
    async def opened(counters: Counters) -> Process:
        assert await counters.open(0, seen=0, generation=1, grace_ms=0)
        return Process(counters)

    async def ready(self, counters: Counters, values: dict[str, int] | None = None) -> Process:
        """Generation 1, with tenant ``t`` loaded."""
        process = await self.opened(counters)
        await process.load(values)
        return process

    # -- G2, G3: generations ------------------------------------------------------------------------------------------

    async def test_it_has_a_shard(self, counters: Counters) -> None:
        assert counters.shards >= 1

    async def test_an_empty_shard_is_fenced(self, counters: Counters) -> None:
        """G2 Fenced, if the shard has no generation."""
        assert await Process(counters).send(take((api(), 1))) == Fenced(0)
        backlog = await counters.read(0, after=START, limit=10)
        assert (backlog.generation, backlog.entries, backlog.tail) == (0, (), START)

    async def test_open_is_a_compare_and_set(self, counters: Counters) -> None:
        """False if another generation than ``seen`` is there."""
        assert not await counters.open(0, seen=3, generation=4, grace_ms=0)
        assert await counters.open(0, seen=0, generation=2, grace_ms=0)
        assert not await counters.open(0, seen=0, generation=3, grace_ms=0)
        assert not await counters.open(0, seen=2, generation=2, grace_ms=0)
        assert await counters.open(0, seen=2, generation=7, grace_ms=0)
        assert (await counters.read(0, after=START, limit=1)).generation == 7

    async def test_a_batch_of_another_generation_does_not_run(self, counters: Counters) -> None:
        """G3 OtherGeneration, if the batch's is not the shard's."""
        process = await self.ready(counters)
        assert await counters.open(0, seen=1, generation=2, grace_ms=0)
        assert await process.send(take((api(), 1))) == OtherGeneration(2)
        assert await process.facts() == []

    async def test_a_new_generation_knows_no_tenant_and_waits_for_the_old_ones_facts(self, counters: Counters) -> None:
        """Sets the generation and its birth (the last stream position)."""
        process = await self.ready(counters)
        before = (await process.reply(take((api(), 1)))).entry
        assert await counters.open(0, seen=1, generation=2, grace_ms=0)
        process.generation = 2
        assert await process.one(take((api(), 1), tag="2.1")) == Miss(before)
        assert await process.one(load(tag="2.1")) == NotLoaded("behind", before)
        assert await process.one(load({api().field: 1}, tag="2.1", barrier=before)) == Done(counted=True)
        assert await process.one(take((api(), 1), tag="2.1")) == Taken(0, (1,), used(2))

    async def test_a_tag_of_the_generation_before_is_not_loaded(self, counters: Counters) -> None:
        process = await self.ready(counters)
        assert await counters.open(0, seen=1, generation=2, grace_ms=0)
        process.generation = 2
        assert isinstance(await process.one(take((api(), 1), tag="2.1")), Miss)
        assert await process.one(Retag("t", "2.2", keep=True)) != NotLoaded("warm", START)
        assert isinstance(await process.one(take((api(), 1), tag="2.2")), Miss)

    # -- G4: sessions -------------------------------------------------------------------------------------------------

    async def test_the_same_number_again_gives_the_stored_reply(self, counters: Counters) -> None:
        """G4 The same seq again gives the stored reply and runs nothing."""
        process = await self.ready(counters)
        first = await process.reply(take((api(3), 2)), take((api(3), 2)), look((api(3), 1), tenant="other"))
        assert await process.send(take((api(3), 1)), seq=process.seq) == first
        assert await process.stored() == {api().field: 2}
        assert await process.facts() == [FACT]

    async def test_the_stored_reply_is_the_one_that_was_given(self, counters: Counters) -> None:
        process = await self.ready(counters)
        first = await process.reply(Append((("t", FACT),)), take((api(), 1)), load())
        await counters.trim(0, generation=1, position=first.entry)
        assert await process.send(seq=process.seq) == first

    async def test_a_lower_number_is_stale(self, counters: Counters) -> None:
        """G4 A lower one is Stale."""
        process = await self.ready(counters)
        await process.reply(take((api(), 1)))
        assert await process.send(take((api(), 1)), seq=1) == Stale()
        assert await process.stored() == {api().field: 1}

    async def test_numbers_are_compared_as_numbers(self, counters: Counters) -> None:
        process = await self.opened(counters)
        await process.send(seq=9)
        assert isinstance(await process.send(seq=10), Reply)
        assert await process.send(seq=9) == Stale()

    async def test_whoever_sends_a_processs_last_number_ends_its_session(self, counters: Counters) -> None:
        """What of a process that has died is still on its way runs nothing, once its facts are taken over."""
        process = await self.ready(counters)
        assert isinstance(await process.send(seq=LAST_SEQ), Reply)
        assert await process.send(take((api(), 1)), seq=process.seq + 1) == Stale()
        assert await process.facts() == []

    async def test_each_process_has_its_own_session(self, counters: Counters) -> None:
        process, other = await self.ready(counters), Process(counters, name="other process")
        await process.reply(take((api(), 1)))
        assert isinstance(await other.send(take((api(), 1))), Reply)
        assert await process.stored() == {api().field: 2}

    async def test_a_new_generation_forgets_the_sessions(self, counters: Counters) -> None:
        process = await self.ready(counters)
        assert await counters.open(0, seen=1, generation=2, grace_ms=0)
        process.generation = 2
        assert await process.send(seq=1) == Reply("", START, ())

    # -- G5: loading --------------------------------------------------------------------------------------------------

    async def test_a_tenant_that_is_not_loaded_is_a_miss(self, counters: Counters) -> None:
        """G5 Take needs the op's tag to be the tenant's; else it is a Miss."""
        process = await self.opened(counters)
        assert (await process.reply(take((api(), 1)))) == Reply("", START, (Miss(START),))
        await process.load()
        assert isinstance(await process.one(take((api(), 1))), Taken)
        assert await process.one(take((api(), 1), tag="1.2")) == Miss(START)
        assert await process.one(take((api(), 1), tag="")) == Miss(START)

    async def test_a_load_brings_counters_and_replaces_what_is_there(self, counters: Counters) -> None:
        process = await self.ready(counters, {api().field: 4, "old@-": 1})
        assert await process.stored() == {api().field: 4, "old@-": 1}
        await process.one(Retag("t", "1.2", keep=False))
        assert await process.stored() == {}
        await process.load({api().field: 7}, tag="1.3")
        assert await process.stored() == {api().field: 7}
        assert await process.one(take((api(), 3), tag="1.3")) == Taken(0, (3,), used(10))

    async def test_no_load_before_the_grace_is_over(self, counters: Counters) -> None:
        """G5 Load is refused before open_at."""
        assert await counters.open(0, seen=0, generation=1, grace_ms=60_000)
        process = Process(counters)
        assert await process.one(load()) == NotLoaded("early", START)
        assert await process.one(take((api(), 1))) == Miss(START)

    async def test_a_replay_needs_no_grace(self, counters: Counters) -> None:
        assert await counters.open(0, seen=0, generation=1, grace_ms=60_000)
        process = Process(counters)
        assert await process.one(Append((("t", FACT),))) == Done(counted=False)
        assert await process.facts() == [FACT]

    async def test_a_load_of_what_is_loaded_changes_nothing(self, counters: Counters) -> None:
        """G5 Load is refused if it is loaded already, or if old."""
        process = await self.ready(counters, {api().field: 4})
        assert await process.one(load({api().field: 9})) == NotLoaded("warm", START)
        await process.one(Retag("t", "1.5", keep=True))
        assert await process.one(load({api().field: 9}, tag="1.4")) == NotLoaded("old", START)
        assert await process.stored() == {api().field: 4}

    async def test_revisions_are_compared_as_numbers(self, counters: Counters) -> None:
        process = await self.ready(counters)
        await process.one(Retag("t", "1.10", keep=True))
        assert await process.one(load(tag="1.9")) == NotLoaded("old", START)

    async def test_a_load_under_a_newer_plan_waits_for_what_was_counted(self, counters: Counters) -> None:
        """Counted under an older plan: the ledger is behind these counters."""
        process = await self.ready(counters)
        entry = (await process.reply(take((api(), 1)))).entry
        assert await process.one(load(tag="1.2")) == NotLoaded("behind", entry)
        assert await process.one(take((api(), 1))) == Miss(entry)
        assert await process.one(load({api().field: 1}, tag="1.2", barrier=entry)) == Done(counted=True)

    async def test_a_load_from_a_later_position_is_fine(self, counters: Counters) -> None:
        process = await self.ready(counters)
        first = await process.reply(Append((("t", FACT),)))
        later = await process.reply(take((api(), 1), tenant="other"), Append((("other", FACT),)))
        assert position_key(later.entry) > position_key(first.entry)
        assert await process.one(load(barrier=later.entry)) == Done(counted=True)

    # -- takes --------------------------------------------------------------------------------------------------------

    async def test_exactly_the_limit_is_allowed(self, counters: Counters) -> None:
        process = await self.ready(counters)
        assert await process.one(take((api(3), 2))) == Taken(0, (2,), used(2))
        assert await process.one(take((api(3), 1))) == Taken(0, (1,), used(3))
        assert await process.one(take((api(3), 1))) == Denied(used(3))

    async def test_cost_5_with_3_left_is_refused_whole(self, counters: Counters) -> None:
        """A refused take changes nothing and appends nothing."""
        process = await self.ready(counters, {api().field: 7})
        assert await process.reply(take((api(10), 5))) == Reply("", START, (Denied(used(7)),))
        assert await process.stored() == {api().field: 7}
        assert await process.facts() == []

    async def test_all_lines_or_nothing(self, counters: Counters) -> None:
        process = await self.ready(counters, {"exports@-": 1})
        exports = Slot("exports@-", "exports", maximum=1)
        month = api(100, MONTH)
        assert await process.one(take((api(), 1), (month, 1), (exports, 1))) == Denied(used(0, 0, 1))
        assert await process.stored() == {"exports@-": 1}
        assert await process.one(take((api(), 1), (month, 1))) == Taken(0, (1,), used(1, 1))

    async def test_takes_of_one_batch_see_each_other(self, counters: Counters) -> None:
        process = await self.ready(counters)
        reply = await process.reply(*[take((api(2), 1), payload=b'["%d"]' % n) for n in range(4)])
        assert reply.results == (
            Taken(0, (1,), used(1)),
            Taken(0, (1,), used(2)),
            Denied(used(2)),
            Denied(used(2)),
        )
        assert await process.facts() == [b'["0"]', b'["1"]']

    async def test_no_limit_still_counts(self, counters: Counters) -> None:
        process = await self.ready(counters)
        assert await process.one(take((api(UNBOUNDED), 5_000))) == Taken(0, (5_000,), used(5_000))
        assert await process.one(take()) == Taken(0, (), ())
        assert await process.facts() == [FACT, FACT]

    async def test_a_limit_of_zero_allows_nothing(self, counters: Counters) -> None:
        process = await self.ready(counters)
        assert await process.one(take((api(0), 1))) == Denied(used(0))
        assert await process.one(take((api(0), 0))) == Taken(0, (0,), used(0))

    async def test_past_the_limit_after_a_post_nothing_more_fits(self, counters: Counters) -> None:
        process = await self.ready(counters)
        await process.one(post(Delta(api(5), 9, 0)))
        assert await process.one(take((api(5), 1))) == Denied(used(9))

    async def test_the_first_alternative_that_fits_wins(self, counters: Counters) -> None:
        process = await self.ready(counters, {"gpt-4@-": 5})
        dear, cheap = Slot("gpt-4@-", "gpt-4", maximum=5), Slot("gpt-3@-", "gpt-3", maximum=5)
        wish = Take("t", "1.1", (lines((dear, 1)), lines((cheap, 2), (api(), 1))), (b'["dear"]', b'["cheap"]'))
        assert await process.one(wish) == Taken(1, (2, 1), used(2, 1))
        assert await process.one(wish) == Taken(1, (2, 1), used(4, 2))
        assert await process.one(wish) == Denied(used(5))
        assert await process.facts() == [b'["cheap"]', b'["cheap"]']

    async def test_an_elastic_line_is_granted_what_is_left(self, counters: Counters) -> None:
        """Fits if the head is at least the need; the grant is the least of want and head."""
        process = await self.ready(counters, {api().field: 4})
        assert await process.one(take((api(10), 2, 9))) == Taken(0, (6,), used(10))
        assert await process.one(take((api(10), 0, 9))) == Taken(0, (0,), used(10))
        assert await process.one(take((api(10), 1, 9))) == Denied(used(10))

    async def test_lines_of_one_meter_share_the_least_grant(self, counters: Counters) -> None:
        process = await self.ready(counters, {api(10, MONTH).field: 7})
        exports = Slot("exports@-", "exports", maximum=2)
        wish = take((api(10), 1, 9), (exports, 1, 5), (api(10, MONTH), 1, 9))
        assert await process.one(wish) == Taken(0, (3, 2), used(3, 2, 10))

    async def test_a_take_without_payloads_only_looks(self, counters: Counters) -> None:
        """Without payloads the take only looks; ``states`` are the lines before it."""
        process = await self.ready(counters, {api().field: 4})
        assert await process.reply(look((api(), 6))) == Reply("", START, (Taken(0, (6,), used(4)),))
        assert await process.one(look((api(), 7))) == Denied(used(4))
        assert await process.stored() == {api().field: 4}

    async def test_numbers_are_exact_up_to_the_biggest(self, counters: Counters) -> None:
        money = Slot(f"money{MONTH}", "money", maximum=BIGGEST)
        process = await self.ready(counters, {money.field: BIGGEST - 3})
        assert await process.one(take((money, 1))) == Taken(0, (1,), used(BIGGEST - 2))
        assert await process.one(take((money, 3))) == Denied(used(BIGGEST - 2))
        assert await process.one(take((money, 1, 9))) == Taken(0, (2,), used(BIGGEST))
        assert await process.stored() == {money.field: BIGGEST}
        assert await process.one(post(Delta(money, 2 - BIGGEST, 0))) == Done(counted=True)
        assert await process.stored() == {money.field: 2}

    # -- holds --------------------------------------------------------------------------------------------------------

    async def test_a_hold_reserves_and_its_close_counts_the_truth(self, counters: Counters) -> None:
        process = await self.ready(counters)
        month = api(100, MONTH)
        reserve = take((api(10), 2, 8), (month, 2, 8), payload=b'["h"]', hold="h")
        assert await process.one(reserve) == Taken(0, (8,), (State(0, 8, 0), State(0, 8, 0)))
        assert await process.one(take((api(10), 3))) == Denied((State(0, 8, 0),))
        close = post(Delta(api(10), 5, 0), Delta(month, 5, 0), payload=b'["c"]', close="h")
        assert await process.one(close) == Done(counted=True)
        assert await process.one(look((api(10), 5), (month, 5))) == Taken(0, (5,), used(5, 5))
        assert await process.facts() == [b'8;["h"]', b'["c"]']

    async def test_a_holds_grants_stand_before_its_fact(self, counters: Counters) -> None:
        """The grants are held, and written in front of the payload: one per meter, in order of appearance."""
        process = await self.ready(counters)
        exports = Slot("exports@-", "exports", maximum=2)
        await process.one(take((exports, 1, 5), (api(), 3), (api(9, MONTH), 3), payload=b'["h"]\n["i"]', hold="h"))
        assert await process.facts() == [b'2,3;["h"]', b'["i"]']

    async def test_a_close_gives_back_what_it_does_not_mention(self, counters: Counters) -> None:
        process = await self.ready(counters)
        await process.one(take((api(10), 4), (api(50, MONTH), 4), hold="h"))
        assert await process.one(post(Delta(api(10), 1, 0), close="h")) == Done(counted=True)
        assert await process.one(look((api(10), 0), (api(50, MONTH), 0))) == Taken(0, (0,), used(1, 0))

    async def test_a_close_of_an_unknown_hold_is_uncounted(self, counters: Counters) -> None:
        """If it is not there the facts are appended uncounted and the tenant is loaded anew."""
        process = await self.ready(counters)
        reply = await process.reply(post(Delta(api(), 5, 0), close="nobody's"))
        assert reply.results == (Done(counted=False),)
        assert await process.one(take((api(), 1))) == Miss(reply.entry)

    async def test_a_hold_is_closed_once(self, counters: Counters) -> None:
        process = await self.ready(counters)
        close = post(Delta(api(), 5, 0), close="h")
        reply = await process.reply(take((api(), 5), hold="h"), close, close)
        assert reply.results[1:] == (Done(counted=True), Done(counted=False))

    async def test_open_holds_are_loaded(self, counters: Counters) -> None:
        process = await self.opened(counters)
        hold = OpenHold(NOON_US, ((api().field, 4), (api(9, MONTH).field, 4)))
        twins = {f"{api().field}~": 4, f"{api(9, MONTH).field}~": 4}
        assert await process.one(Load("t", "1.1", START, twins, {"h": hold})) == Done(counted=True)
        assert await process.one(look((api(), 6))) == Taken(0, (6,), (State(0, 4, 0),))
        assert await process.one(post(Delta(api(), 3, 0), close="h")) == Done(counted=True)
        assert await process.one(look((api(), 7), (api(9, MONTH), 9))) == Taken(0, (7,), used(3, 0))

    async def test_a_load_replaces_the_holds(self, counters: Counters) -> None:
        process = await self.ready(counters)
        await process.one(take((api(), 5), hold="h"))
        await process.one(Append((("t", FACT),)))
        await process.load()
        assert await process.one(post(Delta(api(), 5, 0), close="h")) == Done(counted=False)

    # -- caps ---------------------------------------------------------------------------------------------------------

    async def test_past_the_free_amount_money_counts_up_to_exactly_the_cap(self, counters: Counters) -> None:
        process = await self.ready(counters)
        slot = capped(20)
        assert await process.one(take((slot, 3))) == Taken(0, (3,), (State(3, 0, 5),))
        assert await process.one(take((slot, 4))) == Denied((State(3, 0, 5),))
        assert await process.one(take((slot, 3))) == Taken(0, (3,), (State(6, 0, 20),))
        assert await process.one(take((slot, 1))) == Denied((State(6, 0, 20),))
        assert await process.stored() == {slot.field: 6, slot.cap_field: 20}

    async def test_free_units_fit_under_a_cap_that_is_used_up(self, counters: Counters) -> None:
        """What the grant costs past the free amount fits under the cap."""
        process = await self.ready(counters, {capped(0).cap_field: 99})
        assert await process.one(take((capped(20), 2))) == Taken(0, (2,), (State(2, 0, 99),))
        assert await process.one(take((capped(20), 1))) == Denied((State(2, 0, 99),))

    async def test_days_share_the_cap_of_their_month(self, counters: Counters) -> None:
        process = await self.ready(counters)
        today, tomorrow = capped(10), capped(10, window="@ds7buo0")
        assert isinstance(await process.one(take((today, 3))), Taken)
        assert await process.one(take((tomorrow, 3))) == Taken(0, (3,), (State(3, 0, 10),))
        assert await process.one(take((today, 1))) == Denied((State(3, 0, 10),))

    async def test_two_lines_of_a_take_add_up_under_one_cap(self, counters: Counters) -> None:
        process = await self.ready(counters)
        wish = take((capped(10, free=0), 1), (capped(10, free=0, window=MONTH), 1))
        assert await process.one(wish) == Taken(0, (1,), (State(1, 0, 10), State(1, 0, 10)))
        assert await process.one(wish) == Denied((State(1, 0, 10), State(1, 0, 10)))

    async def test_a_hold_and_its_close_move_the_cap(self, counters: Counters) -> None:
        """Every post moves the cap by price × the change of max(0, used + held − free)."""
        process = await self.ready(counters)
        assert await process.one(take((capped(20), 6), hold="h")) == Taken(0, (6,), (State(0, 6, 20),))
        await process.one(post(Delta(capped(20), 3, 0), close="h"))
        assert await process.one(look((capped(20), 3))) == Taken(0, (3,), (State(3, 0, 5),))

    async def test_a_reversal_moves_the_cap_back(self, counters: Counters) -> None:
        process = await self.ready(counters)
        await process.one(take((capped(20), 4)))
        await process.one(post(Delta(capped(20), -3, 0)))
        assert await process.stored() == {capped(20).field: 1, capped(20).cap_field: 0}

    # -- rates --------------------------------------------------------------------------------------------------------

    async def test_a_burst_rate_refuses_until_its_window_ends(self, counters: Counters) -> None:
        process = await self.ready(counters)
        burst, start = Slot("api@s", "api", maximum=2, rate_s=1), NOON_US // SECOND_US
        assert await process.one(take((burst, 2), (api(), 2))) == Taken(0, (2,), (State(2, 0, start), State(2, 0, 0)))
        late = NOON_US + SECOND_US - 1
        assert await process.one(take((burst, 1)), late) == Denied((State(2, 0, start),))
        assert await process.one(take((burst, 1)), late + 1) == Taken(0, (1,), (State(1, 0, start + 1),))

    async def test_a_clock_that_lags_counts_in_the_newer_window(self, counters: Counters) -> None:
        """The window's start is the greater of the stored one and the process's own."""
        process = await self.ready(counters)
        burst, start = Slot("api@m", "api", maximum=2, rate_s=60), NOON_US // SECOND_US
        await process.one(take((burst, 2)))
        assert await process.one(take((burst, 1)), NOON_US - 30 * SECOND_US) == Denied((State(2, 0, start),))

    async def test_rates_are_not_counters(self, counters: Counters) -> None:
        """Never loaded, held, or moved by a post."""
        process = await self.ready(counters)
        burst = Slot("api@s", "api", maximum=5, rate_s=1)
        await process.one(take((burst, 2), (api(), 2), hold="h"))
        assert await process.stored() == {api().field: 0, f"{api().field}~": 2}
        await process.one(post(Delta(burst, -2, 0), Delta(api(), -2, 0), close="h"))
        await process.one(Append((("t", FACT),)))
        await process.load()
        assert await process.one(look((burst, 3))) == Taken(0, (3,), (State(2, 0, NOON_US // SECOND_US),))

    # -- levels -------------------------------------------------------------------------------------------------------

    async def test_a_level_is_set_and_its_total_follows(self, counters: Counters) -> None:
        process = await self.ready(counters)
        for op in (level(5, 1), level(3, 1, resource="y"), level(2, 2), level(4, 2, absolute=False, resource="y")):
            assert await process.one(op) == Done(counted=True)
        stored = await process.stored()
        assert (stored["mb/x@-"], stored["mb/y@-"], stored["mb@-"]) == (2, 7, 9)
        assert len(await process.facts()) == 4

    async def test_a_level_never_falls_below_zero(self, counters: Counters) -> None:
        process = await self.ready(counters)
        await process.reply(level(3, 1), level(2, 1, resource="y"), level(-9, 2, absolute=False))
        stored = await process.stored()
        assert (stored["mb/x@-"], stored["mb@-"]) == (0, 2)

    async def test_an_older_change_is_left_to_the_ledger(self, counters: Counters) -> None:
        """A change older than the last one is appended uncounted and the tenant is loaded anew."""
        process = await self.ready(counters)
        await process.one(level(5, 10))
        reply = await process.reply(level(7, 9))
        assert reply.results == (Done(counted=False),)
        assert await process.one(look((api(), 1))) == Miss(reply.entry)

    @pytest.mark.parametrize(("first", "second"), [("set", "set"), ("set", "add"), ("add", "set"), ("add", "add")])
    async def test_of_two_changes_at_one_instant_only_adds_are_in_order(
        self, counters: Counters, first: str, second: str
    ) -> None:
        process = await self.ready(counters)
        await process.one(level(5, 10, absolute=first == "set"))
        in_order = first == second == "add"
        assert await process.one(level(1, 10, absolute=second == "set")) == Done(counted=in_order)

    async def test_levels_are_remembered_to_the_microsecond(self, counters: Counters) -> None:
        process = await self.ready(counters)
        await process.one(level(5, NOON_US))
        assert await process.one(level(6, NOON_US + 1)) == Done(counted=True)
        assert await process.one(level(7, NOON_US)) == Done(counted=False)

    async def test_a_take_of_a_level_before_its_last_change_is_loaded_anew(self, counters: Counters) -> None:
        """``stamp`` is the level field whose last change this take must not precede."""
        process = await self.ready(counters)
        await process.one(level(5, 10))
        total, stamp = Slot("mb@-", "mb", maximum=9), "mb/x@-!"
        wish = Take("t", "1.1", (lines((total, 1)),), (FACT,), stamp=Stamp(stamp, 11))
        assert await process.one(wish) == Taken(0, (1,), used(6))
        late = Take("t", "1.1", (lines((total, 1)),), (FACT,), stamp=Stamp(stamp, 9))
        reply = await process.reply(late)
        assert reply.results == (Taken(0, (1,), used(7)),)
        assert await process.one(look((total, 1))) == Miss(reply.entry)

    # -- posts --------------------------------------------------------------------------------------------------------

    async def test_a_post_is_never_refused(self, counters: Counters) -> None:
        process = await self.ready(counters, {api().field: 10})
        assert await process.one(post(Delta(api(10), 5, 0))) == Done(counted=True)
        assert await process.stored() == {api().field: 15}

    async def test_a_post_to_a_tenant_that_is_not_loaded_is_uncounted(self, counters: Counters) -> None:
        """G5 The others append uncounted. G6 That clears the tag and sets the tenant's barrier to its entry."""
        process = await self.opened(counters)
        reply = await process.reply(post(Delta(api(), 5, 0)), take((api(), 1)), level(1, 1, tenant="other"))
        assert reply.results == (Done(counted=False), Miss(reply.entry), Done(counted=False))
        assert await process.one(load()) == NotLoaded("behind", reply.entry)
        assert await process.one(take((api(), 1), tenant="other")) == Miss(reply.entry)
        assert await process.one(load({api().field: 5}, barrier=reply.entry)) == Done(counted=True)
        assert await process.one(look((api(), 5))) == Taken(0, (5,), used(5))

    async def test_a_post_under_another_tag_loads_the_tenant_anew(self, counters: Counters) -> None:
        process = await self.ready(counters)
        reply = await process.reply(post(Delta(api(), 5, 0), tag="1.2"))
        assert reply.results == (Done(counted=False),)
        assert await process.one(take((api(), 1))) == Miss(reply.entry)

    async def test_a_past_window_counts_only_where_it_is_still_there(self, counters: Counters) -> None:
        """A past window's counter moves only if it is still there."""
        process = await self.ready(counters, {api(9, YESTERDAY).field: 4})
        past, gone = Delta(api(9, YESTERDAY), 2, 0, opens=False), Delta(api(9, LAST_MONTH), 2, 0, opens=False)
        assert await process.one(post(past, gone)) == Done(counted=True)
        assert await process.stored() == {api(9, YESTERDAY).field: 6}

    async def test_a_late_post_with_a_cap_loads_the_tenant_anew(self, counters: Counters) -> None:
        process = await self.ready(counters, {capped(20, window=YESTERDAY).field: 4})
        reply = await process.reply(post(Delta(capped(20, window=YESTERDAY), 1, 0, opens=False)))
        assert reply.results == (Done(counted=False),)
        assert await process.one(look((api(), 1))) == Miss(reply.entry)

    async def test_windows_that_are_long_past_are_dropped_when_one_opens(self, counters: Counters) -> None:
        process = await self.ready(counters)
        kept = {f"a{YESTERDAY}": 1, f"a{YESTERDAY}~": 1, f"a{MONTH}": 1, "mb@-": 1, "documents@-": 1, "d5": 1}
        await process.one(Retag("t", "1.2", keep=False))
        await process.load({**kept, f"a{LONG_AGO}": 1, f"a{LONG_AGO}~": 1, f"a{LAST_MONTH}": 1}, tag="1.3")
        await process.one(take((api(), 1), tag="1.3"))
        assert await process.stored() == {**kept, api().field: 1}

    async def test_a_new_day_opens_a_new_counter(self, counters: Counters) -> None:
        process = await self.ready(counters, {api(1).field: 1})
        assert isinstance(await process.one(take((api(1), 1))), Denied)
        tomorrow = api(1, "@ds7buo0")
        assert await process.one(take((tomorrow, 1)), NOON_US + DAY_US) == Taken(0, (1,), used(1))

    # -- retags -------------------------------------------------------------------------------------------------------

    async def test_a_retag_that_keeps_the_counters(self, counters: Counters) -> None:
        """``keep`` says that its counters are still right; ``tag`` is in force from here."""
        process = await self.ready(counters, {api().field: 4})
        assert await process.one(Retag("t", "1.2", keep=True)) == Done(counted=True)
        assert isinstance(await process.one(take((api(), 1))), Miss)
        assert await process.one(take((api(), 1), tag="1.2")) == Taken(0, (1,), used(5))

    async def test_a_retag_that_does_not_keep_them(self, counters: Counters) -> None:
        """Otherwise they are loaded anew."""
        process = await self.ready(counters)
        entry = (await process.reply(take((api(), 1)))).entry
        assert await process.one(Retag("t", "1.2", keep=False)) == Done(counted=False)
        assert await process.one(take((api(), 1), tag="1.2")) == Miss(entry)
        assert await process.one(load({api().field: 1}, tag="1.2", barrier=entry)) == Done(counted=True)

    async def test_a_retag_that_comes_late_changes_nothing(self, counters: Counters) -> None:
        process = await self.ready(counters)
        await process.one(Retag("t", "1.3", keep=True))
        assert await process.one(Retag("t", "1.2", keep=False)) == Done(counted=True)
        assert isinstance(await process.one(take((api(), 1), tag="1.3")), Taken)

    async def test_a_retag_of_an_unknown_tenant_changes_nothing(self, counters: Counters) -> None:
        process = await self.opened(counters)
        assert await process.one(Retag("nobody", "1.2", keep=True)) == Done(counted=False)
        assert await process.one(take((api(), 1), tenant="nobody", tag="1.2")) == Miss(START)

    # -- the stream ---------------------------------------------------------------------------------------------------

    async def test_all_facts_of_a_batch_stand_in_one_entry(self, counters: Counters) -> None:
        process = await self.ready(counters)
        reply = await process.reply(
            take((api(), 1), payload=b'["a"]\n["b"]'), Append((("t", b'["c"]'), ("other", b'["d"]')))
        )
        (entry,) = (await counters.read(0, after=START, limit=10)).entries
        assert entry == (reply.entry, (b'["a"]', b'["b"]', b'["c"]', b'["d"]'))

    async def test_replayed_facts_are_uncounted(self, counters: Counters) -> None:
        """G6 What is appended uncounted clears the tag and sets the tenant's barrier to its entry."""
        process = await self.ready(counters)
        await process.load(tenant="other")
        reply = await process.reply(take((api(), 1)), Append((("t", FACT), ("other", FACT))), take((api(), 1)))
        assert reply.results == (Taken(0, (1,), used(1)), Done(counted=False), Miss(reply.entry))
        assert await process.one(take((api(), 1), tenant="other")) == Miss(reply.entry)
        assert await process.stored() == {}

    async def test_a_load_in_the_batch_of_an_uncounted_fact_waits(self, counters: Counters) -> None:
        process = await self.opened(counters)
        reply = await process.reply(Append((("t", FACT),)), load())
        assert reply.results[1] == NotLoaded("behind", reply.entry)

    async def test_reading_goes_on_where_it_stopped(self, counters: Counters) -> None:
        process = await self.opened(counters)
        entries = [(await process.reply(Append((("t", b'["%d"]' % n),)))).entry for n in range(5)]
        assert [position_key(each) for each in entries] == sorted(position_key(each) for each in entries)
        first = await counters.read(0, after=START, limit=2)
        assert [entry.position for entry in first.entries] == entries[:2]
        assert first.tail == entries[-1]
        rest = await counters.read(0, after=entries[1], limit=10)
        assert [entry.lines for entry in rest.entries] == [(b'["2"]',), (b'["3"]',), (b'["4"]',)]
        assert (await counters.read(0, after=entries[-1], limit=10)).entries == ()

    async def test_trimming_drops_what_the_ledger_confirmed_and_says_so(self, counters: Counters) -> None:
        """Drops what the ledger confirmed, up to and with ``position``; ``drained`` tells the processes."""
        process = await self.opened(counters)
        entries = [(await process.reply(Append((("t", FACT),)))).entry for _ in range(3)]
        await counters.trim(0, generation=1, position=entries[1])
        backlog = await counters.read(0, after=START, limit=10)
        assert [entry.position for entry in backlog.entries] == entries[2:]
        assert (await process.reply()).drained == entries[1]
        await counters.trim(0, generation=1, position=entries[0])
        assert (await process.reply()).drained == entries[1]

    async def test_a_trimmed_stream_keeps_its_tail(self, counters: Counters) -> None:
        process = await self.ready(counters)
        entry = (await process.reply(take((api(), 1)))).entry
        await counters.trim(0, generation=1, position=entry)
        backlog = await counters.read(0, after=START, limit=10)
        assert (backlog.entries, backlog.tail) == ((), entry)
        assert await counters.open(0, seen=1, generation=2, grace_ms=0)
        process.generation = 2
        reply = await process.reply(take((api(), 1), tag="2.1"))
        assert reply == Reply("", START, (Miss(entry),))

    async def test_trimming_for_another_generation_does_nothing(self, counters: Counters) -> None:
        """If the generation is still the shard's."""
        process = await self.opened(counters)
        entry = (await process.reply(Append((("t", FACT),)))).entry
        await counters.trim(0, generation=2, position=entry)
        assert await process.facts() == [FACT]
        assert (await process.reply()).drained == START

    # -- tenants ------------------------------------------------------------------------------------------------------

    async def test_tenants_never_collide(self, counters: Counters) -> None:
        hostile = (
            "a",
            "a:",
            ":a",
            "a:c",
            "{a}",
            "}{",
            "{mm:0}:c:a",
            "é",
            "🙂",
            "a b",
            " a",
            "'a'",
            '"a"',
            "a\\n",
            "a*",
            "p:p",
        )
        process = await self.opened(counters)
        for number, tenant in enumerate(hostile):
            await process.load({api().field: number}, tenant=tenant)
        await process.reply(*[take((api(99), 20), tenant=tenant) for tenant in hostile])
        for number, tenant in enumerate(hostile):
            assert await process.stored(tenant) == {api().field: number + 20}

    async def test_scopes_never_collide(self, counters: Counters) -> None:
        process = await self.ready(counters)
        scopes = ("u:1", "u 1", "{u}", "é🙂", "u@1", "u~", "u,1", "u;1", "=")
        slots = [Slot(f"ai/{scope}{DAY}", "ai", maximum=9) for scope in scopes]
        assert await process.one(take(*[(slot, 2) for slot in slots])) == Taken(0, (2,), used(*[2] * len(slots)))
        await process.one(take(*[(slot, 1) for slot in slots], hold="h:1 {é}"))
        assert await process.one(post(*[Delta(slot, 5, 0) for slot in slots], close="h:1 {é}")) == Done(counted=True)
        assert await process.one(look(*[(slot, 0) for slot in slots])) == Taken(0, (0,), used(*[7] * len(slots)))

    async def test_a_tenant_that_is_not_loaded_has_no_counters(self, counters: Counters) -> None:
        process = await self.ready(counters, {api().field: 3})
        assert await process.stored("nobody") == {}
        await process.one(Append((("t", FACT),)))
        assert await process.stored() == {}

    async def test_a_forgotten_tenant_has_no_counters_and_no_holds(self, counters: Counters) -> None:
        process = await self.ready(counters, {api().field: 3})
        await process.one(take((api(99), 20), hold="h"))
        assert await process.stored() == {api().field: 3, f"{api().field}~": 20}
        for _ in range(2):
            await counters.forget(0, "t")
        assert await process.stored() == {}
        assert isinstance(await process.one(take((api(99), 1))), Miss)
