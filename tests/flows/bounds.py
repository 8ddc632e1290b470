"""What a process remembers, and what bounds each of it. Found by reading the sources: a new one is in here or fails."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

import mm_metering
from mm_metering.ai.defects import MAX_KEPT
from mm_metering.backends.endpoint_limits import MAX_ADDRESSES
from mm_metering.gate import first_refusals, keyring
from mm_metering.gate.gate import MAX_WINDOWS
from mm_metering.gate.tenants import MAX_VIEWS
from mm_metering.gate.windows import MAX_GAUGES, MAX_PREPARED
from mm_metering.middleware.doctor import NOTES_AT_MOST
from mm_metering.telemetry import tenants
from mm_metering.telemetry.instruments import MOST_SERIES
from mm_metering.usage import backfill, plain
from mm_metering.worker import shadow, touched

ROOT: Final = Path(mm_metering.__file__).parent
IN_FLIGHT: Final = "of what runs now"
BY_CODE: Final = "of the app's routes, the catalogue, the release or the shards"
BY_HOST: Final = "of what the host itself made: plans, apps, hooks, event loops"
A_STEP: Final = "of one batch or call, then it is gone"
JOURNAL: Final = "of what the ledger has not confirmed, which goes into files"
STORE: Final = "is a store in memory, which holds all it is given"

BOUNDS: Final[Mapping[str, int | str]] = {
    "ai/defects.Defects._said": MAX_KEPT + len("five kinds"),
    "ai/estimate._Parts._kinds": A_STEP,
    "ai/holding.Holding.*": IN_FLIGHT,
    "ai/price_list.ListedModel._kept": BY_CODE,
    "ai/streams.StreamUsage._reply": A_STEP,
    "backends/endpoint_limits.Kept._windows": MAX_ADDRESSES,
    "backends/memory._Step.*": A_STEP,
    "backends/memory_accounts.MemoryAccounts.*": STORE,
    "backends/memory_audit.MemoryAudit.*": STORE,
    "backends/memory_collecting.MemoryCollecting.*": STORE,
    "backends/memory_ledger.MemoryLedger.*": STORE,
    "backends/memory_looks.MemoryLooks.*": STORE,
    "backends/memory_privacy.MemoryPrivacy.*": STORE,
    "backends/memory_reports.MemoryReports.*": STORE,
    "backends/memory_webhooks.MemoryWebhooks.*": STORE,
    "backends/memory_work.MemoryWork.*": STORE,
    "backends/per_loop.PerLoop._values": BY_HOST,
    "backends/redis._Servers._inspected": BY_CODE,
    "backends/redis_nodes.Cluster._owners": BY_CODE,
    "backends/redis_nodes.Lines._idle": BY_CODE,
    "backends/redis_wire._Encoder.*": A_STEP,
    "backends/sql/batch.Batch.*": A_STEP,
    "backends/sql/engine.Store.*": BY_HOST,
    "backends/sql/engine.Transaction.noted": A_STEP,
    "backends/sql/ledger.SqlLedger._audit_keys": BY_HOST,
    "billing/mock.MockBillingAdapter.*": STORE,
    "billing/mock_meters.MockMeters.*": STORE,
    "core/audit_chain.Walk.*": A_STEP,
    "core/catalogue_file._Scanner._last_items": A_STEP,
    "core/plan_changes.Census.*": A_STEP,
    "core/shadow.Counts.*": A_STEP,
    "gate/coalesce.Lane.loads": IN_FLIGHT,
    "gate/coalesce.Lane._queue": IN_FLIGHT,
    "gate/context.Bound.*": A_STEP,
    "gate/first_refusals.FirstRefusals._said": first_refusals.MOST,
    "gate/gate.Gate._windows": MAX_WINDOWS,
    "gate/gate.Gate.chores": BY_CODE,
    "gate/journal.Journal.*": JOURNAL,
    "gate/journal_file.Directory._told": BY_CODE,
    "gate/keyring.Keyring._keys": keyring.MAX_KEYS,
    "gate/plans.PlanBook._plans": BY_HOST,
    "gate/reports.Reports._digests": BY_CODE,
    "gate/reports.Reports._changed": BY_CODE,
    "gate/reports.Reports._lines": 512,
    "gate/reports.Reports._refusals": 512,
    "gate/reports.Reports._refused": "of a second's refusals: tenants x meters, then they are in the ledger",
    "gate/snapshots.Snapshots._waiting": IN_FLIGHT,
    "gate/tenants.Views._views": MAX_VIEWS,
    "gate/windows.PlanWindows._gauges": MAX_GAUGES + len("one more for each meter, of which a catalogue has few"),
    "gate/windows.PlanWindows._prepared": MAX_PREPARED,
    "gate/windows.PlanWindows._by_identity": MAX_PREPARED,
    "metering/building.Metering._versions": BY_CODE,
    "metering/building.Metering._apps": BY_HOST,
    "metering/building.Metering._hosts": BY_HOST,
    "metering/building.Metering._soon": IN_FLIGHT,
    "middleware/aftermath.Aftermath._uncounted": "of the statuses that an app answers with",
    "middleware/aftermath.Aftermath._running": IN_FLIGHT,
    "middleware/callers.Callers.*": BY_HOST,
    "middleware/doctor.Notes._texts": NOTES_AT_MOST,
    "middleware/entries.Leaf.matches": BY_CODE,
    "middleware/entries.Opaque._found": BY_CODE,
    "middleware/owners._InLoop._kept": 10_000,
    "middleware/owners._InLoop._flights": IN_FLIGHT,
    "middleware/reading.Reader.*": BY_CODE,
    "middleware/routes.Table.*": BY_CODE,
    "telemetry/measures.Measures.*": BY_CODE,
    "telemetry/tallies.Tally._cells": MOST_SERIES + len("a few more, whose open attributes are all (other)"),
    "telemetry/tenants.TenantNames._seen": tenants.MOST_SEEN,
    "usage/backfill.Backfill._waiting": backfill.MOST_WAITING + backfill.MAX_BATCH,
    "usage/plain.Plain._kinds": plain.MOST_KNOWN,
    "usage/plain.Plain._tenants": plain.MOST_KNOWN,
    "vault.Vault._ciphers": BY_HOST,
    "webhooks/dispatcher.Shift.*": IN_FLIGHT,
    "worker/alerts.Alerts._since": BY_CODE,
    "worker/drain.Drain.*": BY_CODE,
    "worker/leases.Leases._known": BY_CODE,
    "worker/runner.Worker.*": BY_CODE,
    "worker/shadow.ShadowWatch.blocks": BY_CODE,
    "worker/shadow.ShadowWatch._marks": shadow.MOST_MARKS,
    "worker/status.Watch._seen": BY_HOST,
    "worker/still.Still._since": BY_CODE,
    "worker/touched.Touched._tenants": touched.MOST,
}
FOR_EVER: Final = frozenset(
    {"billing/documents/page._template", "billing/documents/paper._template", "backends/sql/cells._upsert"}
    | {
        "backends/redis.library",
        "webhooks/sender._system_tls",
        "dashboard/render.assets",
        "dashboard/render.environment",
    }
)
"""Functions of which each answer is kept: they take nothing, or a dialect of SQL."""
EMPTY: Final = frozenset({"dict", "OrderedDict", "deque", "set", "Counter", "defaultdict", "WeakKeyDictionary", "list"})


def containers() -> Iterator[str]:
    """Each attribute that begins as an empty container, as "folder/file.Class.attribute"."""
    for place, tree in _trees():
        for found in (each for each in ast.walk(tree) if isinstance(each, ast.ClassDef)):
            starts = (each for each in found.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
            for node in (node for start in starts for node in ast.walk(start)):
                match node:
                    case ast.AnnAssign(target=ast.Attribute(attr=name), value=value) if _is_empty(value):
                        yield f"{place}.{found.name}.{name}"
                    case ast.Assign(targets=[ast.Attribute(attr=name)], value=value) if _is_empty(value):
                        yield f"{place}.{found.name}.{name}"


def kept_for_ever() -> Iterator[str]:
    """Each function of which answers are kept without a bound."""
    for place, tree in _trees():
        for found in (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)):
            for mark in map(ast.unparse, found.decorator_list):
                if mark.endswith("cache") or "maxsize=None" in mark:
                    yield f"{place}.{found.name}"


def bound_of(name: str) -> int | str | None:
    return BOUNDS.get(name, BOUNDS.get(f"{name.rpartition('.')[0]}.*"))


def beyond() -> list[str]:
    """What has grown past its number, of all objects there are now."""
    limited: dict[str, list[tuple[str, int]]] = {}
    for name, bound in BOUNDS.items():
        if isinstance(bound, int):
            owner, _, attribute = name.rpartition(".")
            limited.setdefault(f"mm_metering.{owner.replace('/', '.')}", []).append((attribute, bound))
    found = []
    for each in gc.get_objects():
        kind = type(each)
        for attribute, bound in limited.get(f"{kind.__module__}.{kind.__qualname__}", ()):
            if len(getattr(each, attribute)) > bound:
                found.append(f"{kind.__qualname__}.{attribute}: {len(getattr(each, attribute)):,} of {bound:,}")
    return found


@lru_cache(maxsize=1)
def _trees() -> list[tuple[str, ast.Module]]:
    places = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
    return [(place, ast.parse(path.read_text())) for place, path in places.items() if not place.startswith("testing/")]


def _is_empty(value: ast.expr | None) -> bool:
    match value:
        case ast.Dict(keys=[]) | ast.List(elts=[]):
            return True
        case ast.Call(func=ast.Subscript(value=called), args=[]) | ast.Call(func=called, args=[]):
            return isinstance(called, ast.Attribute | ast.Name) and ast.unparse(called).rpartition(".")[2] in EMPTY
    return False
