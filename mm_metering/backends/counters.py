"""The counters: a loss-tolerant cache of the ledger that decides in one round trip, and the stream of new facts.

One shard is one unit of atomicity: a generation, the processes' sessions, the tenants' hashes, their holds and one
stream. The rules G1 to G9 below are the protocol; docs/decisions/0001-counters-protocol.md tells why each is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeAlias
from zlib import crc32

from mm_metering.core.limits import Delta, Line, State

START = "0-0"
"""The position before every stream entry. Positions are "milliseconds-sequence", compared by ``position_key``."""

MAX_BATCH = 64
"""Most ops in one batch."""

LAST_SEQ = 2**52
"""Past every number that a session comes to: a batch of it ends the session."""


ANY_REVISION = 2**40
"""Above every tenant's revision: a ``Retag`` of it that keeps nothing has the tenant loaded anew, whatever it is at."""


def shard_of(tenant: str, shards: int) -> int:
    """The tenant's shard: crc32 of its id, so that every process agrees."""
    return crc32(tenant.encode()) % shards if shards > 1 else 0


def position_key(position: str) -> tuple[int, int]:
    """Sorts positions: text order is not stream order."""
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence)


# -- ops -------------------------------------------------------------------------------------------------------------


class Take(NamedTuple):
    """All lines of the first alternative that fits, or nothing.

    ``payloads`` has one entry per alternative, the fact lines it appends ("\\n" between several); without payloads
    the take only looks. ``hold`` names a reservation (the grants are held, and written in front of the payload),
    ``expires_us`` is when it is overdue. ``stamp`` is the level field whose last change this take must not precede.
    """

    tenant: str
    tag: str
    alternatives: tuple[tuple[Line, ...], ...]
    payloads: tuple[bytes, ...] = ()
    hold: str = ""
    expires_us: int = 0
    stamp: Stamp | None = None


class Post(NamedTuple):
    """Unconditional changes and their facts. With ``close``, the hold of that name is given back first; if it is
    not there the facts are appended uncounted and the tenant is loaded anew."""

    tenant: str
    tag: str
    deltas: tuple[Delta, ...]
    payload: bytes
    close: str = ""


class Stamp(NamedTuple):
    """When a level was changed last: the field that remembers it, and the instant of this change."""

    field: str
    at_us: int


class Level(NamedTuple):
    """Sets (``absolute``) or changes one resource's level and the meter's total with it; never below 0.

    A change older than the last one is appended uncounted and the tenant is loaded anew: the ledger orders them.
    """

    tenant: str
    tag: str
    total_field: str
    field: str
    stamp: Stamp
    value: int
    absolute: bool
    payload: bytes


class Append(NamedTuple):
    """Facts for the stream that move no counter here: replays, voids, outage usage. Each tenant is loaded anew."""

    payloads: tuple[tuple[str, bytes], ...]


class Load(NamedTuple):
    """A tenant's counters from the ledger, folded up to ``barrier`` or later. Replaces what is there."""

    tenant: str
    tag: str
    barrier: str
    values: Mapping[str, int]
    holds: Mapping[str, OpenHold]


class OpenHold(NamedTuple):
    """A reservation that was not closed yet: when it is overdue, and what each slot's field holds for it."""

    expires_us: int
    amounts: tuple[tuple[str, int], ...]


class Retag(NamedTuple):
    """The tenant's plan, zone or status changed: ``tag`` is in force from here. ``keep`` says that its counters are
    still right (same zone, same windows); otherwise they are loaded anew."""

    tenant: str
    tag: str
    keep: bool


Op: TypeAlias = Take | Post | Level | Append | Load | Retag


# -- answers ---------------------------------------------------------------------------------------------------------


class Taken(NamedTuple):
    """The take fits. ``states`` are the chosen alternative's lines after it (before it, for one that only looks)."""

    chosen: int
    grants: tuple[int, ...]
    states: tuple[State, ...]


class Denied(NamedTuple):
    """Nothing fits and nothing changed. ``states`` are the first alternative's lines."""

    states: tuple[State, ...]


class Miss(NamedTuple):
    """The tenant's counters are not loaded under this tag. Load them from a ledger that folded ``barrier``."""

    barrier: str


