"""What the script library takes and gives, as values: batches to arguments, replies to answers. No I/O.

A call names each key once and refers to it by number. Slots travel as text that the library parses once and then
remembers, so that the plan's part of a call costs the server a table look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

from mm_metering.backends.counters import (
    Answer,
    Append,
    Backlog,
    Batch,
    Denied,
    Done,
    Entry,
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
    Take,
    Taken,
)
from mm_metering.backends.redis_line import Argument
from mm_metering.core.facts import WIRE
from mm_metering.core.limits import Delta, Line, Slot, State
from mm_metering.errors import InvalidInput, StoreUnavailable

KEEP_MS: Final = 40 * 86_400_000
"""How long an idle tenant's hash stays; a load brings it back."""

Alternatives: TypeAlias = tuple[tuple[Line, ...], ...]

OWN: Final = b"!"
"""What the library's own fields in a tenant's hash begin with; no meter's name does."""


class Call(NamedTuple):
    """The keys and the arguments of one function call."""

    keys: list[str]
    arguments: list[Argument]


def shard_keys(shard: int) -> list[str]:
    """The shard's own two keys: its state and its stream."""
    return [f"{{mm:{shard}}}:m", f"{{mm:{shard}}}:ev"]


def tenant_key(shard: int, tenant: str) -> str:
    """The hash of a tenant's counters. The hash tag is the shard's, whatever braces the tenant's id has."""
    return f"{{mm:{shard}}}:c:{tenant}"


# -- batches ---------------------------------------------------------------------------------------------------------


def encode(shard: int, batch: Batch, *, keep_ms: int) -> Call:
    """The call that carries the batch out; ``keep_ms`` 0 gives the keys no TTL."""
    call = _Encoder(shard)
    call.arguments += (batch.process, batch.generation, batch.seq, batch.now_us, keep_ms)
    for op in batch.ops:
        call.add(op)
    return Call(call.keys, call.arguments)


class _Encoder:
    """One call in the making: its arguments, and the number of each key that was named."""

    def __init__(self, shard: int) -> None:
        self.keys = shard_keys(shard)
        self.arguments: list[Argument] = []
        self._shard = shard
        self._numbers: dict[str, int] = {}

    def _number(self, key: str) -> int:
        number = self._numbers.get(key)
        if number is None:
            self.keys.append(key)
            number = self._numbers[key] = len(self.keys)
        return number

    def _tenant(self, tenant: str) -> int:
        return self._number(tenant_key(self._shard, tenant))

    def _holds(self, tenant: str) -> int:
        return self._number(f"{{mm:{self._shard}}}:h:{tenant}")

    def add(self, op: Op) -> None:
        match op:
            case Take():  # the most common by far
                self._take(op)
            case Post():
                self._post(op)
            case Level():
                self._level(op)
            case Append():
                self.arguments += ("A", len(op.payloads))
                for tenant, payload in op.payloads:
                    self.arguments += (self._tenant(tenant), payload)
            case Load():
                self._load(op)
            case Retag():
                self.arguments += ("R", self._tenant(op.tenant), op.tag, int(op.keep))
            case _:
                assert_never(op)

    def _take(self, op: Take) -> None:
        if op.payloads and len(op.payloads) != len(op.alternatives):
            raise ValueError(f"{len(op.payloads)} payloads for {len(op.alternatives)} alternatives")
        slots, amounts = _alternatives(op.alternatives)
        options = self._options(op) if op.hold or op.stamp else ""
        kind = "T" if op.payloads else "K"
        self.arguments += (kind, self._tenant(op.tenant), op.tag, slots, amounts, options, *op.payloads)

    def _options(self, op: Take) -> str:
        holds = self._holds(op.tenant) if op.hold else ""
        field, at_us = op.stamp if op.stamp else ("", "")
        return f"{holds}\t{op.hold}\t{op.expires_us}\t{field}\t{at_us}"

    def _post(self, op: Post) -> None:
        slots, amounts = _deltas(op.deltas)
        holds = self._holds(op.tenant) if op.close else ""
        self.arguments += ("P", self._tenant(op.tenant), op.tag, slots, amounts, holds, op.close, op.payload)

    def _level(self, op: Level) -> None:
        self.arguments += ("V", self._tenant(op.tenant), op.tag, op.total_field, op.field)
        self.arguments += (op.stamp.field, op.stamp.at_us, op.value, int(op.absolute), op.payload)

    def _load(self, op: Load) -> None:
        self.arguments += ("L", self._tenant(op.tenant), op.tag, op.barrier, len(op.values))
        for field, value in op.values.items():
            self.arguments += (field, value)
        self.arguments += (self._holds(op.tenant), len(op.holds))
        for name, hold in op.holds.items():
            self.arguments += (name, _hold(hold))


