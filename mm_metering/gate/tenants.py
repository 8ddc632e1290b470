"""The tenants known in this process.

A view is right for one revision of the tenant. Nobody tells a process that a newer one exists: its next take misses,
because the tag in the counters has moved on, and the view is read from the ledger again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from mm_metering.backends.counters import Level, Stamp, Take
from mm_metering.core.facts import Fact, line, quoted
from mm_metering.core.lifecycles import REFUSED_AS
from mm_metering.core.limits import Delta
from mm_metering.core.periods import Window
from mm_metering.core.tenancy import TenantRow
from mm_metering.gate.windows import FOREVER_US, PlanWindows, Prepared, field, level_field, stamp_field

MAX_VIEWS: Final = 10_000
SEGMENTS: Final = 10_000
"""More plan segments than one tenant can have: a tag's number is revision x SEGMENTS + segment."""


class View:
    """A tenant at one revision and plan segment. Without a row nothing is limited, facts alone are written (an outage).

    ``refused_as`` is the reason that each request is told, in a state that refuses all; "" in others.
    ``starts_us``: facts under this view do not lie before it, whatever a skewed clock says, so that a unit admitted
    under a plan is billed under it.
    """

    __slots__ = (
        "_quoted",
        "_revision",
        "_tag",
        "plan",
        "refused_as",
        "row",
        "shard",
        "starts_us",
        "tenant",
        "valid_until_us",
        "windows",
    )

    def __init__(self, tenant: str, row: TenantRow | None, windows: PlanWindows, *, shard: int, now_us: int) -> None:
        self.tenant: str = tenant
        self.row: TenantRow | None = row
        self.plan: str = windows.plan
        self.windows: PlanWindows = windows
        self.shard: int = shard
        index = row.segment_index(now_us) if row else 0
        self.refused_as: str = REFUSED_AS.get(row.segments[index].status, "") if row else ""
        self.starts_us: int = row.segments[index].starts_us if row and index else 0
        self.valid_until_us: int = (row.next_change_us(now_us) if row else None) or FOREVER_US
        self._revision = row.revision * SEGMENTS + index if row else 0
        self._quoted = quoted(tenant)
        self._tag = (-1, "")

    def tag(self, generation: int) -> str:
        """Names what is in force: it rises with the tenant's revision, and when a planned segment begins."""
        if self._tag[0] != generation:
            self._tag = (generation, f"{generation}.{self._revision}")
        return self._tag[1]

    # -- takes --------------------------------------------------------------------------------------------------------

    def take(self, asked: Prepared, generation: int, fact_id: str, now_us: int) -> Take:
        """The op that counts what was asked; under the id "" it only looks."""
        known, tag = self._tag
        if known != generation:
            tag = self.tag(generation)
        stamp = Stamp(asked.level, now_us) if asked.level else None
        return Take(self.tenant, tag, asked.alternatives, self._payloads(asked, fact_id, now_us), "", 0, stamp)

    def _payloads(self, asked: Prepared, fact_id: str, now_us: int) -> tuple[bytes, ...]:
        """The facts' lines: the first has the id itself, the others a suffix."""
        if not fact_id:
            return ()
        if len(asked.forms) == 1:
            kind, rest = asked.forms[0]
            return (line(fact_id, now_us, kind, self._quoted, rest),)
        named = zip(_ids(fact_id, len(asked.forms)), asked.forms, strict=True)
        return (b"\n".join(line(own, now_us, kind, self._quoted, rest) for own, (kind, rest) in named),)

    def hold(self, asked: Prepared, generation: int, hold_id: str, now_us: int, expires_us: int) -> Take:
        """The op that reserves the first alternative that fits; its fact has the hold's id."""
        payloads = tuple(line(hold_id, now_us, kind, self._quoted, rest) for kind, rest in asked.forms)
        return Take(self.tenant, self.tag(generation), asked.alternatives, payloads, hold_id, expires_us)

    def facts(self, asked: Prepared, fact_id: str, now_us: int) -> tuple[Fact, ...]:
        """The same facts as values."""
        named = zip(_ids(fact_id, len(asked.facts)), asked.facts, strict=True)
        return tuple(fact._replace(id=own, occurred_us=now_us, tenant=self.tenant) for own, fact in named)

    # -- posts --------------------------------------------------------------------------------------------------------

    def deltas(self, facts: Sequence[Fact], now_us: int, *, sign: int = 1) -> tuple[Delta, ...]:
        """What counted facts move, each in the windows of its own instant.

        A priced slot is not open to a fact from before this plan: what it costs is for the ledger to say.
        """
        moved: dict[str, Delta] = {}
        for fact in facts:
            for meter, scope, amount in fact.counts:
                for gauge in self.windows.gauges(meter, fact.occurred_us, scope):
                    slot = gauge.slot
                    opens = gauge.ends_us > now_us and not (slot.price and fact.occurred_us < self.starts_us)
                    known = moved.get(slot.field, Delta(slot, 0, 0, opens))
                    if not slot.rate_s:
                        moved[slot.field] = known._replace(used=known.used + sign * amount, opens=opens and known.opens)
        return tuple(moved.values())

    def level_op(self, fact: Fact, tag: str, payload: bytes) -> Level | None:
        """The op of a level's set or add; None where the plan does not limit the level."""
        limited = [count.meter for count in fact.counts if self.windows.gauges(count.meter, fact.occurred_us)]
        if not limited:
            return None
        meter, absolute = limited[0], fact.kind == "set"
        stamp = Stamp(stamp_field(meter, fact.resource), fact.occurred_us)
        total, own = field(meter, Window.NONE, None), level_field(meter, fact.resource)
        return Level(self.tenant, tag, total, own, stamp, fact.quantity, absolute, payload)


def _ids(fact_id: str, count: int) -> tuple[str, ...]:
    return tuple(fact_id if n == 0 else f"{fact_id}.{n}" for n in range(count))


class Views:
    """The most recently used views, bounded."""

    def __init__(self, most: int = MAX_VIEWS) -> None:
        self._most = most
        self._views: OrderedDict[str, View] = OrderedDict()

    def get(self, tenant: str, now_us: int) -> View | None:
        view = self._views.get(tenant)
        return view if view is not None and now_us < view.valid_until_us else None

    def put(self, view: View) -> None:
        self._views[view.tenant] = view
        self._views.move_to_end(view.tenant)
        if len(self._views) > self._most:
            self._views.popitem(last=False)

    def forget(self) -> None:
        """Each is made anew when it is asked for."""
        self._views.clear()
