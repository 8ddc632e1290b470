"""What the fake keeps: its scripts, the faults to come, what was asked, and what was truly produced."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from mm_metering.clock import Clock
from mm_metering.testing.fake_llm.made import Asked, Made, Script, made_of

Kind: TypeAlias = Literal["drop", "refused", "429", "500", "400", "timeout", "200-error", "no-usage"]
KINDS: Final = get_args(Kind)


class Fault(NamedTuple):
    """``after``: the chunks of text before it. ``wait_s``: how long nothing is answered, or the retry-after."""

    kind: Kind
    after: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Produced:
    """Tokens that a model read and wrote. ``cached`` is in ``input``, ``reasoning`` in ``output``."""

    calls: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class Desk:
    """Threads of all connections come here."""

    def __init__(self, clock: Clock, api_key: str) -> None:
        self.api_key = api_key
        self.asked: list[Asked] = []
        self.totals: dict[str, Produced] = {}
        self.closing: threading.Event = threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._script = Script()
        self._next: list[Script] = []
        self._faults: dict[str, tuple[Fault, int]] = {}

    def plan(self, script: Script, times: int | None) -> None:
        with self._lock:
            if times is None:
                self._script, self._next = script, []
            else:
                self._next += [script] * times

    def fail(self, pattern: str, fault: Fault, times: int) -> None:
        if fault.kind not in KINDS:
            raise ValueError(f"{fault.kind!r} is none of {', '.join(KINDS)}")
        with self._lock:
            if times:
                self._faults[pattern] = (fault, times)
            else:
                self._faults.pop(pattern, None)

    def fault(self, path: str) -> Fault | None:
        """The one that is due on that path, and one time less of it."""
        with self._lock:
            for pattern, (fault, times) in [*self._faults.items()]:
                if re.search(pattern, path):
                    if times > 1:
                        self._faults[pattern] = (fault, times - 1)
                    else:
                        del self._faults[pattern]
                    return fault
        return None

    def note(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def begin(self, asked: Asked, *, has_usage: bool) -> tuple[Script, Made]:
        """The model has read the request, and has thought."""
        with self._lock:
            script = self._next.pop(0) if self._next else self._script
            calls = sum(each.calls for each in self.totals.values())
            id_, created = f"{calls + 1:06}", int(self._clock.now().timestamp())
            made = made_of(asked, script, id_=id_, created=created, has_usage=has_usage)
            total = self.totals.get(made.model, Produced())
            self.totals[made.model] = replace(
                total,
                calls=total.calls + 1,
                input=total.input + made.input,
                cached=total.cached + made.cached,
                output=total.output + made.unseen,
                reasoning=total.reasoning + made.reasoning,
            )
        return script, made

    def wrote(self, model: str, tokens: int) -> None:
        with self._lock:
            self.totals[model] = replace(self.totals[model], output=self.totals[model].output + tokens)
