"""Dead letters, once somebody looks at them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.work import FIRST_LETTER, DeadLetter
from mm_metering.core.audit import Act
from mm_metering.core.facts import Fact, decode, tenant_of_line
from mm_metering.core.periods import micros
from mm_metering.gate.gate import Gate
from mm_metering.worker.drain import Drain

PAGE: Final = 500


async def every(ledger: Ledger) -> AsyncIterator[list[DeadLetter]]:
    """All of them, page by page."""
    after = FIRST_LETTER
    while page := await ledger.dead_letters(after=after, limit=PAGE):
        yield page
        after = page[-1].key


def tenant_of(letter: DeadLetter) -> str:
    """Its tenant, where that can be read; else ""."""
    return tenant_of_line(letter.line)


async def retry(ledger: Ledger, gate: Gate, drain: Drain, *, act: Callable[[], Act]) -> int:
    """Posts each that is a fact to this release, and removes it once its fact is folded, or a dead letter anew; how
    many. Ended halfway, it may be run again: a fact is folded once."""
    tried = set[tuple[str, str]]()
    async for page in every(ledger):
        facts = {letter: fact for letter in page if (fact := _fact(letter)) and (fact.tenant, fact.id) not in tried}
        tried.update((fact.tenant, fact.id) for fact in facts.values())
        for fact in facts.values():
            await gate.append(fact.tenant, [fact])
        await gate.settle()
        await drain.fully()
        done = act()
        await ledger.remove_dead_letters([letter.key for letter in facts], now_us=micros(done.at), act=done)
    return len(tried)


def _fact(letter: DeadLetter) -> Fact | None:
    try:
        return decode(letter.line)
    except ValueError:
        return None
