"""What the script library takes and gives, as values: batches to arguments, replies to answers. No I/O.

What the takes of a batch ask for travels once, as text that the library parses once and then remembers: a take costs
its key and its payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice, repeat
from typing import Any, Final, TypeAlias, assert_never

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

TWIN: Final = "~"
"""What the name of a counter's held part ends in."""

BETWEEN: Final = b"\f"
"""Stands between the payloads of a batch, in whose lines it is never; "\n" stands between one payload's lines."""

FIXED_WORDS: Final = 12
"""Of a command: its name, the function, the number of keys, the shard's two, and seven arguments."""

OTHER: Final = 0
"""In the order of the ops: not a usual take, but the next of the others."""


def shard_keys(shard: int) -> list[str]:
    """The shard's own two keys: its state and its stream."""
    return [f"{{mm:{shard}}}:m", f"{{mm:{shard}}}:ev"]


def tenant_key(shard: int, tenant: str) -> str:
    """The hash of a tenant's counters. The hash tag is the shard's, whatever braces the tenant's id has."""
    return f"{{mm:{shard}}}:c:{tenant}"


def holds_key(shard: int, tenant: str) -> str:
    """The hash of what is reserved for it."""
    return f"{{mm:{shard}}}:h:{tenant}"


# -- batches ---------------------------------------------------------------------------------------------------------


def encode(function: str, shard: int, batch: Batch, *, keep_ms: int) -> bytes:
    """The command that carries the batch out, as it goes to the server; ``keep_ms`` 0 gives the keys no TTL."""
    call = _Encoder(shard)
    for op in batch.ops:
        if type(op) is Take and len(op.payloads) == 1 and not op.hold and op.stamp is None:
            call.take_usual(op)
        else:
            call.other(op)
    return call.command(function, batch, keep_ms)


def _bulk(value: Argument) -> bytes:
    data = value if type(value) is bytes else b"%d" % value if type(value) is int else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


@lru_cache(maxsize=16_384)
def _bulks(*values: Argument) -> bytes:
    """What is the same in many calls."""
    return b"".join(map(_bulk, values))


@lru_cache(maxsize=16_384)
def _tenant_bulk(shard: int, tenant: str) -> bytes:
    return _bulk(tenant_key(shard, tenant))


@lru_cache(maxsize=1024)
def _shard_bulks(shard: int) -> bytes:
    return _bulks(*shard_keys(shard))


