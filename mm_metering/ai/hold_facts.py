"""The facts of a call that was held: pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mm_metering.ai.calls import Settled
from mm_metering.ai.insight import CALL, TOKEN, UNPRICED
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.facts import Count, Fact
from mm_metering.gate.admission import Candidate
from mm_metering.gate.holds import Held


class Note(NamedTuple):
    """What is kept with a hold, so that whoever ends it can: the cost of its input in nano-units and its tokens, whose
    cost it is, and the meters in which calls, costs and tokens count."""

    floor: int
    tokens: int
    scopes: Sequence[str]
    calls: Sequence[str]
    costs: Sequence[str]
    token_meters: Sequence[str]

    @classmethod
    def of(cls, catalogue: Catalogue, model: str, *, floor: int, tokens: int, scopes: Sequence[str]) -> Note:
        meters = catalogue.meters_of(CALL, model)
        calls, costs = ([each.name for each in meters if (each.unit == "money") is money] for money in (False, True))
        return cls(floor, tokens, scopes, calls, costs, [each.name for each in catalogue.meters_of(TOKEN, model)])

    @classmethod
    def in_(cls, candidate: Candidate) -> Note:
        return cls(*json.loads(candidate.note or "[0, 0, [], [], [], []]"))


def close_facts(held: Held, settled: Settled, *, name: str) -> list[Fact]:
    """Its close, and its tokens beside it, in the meters of whoever held it."""
    model, note = held.candidate.resource, Note.in_(held.candidate)
    detail = {"status": settled.status, "source": settled.source, **(settled.detail or {}), **_counts(settled)}
    scopes = ["", *note.scopes] if settled.nanos is not None else []
    scopes += [UNPRICED] if settled.status == "unpriced" else []
    counts = [Count(meter, "", 1) for meter in note.calls]
    counts += [Count(meter, scope, settled.nanos or 0) for meter in note.costs for scope in scopes]
    close = Fact("", 0, "close", "", CALL, model, 1, settled.nanos, tuple(counts))
    close = held.closed(close._replace(metadata=json.dumps(detail)), name=name)
    if not settled.tokens:
        return [close]
    tokens = tuple(Count(meter, "", settled.tokens) for meter in note.token_meters)
    beside = close._replace(id=f"{close.id}:{TOKEN}", kind="use", event_type=TOKEN, quantity=settled.tokens)
    return [close, beside._replace(cost_nanos=None, counts=tokens, target=None, metadata=None)]


def renewal(held: Held, until_us: int) -> Fact:
    """A fact that counts nowhere, beside the hold's."""
    fact = Fact(
        f"{held.id}.renewed.{until_us}", held.taken_us, "use", held.tenant, "", held.candidate.resource, 0, None, ()
    )
    return fact._replace(quantity=until_us, target=held.id)


def hold_fact(held: Held) -> Fact:
    """As it was written, for a void."""
    each = held.candidate
    return Fact(held.id, held.taken_us, "hold", held.tenant, each.event_type, each.resource, 1, None, ())


def _counts(settled: Settled) -> dict[str, Any]:
    usage = settled.usage
    if usage is None:
        return {}
    named = {"input": usage.input, "cached": usage.cached, "output": usage.output, "reasoning": usage.reasoning}
    return {name: count for name, count in named.items() if count}
