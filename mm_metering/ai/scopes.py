"""Whose AI cost a call is, beside the tenant's: a feature's, a user's, and that of the runs it is part of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from mm_metering.core.identity import resource_name
from mm_metering.core.money import Amount, non_negative, to_nanos
from mm_metering.errors import InvalidInput
from mm_metering.gate.admission import Scope
from mm_metering.gate.windows import RUN

MAX_RUNS: Final = 8
"""Most runs inside each other."""

_around: ContextVar[tuple[Scope, ...]] = ContextVar("mm_metering_ai_scopes", default=())


def scopes(
    *, feature: str | None = None, user: str | None = None, run: str | None = None, cap: Amount | None = None
) -> tuple[Scope, ...]:
    """Those named here, and those of the blocks around: the innermost feature and user, and every run. Of a run that
    stands there twice, the lower cap holds."""
    if cap is not None and run is None:
        raise InvalidInput("cap", "is the most that a run may cost: name the run")
    found = {each.name: each for each in _around.get()}
    for kind, value in (("feature", feature), ("user", user), ("run", run)):
        if value is None:
            continue
        name, most = f"{kind}:{resource_name(value)}", None
        if kind == "run":
            caps = [found[name].cap if name in found else None, _nanos(cap)]
            most = min((each for each in caps if each is not None), default=None)
        else:
            found = {each: scope for each, scope in found.items() if not each.startswith(f"{kind}:")}
        found[name] = Scope(name, most)
    if sum(each.startswith(RUN) for each in found) > MAX_RUNS:
        raise InvalidInput("run", f"more than {MAX_RUNS} runs inside each other; end some of them")
    return tuple(found.values())


@contextmanager
def scoped(named: tuple[Scope, ...]) -> Iterator[None]:
    """The calls inside are of these scopes, in threads and tasks that are started there too."""
    token = _around.set(named)
    try:
        yield
    finally:
        _around.reset(token)


def _nanos(cap: Amount | None) -> int | None:
    return None if cap is None else to_nanos(non_negative(cap, "cap"))