class _Encoder:
    """One command in the making: the keys in the order in which the ops take them, and what the ops say.

    Most ops are takes that differ in tenant and payload alone. What they ask for is sent once, and each is a byte.
    """

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._keys: list[bytes] = []
        self._order = bytearray(1)
        self._usual: list[bytes] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._payloads: list[bytes] = []
        self._others: list[bytes] = []

    def command(self, function: str, batch: Batch, keep_ms: int) -> bytes:
        self._order[0] = len(self._numbers)
        words = (
            _bulks("FCALL", function),
            _bulk(2 + len(self._keys)),
            _shard_bulks(self._shard),
            *self._keys,
            _bulks(f"p:{batch.process}", batch.generation, keep_ms),
            _bulk(batch.seq),
            _bulk(batch.now_us),
            _bulk(bytes(self._order)),
            _bulk(BETWEEN.join(self._payloads)),
            *self._usual,
            *self._others,
        )
        count = FIXED_WORDS + len(self._keys) + 2 * len(self._numbers) + len(self._others)
        return b"*%d\r\n%b" % (count, b"".join(words))

    def take_usual(self, op: Take) -> None:
        asked = (op.tag, id(op.alternatives))
        number = self._numbers.get(asked)
        if number is None:
            number = self._numbers[asked] = len(self._numbers) + 1
            self._usual += (_bulks(op.tag), _wish(op))
        self._order.append(number)
        self._keys.append(_tenant_bulk(self._shard, op.tenant))
        self._payloads.append(op.payloads[0])

    def other(self, op: Op) -> None:
        self._order.append(OTHER)
        match op:
            case Take():
                self._take(op)
            case Post():
                slots, amounts = _deltas(op.deltas)
                self._say(op.tenant, "P", op.tag, slots, amounts, op.close, op.payload)
                if op.close:
                    self._name_holds(op.tenant)
            case Level():
                self._say(op.tenant, "V", op.tag, op.total_field, op.field)
                self._add(op.stamp.field, op.stamp.at_us, op.value, int(op.absolute), op.payload)
            case Append():
                self._add("A", len(op.payloads), *(payload for _, payload in op.payloads))
                self._keys += (_tenant_bulk(self._shard, tenant) for tenant, _ in op.payloads)
            case Load():
                self._load(op)
            case Retag():
                self._say(op.tenant, "R", op.tag, int(op.keep))
            case _:
                assert_never(op)

    def _say(self, tenant: str, *arguments: Argument) -> None:
        self._keys.append(_tenant_bulk(self._shard, tenant))
        self._add(*arguments)

    def _add(self, *arguments: Argument) -> None:
        self._others += map(_bulk, arguments)

    def _name_holds(self, tenant: str) -> None:
        self._keys.append(_bulk(holds_key(self._shard, tenant)))

    def _take(self, op: Take) -> None:
        field, at_us = op.stamp or ("", "")
        options = f"{op.hold}\t{op.expires_us}\t{field}\t{at_us}" if op.hold or op.stamp else ""
        self._say(op.tenant, "T", op.tag)
        self._others.append(_wish(op))
        self._add(options, len(op.payloads), *op.payloads)
        if op.hold:
            self._name_holds(op.tenant)

    def _load(self, op: Load) -> None:
        values = _counters(op.values)
        self._say(op.tenant, "L", op.tag, op.barrier, len(values))
        self._name_holds(op.tenant)
        for field, value in values.items():
            self._add(field, value)
        self._add(len(op.holds))
        for name, hold in op.holds.items():
            self._add(name, _hold(hold))


@lru_cache(maxsize=4096)
def _slot(slot: Slot) -> str:
    texts = [str(value) for value in slot]
    if any(character in text for text in texts for character in "\t\n\f\v"):
        raise InvalidInput("field", f"{slot.field!r} holds a control character")
    return "\t".join(texts)


_wishes: Final[dict[int, tuple[Alternatives, bytes]]] = {}
"""By identity: a plan's lines are the same object from one request to the next, and hashing them costs more than all
else. The entry keeps the object, so that its identity is not given to another."""
WISHES_AT_MOST: Final = 4096


def _wish(op: Take) -> bytes:
    """What a take asks for: the slots of its alternatives, and need and want of each."""
    if op.payloads and len(op.payloads) != len(op.alternatives):
        raise ValueError(f"{len(op.payloads)} payloads for {len(op.alternatives)} alternatives")
    known = _wishes.get(id(op.alternatives))
    if known is None:
        if len(_wishes) >= WISHES_AT_MOST:
            _wishes.clear()
        slots = "\f".join("\n".join(_slot(line.slot) for line in lines) for lines in op.alternatives)
        amounts = " ".join(f"{line.need} {line.want}" for lines in op.alternatives for line in lines)
        known = _wishes[id(op.alternatives)] = (op.alternatives, _bulk(f"{slots}\v{amounts}"))
    return known[1]


def _deltas(deltas: Sequence[Delta]) -> tuple[str, str]:
    slots = "\n".join(_slot(delta.slot) for delta in deltas)
    return slots, " ".join(f"{delta.used} {delta.held} {int(delta.opens)}" for delta in deltas)


def _counters(values: Mapping[str, int]) -> dict[str, str]:
    """A counter and its twin are one field there: "used", or "used,held"."""
    result = {field: str(value) for field, value in values.items() if field[-1:] != TWIN}
    for twin, held in values.items():
        if twin[-1:] == TWIN:
            result[twin[:-1]] = f"{values.get(twin[:-1], 0)},{held}"
    return result