@lru_cache(maxsize=4096)
def _slot(slot: Slot) -> str:
    texts = [str(value) for value in slot]
    if any(character in text for text in texts for character in "\t\n\f"):
        raise InvalidInput("field", f"{slot.field!r} holds a control character")
    return "\t".join(texts)


_encoded: Final[dict[int, tuple[Alternatives, str, str]]] = {}
"""By identity: a plan's lines are the same object from one request to the next, and hashing them costs more than all
else. The entry keeps the object, so that its identity is not given to another."""
ENCODED_AT_MOST: Final = 4096


def _alternatives(alternatives: Alternatives) -> tuple[str, str]:
    known = _encoded.get(id(alternatives))
    if known is None:
        if len(_encoded) >= ENCODED_AT_MOST:
            _encoded.clear()
        known = _encoded[id(alternatives)] = (alternatives, *_encode(alternatives))
    return known[1], known[2]


def _encode(alternatives: Alternatives) -> tuple[str, str]:
    slots = "\f".join("\n".join(_slot(line.slot) for line in lines) for lines in alternatives)
    return slots, " ".join(f"{line.need} {line.want}" for lines in alternatives for line in lines)


def _deltas(deltas: Sequence[Delta]) -> tuple[str, str]:
    slots = "\n".join(_slot(delta.slot) for delta in deltas)
    return slots, " ".join(f"{delta.used} {delta.held} {int(delta.opens)}" for delta in deltas)


def _hold(hold: OpenHold) -> str:
    return "\t".join((str(hold.expires_us), *(f"{field}\t{amount}" for field, amount in hold.amounts)))


# -- answers ---------------------------------------------------------------------------------------------------------


def decode(reply: bytes) -> Answer:
    """The answer in a reply of ``apply``."""
    head, *lines = reply.decode().split("\n")
    kind, _, rest = head.partition(" ")
    match kind:
        case "R":
            drained, _, entry = rest.partition(" ")
            return Reply(entry, drained, tuple([_RESULTS[line[0]](line[1:], entry) for line in lines if line]))
        case "F":
            return Fenced(int(rest))
        case "G":
            return OtherGeneration(int(rest))
        case "S":
            return Stale()
    raise StoreUnavailable(f"counters: a reply of an unknown kind {kind[:20]!r}; is another program using these keys?")


def _taken(text: str, _: str) -> Result:
    chosen, grants, *states = text.split(" ")
    granted = tuple([int(grant) for grant in grants.split(",")]) if grants else ()
    return Taken(int(chosen), granted, _states(states))


def _denied(text: str, _: str) -> Result:
    return Denied(_states(text.split(" ")[1:]))


def _miss(text: str, entry: str) -> Result:
    return Miss(entry if text == "=" else text)


def _not_loaded(text: str, entry: str) -> Result:
    why, _, barrier = text.partition(" ")
    return NotLoaded(why, entry if barrier == "=" else barrier)


_RESULTS: Final[dict[str, Callable[[str, str], Result]]] = {
    "T": _taken,
    "D": _denied,
    "M": _miss,
    "N": _not_loaded,
    "1": lambda _, __: Done(counted=True),
    "0": lambda _, __: Done(counted=False),
}


def _states(texts: list[str]) -> tuple[State, ...]:
    """ "5", or "5,2,7" where something is held or counted in a cap."""
    return tuple([State(*map(int, text.split(","))) if "," in text else State(int(text), 0, 0) for text in texts])


def decode_backlog(reply: Any) -> Backlog:
    """The answer in a reply of ``read``: generation, tail and the stream's entries."""
    generation, tail, entries = reply
    return Backlog(int(generation), tuple(_entry(*entry) for entry in entries), tail.decode())


def _entry(position: bytes, fields: list[bytes]) -> Entry:
    version, payload = fields
    if version != b"%d" % WIRE:
        found = version.decode(errors="replace")
        raise StoreUnavailable(f"counters: facts of format {found[:20]}, not {WIRE}; upgrade the workers first")
    return Entry(position.decode(), tuple(payload.split(b"\n")))


def decode_counters(reply: list[bytes]) -> dict[str, int]:
    """The answer in a reply of ``counters``: field, value, field, value; empty without a tag."""
    found = dict(zip(reply[::2], reply[1::2], strict=True))
    if OWN + b"tag" not in found:
        return {}
    return {field.decode(): int(value) for field, value in found.items() if not field.startswith(OWN)}