class Done(NamedTuple):
    """The op was carried out; ``counted`` is False where the counters must be loaded anew to show it."""

    counted: bool


class NotLoaded(NamedTuple):
    """A load was refused: "early" (before open_at), "behind" (``barrier`` moved on), "warm" (it is loaded already) or
    "old" (a newer tag is in force)."""

    why: str
    barrier: str


Result: TypeAlias = Taken | Denied | Miss | Done | NotLoaded


class Batch(NamedTuple):
    """What one process sends in one round trip. ``seq`` rises by one with each batch of a session."""

    process: str
    generation: int
    seq: int
    now_us: int
    ops: tuple[Op, ...]


class Reply(NamedTuple):
    """``entry`` is where the batch's facts stand in the stream ("" if it appended none); ``drained`` is the position
    up to which the ledger has confirmed this generation."""

    entry: str
    drained: str
    results: tuple[Result, ...]


class Fenced(NamedTuple):
    """The data is not certified for this server process (G2). ``generation`` is the one found, 0 for none."""

    generation: int


class OtherGeneration(NamedTuple):
    """The batch belongs to another generation than the shard's (G3)."""

    generation: int


class Stale(NamedTuple):
    """The sequence number was passed already; nothing ran (G4)."""


Answer: TypeAlias = Reply | Fenced | OtherGeneration | Stale


class Entry(NamedTuple):
    """One stream entry: the facts' lines of one batch."""

    position: str
    lines: tuple[bytes, ...]


class Backlog(NamedTuple):
    """What the ledger has not folded yet. ``generation`` is 0 where the shard is empty; ``drained`` is how far the
    stream was trimmed in this generation, since the ledger had it."""

    generation: int
    entries: tuple[Entry, ...]
    tail: str
    drained: str = START


class Counters(Protocol):
    """The law that every implementation keeps; ``mm_metering.testing.CountersContract`` checks it.

    Every method may raise StoreUnavailable; the outcome of the call is then unknown.
    """

    @property
    def shards(self) -> int:
        """How many shards there are; a tenant's is ``shard_of(tenant, shards)``."""
        ...

    async def apply(self, shard: int, batch: Batch) -> Answer:
        """Carries a batch out in one atomic step, in order, in one round trip.

        G2 Fenced, if the shard has no generation or was certified for another server process.
        G3 OtherGeneration, if the batch's is not the shard's.
        G4 The same seq again gives the stored reply and runs nothing; a lower one is Stale.
        G5 Take, Post and Level need the op's tag, "generation.revision", to be the tenant's and of this generation;
           else a Take is a Miss, and the others append uncounted. Load is refused before open_at, if the barrier is
           behind, if it is loaded already, or if old.
        G6 What is appended uncounted clears the tag and sets the tenant's barrier to its entry.
        A refused take changes nothing and appends nothing. All facts of a batch stand in one stream entry.
        """
        ...

    async def open(self, shard: int, *, seen: int, generation: int, grace_ms: int) -> bool:
        """Certifies the shard's data for the server process it is in now: compare-and-set from generation ``seen``.

        Sets the generation, its birth (the last stream position), open_at (the server's time + grace_ms), drained =
        START, and forgets the sessions. False if another generation than ``seen`` is there.
        """
        ...

    async def read(self, shard: int, *, after: str, limit: int) -> Backlog:
        """The generation and up to ``limit`` entries past ``after``, in one atomic step. Changes nothing."""
        ...

    async def trim(self, shard: int, *, generation: int, position: str) -> None:
        """Drops what the ledger confirmed, up to and with ``position``, if the generation is still the shard's."""
        ...

    async def counters(self, shard: int, tenant: str) -> Mapping[str, int]:
        """The tenant's fields as they stand, empty if not loaded: for reconciling, never for deciding."""
        ...

    async def forget(self, shard: int, tenant: str) -> None:
        """Deletes the tenant's counters and holds: it is not loaded any more. What it has in the stream stays until it
        is folded. For a tenant that is not coming back: what bars an early load goes too."""
        ...

    async def aclose(self) -> None:
        """Gives every connection back."""
        ...