def _hold(hold: OpenHold) -> str:
    return "\t".join((str(hold.expires_us), *(f"{field}\t{amount}" for field, amount in hold.amounts)))


# -- answers ---------------------------------------------------------------------------------------------------------


def decode(reply: bytes) -> Answer:
    """The answer in a reply of ``apply``: a head, a word per op, and the numbers of all slots that these speak of."""
    head, _, rest = reply.decode().partition("\n")
    kind, *about = head.split(" ")
    match kind:
        case "R":
            drained, entry = about
            words, _, numbers = rest.partition("\n")
            states = iter(_states(numbers))
            return Reply(entry, drained, tuple([_RESULTS[word[0]](word, entry, states) for word in words.split()]))
        case "F":
            return Fenced(int(about[0]))
        case "G":
            return OtherGeneration(int(about[0]))
        case "S":
            return Stale()
    raise StoreUnavailable(f"counters: a reply of an unknown kind {kind[:20]!r}; is another program using these keys?")


_new_state: Final = partial(tuple.__new__, State)
_new_taken: Final = partial(tuple.__new__, Taken)
"""Their own constructors are Python functions, and these are made for each request."""


def _states(numbers: str) -> Iterable[State]:
    """Each "5", or "5,2,7" where something is held or counted in a cap."""
    texts = numbers.split()
    if "," in numbers:
        return [State(*map(int, text.split(","))) if "," in text else State(int(text), 0, 0) for text in texts]
    return map(_new_state, zip(map(int, texts), repeat(0), repeat(0)))


def _taken(word: str, _: str, states: Iterator[State]) -> Result:
    chosen, grants, slots = _granted(word)
    return _new_taken((chosen, grants, tuple(islice(states, slots))))


@lru_cache(maxsize=1024)
def _granted(word: str) -> tuple[int, tuple[int, ...], int]:
    chosen, grants, slots = word[1:].split(":")
    return int(chosen), tuple(int(grant) for grant in grants.split(",") if grant), int(slots)


def _denied(word: str, _: str, states: Iterator[State]) -> Result:
    return Denied(tuple(islice(states, int(word[1:]))))


def _miss(word: str, entry: str, _: Iterator[State]) -> Result:
    return Miss(entry if word == "M=" else word[1:])


def _not_loaded(word: str, entry: str, _: Iterator[State]) -> Result:
    why, barrier = word[1:].split(":")
    return NotLoaded(why, entry if barrier == "=" else barrier)


_RESULTS: Final[dict[str, Callable[[str, str, Iterator[State]], Result]]] = {
    "T": _taken,
    "D": _denied,
    "M": _miss,
    "N": _not_loaded,
    "C": lambda *_: Done(counted=True),
    "U": lambda *_: Done(counted=False),
}


def decode_backlog(reply: Any) -> Backlog:
    """The answer in a reply of ``read``: generation, tail, what was drained, and the stream's entries."""
    generation, tail, drained, entries = reply
    return Backlog(int(generation), tuple(_entry(*entry) for entry in entries), tail.decode(), drained.decode())


def _entry(position: bytes, fields: list[bytes]) -> Entry:
    version, payload = fields
    if version != b"%d" % WIRE:
        found = version.decode(errors="replace")
        raise StoreUnavailable(f"counters: facts of format {found[:20]}, not {WIRE}; upgrade the workers first")
    return Entry(position.decode(), tuple(payload.replace(BETWEEN, b"\n").split(b"\n")))


def decode_counters(reply: list[bytes]) -> dict[str, int]:
    """The answer in a reply of ``counters``: field, value, field, value; empty without a tag."""
    found = dict(zip(reply[::2], reply[1::2], strict=True))
    if OWN + b"tag" not in found:
        return {}
    counters: dict[str, int] = {}
    for field, value in found.items():
        if not field.startswith(OWN):
            used, _, held = value.decode().partition(",")
            counters[field.decode()] = int(used)
            if held:
                counters[field.decode() + TWIN] = int(held)
    return counters
