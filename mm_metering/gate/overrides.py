"""What a test has otherwise, for the time of a block: other terms, or answers instead of the gate's. Nothing of it is
written, and a gate that was never overridden has no instruction of it on the way of a take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import count
from typing import Any, Final, TypeAlias

from mm_metering.core.catalogue import AiPolicy, Catalogue
from mm_metering.core.decision import Decision
from mm_metering.core.periods import micros
from mm_metering.core.refusals import until_s
from mm_metering.errors import InvalidInput
from mm_metering.gate.admission import Admission, Candidate, Wish
from mm_metering.gate.gate import Gate
from mm_metering.gate.holds import Held
from mm_metering.gate.terms import Limits, Terms

Methods: TypeAlias = Mapping[str, Callable[..., Any]]
Now: TypeAlias = Callable[[], datetime]

TIMED: Final = ("quota-exceeded", "rate-limited")
"""Refusals that say when to try again."""
NUMBERED: Final = (*TIMED, "budget-exceeded")
"""Refusals for a limit that is used up."""
REASONS: Final = (*NUMBERED, "feature-not-in-plan", "payment-required", "tenant-suspended")
RETRY_S: Final = 60
"""When to try again, where no window says it."""
UNMETERED: Final = "unmetered"
"""Who calls where nobody was found and nothing is metered."""


@contextmanager
def override(
    gate: Gate,
    catalogue: Catalogue,
    *,
    now: Now,
    plan: str | None = None,
    limits: Limits | None = None,
    allow: bool = False,
    deny: str | None = None,
    disabled: bool = False,
) -> Iterator[None]:
    """See ``Metering.override``. InvalidInput for what contradicts itself, and a reason that there is not."""
    if allow and (limits or deny):
        raise InvalidInput("allow", "lets everything pass; leave out limits and deny")
    if deny is not None and deny not in REASONS:
        raise InvalidInput("deny", f"{deny[:60]!r} is no reason; choose from: {', '.join(REASONS)}")
    with ExitStack() as stack:
        if plan or limits or allow:
            stack.enter_context(gate.on_terms(Terms(catalogue, plan, limits or {}, is_unlimited=allow)))
        if deny is not None:
            stack.enter_context(instead(gate, refusing(gate, deny, now)))
        if disabled:
            stack.enter_context(instead(gate, off(now)))
        yield


# -- instead of the gate ----------------------------------------------------------------------------------------------


class Watched:
    """A method of a gate under watch. What stands in for it goes beneath, so that it is seen as well."""

    def __init__(self, inner: Callable[..., Any], watch: Callable[..., Any]) -> None:
        self.inner = inner
        self._watch = watch

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._watch(self.inner, *args, **options)


@contextmanager
def instead(owner: object, methods: Methods) -> Iterator[None]:
    """These answer in place of an object's methods of the same names."""
    with ExitStack() as stack:
        for name, method in methods.items():
            known = vars(owner).get(name)
            place, key = (vars(known), "inner") if isinstance(known, Watched) else (vars(owner), name)
            stack.callback(_put_back, place, key, place.get(key))
            place[key] = method
        yield


def _beneath_watch(method: Callable[..., Any]) -> Callable[..., Any]:
    return method.inner if isinstance(method, Watched) else method


def _put_back(place: dict[str, Any], key: str, before: Any) -> None:
    if before is None:
        del place[key]
    else:
        place[key] = before


@contextmanager
def watching(gate: Gate, watches: Methods) -> Iterator[None]:
    """Each of these is called with the gate's method of the same name and its arguments, and calls it."""
    with instead(gate, {name: Watched(getattr(gate, name), watch) for name, watch in watches.items()}):
        yield


def refusing(gate: Gate, reason: str, now: Now) -> Methods:
    """Refuses each take and each reservation, with the tenant's own limits as if they were used up."""
    own_take, own_look = _beneath_watch(gate.take), _beneath_watch(gate.look)

    async def take(tenant: str, wishes: Sequence[Wish], *, look: bool = False) -> Admission:
        asked = {wish.meter or wish.event_type: wish.quantity for wish in wishes}
        return _refused(await own_take(tenant, wishes, look=True), asked, reason, now())

    async def look(tenant: str, candidate: Candidate) -> Admission:
        asked = {share.meter: share.need for share in candidate.shares}
        return _refused(await own_look(tenant, candidate), asked, reason, now())

    async def hold(tenant: str, candidates: Sequence[Candidate], *, lasts_us: int) -> Admission:
        return await look(tenant, candidates[0])

    return {"take": take, "look": look, "hold": hold}


def _refused(admission: Admission, asked: Mapping[str, int], reason: str, now: datetime) -> Admission:
    """Where nothing is asked for, nothing is refused."""
    if not asked:
        return admission
    decisions = admission.decisions or tuple(
        Decision(allowed=True, meter=meter, requested=units, plan=admission.plan) for meter, units in asked.items()
    )
    refused = tuple(_used_up(each, reason, now) for each in decisions)
    return Admission(admission.tenant, admission.plan, allowed=False, decisions=refused)


def _used_up(decision: Decision, reason: str, now: datetime) -> Decision:
    changes: dict[str, Any] = {"allowed": False, "reason": reason, "overage": 0, "retry_after_s": None}
    if reason in NUMBERED:
        limit = decision.used if decision.limit is None else decision.limit
        changes |= {"limit": limit, "used": max(limit, decision.used), "remaining": 0}
    if reason in TIMED:
        changes["retry_after_s"] = until_s(decision.resets_at, now) or RETRY_S
    return decision.model_copy(update=changes)


def off(now: Now) -> Methods:
    """Lets all through and counts nothing."""
    numbers = count(1)

    async def take(tenant: str, wishes: Sequence[Wish], *, look: bool = False) -> Admission:
        return Admission(tenant, "", allowed=True)

    async def look(tenant: str, candidate: Candidate) -> Admission:
        return Admission(tenant, "", allowed=True)

    async def hold(tenant: str, candidates: Sequence[Candidate], *, lasts_us: int) -> Held:
        now_us, name = micros(now()), f"{UNMETERED}-{next(numbers)}"
        return Held(name, tenant, candidates[0], 0, {}, now_us, now_us + lasts_us, degraded=True)

    async def ai_policy(tenant: str) -> tuple[AiPolicy, str]:
        return AiPolicy(on_unpriced="allow"), ""

    async def done(*_: object, **__: object) -> bool:
        return True

    said = dict.fromkeys(("add", "post", "append", "level", "close", "reverse"), done)
    return {"take": take, "look": look, "hold": hold, "ai_policy": ai_policy, **said}
