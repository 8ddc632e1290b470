"""What every call of the load was told, in files that outlive the process that wrote them.

A line is appended before a call and after it: ``MARK CALL TENANT SECONDS``. A call's fact carries the call's name in
its id, so that the ledger and the truth are compared one by one, and no cell is made for the sake of it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SENT, YES, DEGRADED, NO, UNAVAILABLE, REVERSED = "s", "a", "d", "r", "u", "v"
"""Before the call; then: acknowledged by the counters, acknowledged without them, refused, not decided, taken back."""
TAKE, WEB, RECORD = "t", "w", "r"
"""A call's first letter: through the gate, through the middleware, or recorded under the caller's own id."""
CALL_LENGTH: Final = 16


def call_name(kind: str, process: int, caller: int, number: int) -> str:
    return f"{kind}{process:05x}{caller:02x}{number:08x}"


def call_of(fact_id: str) -> str:
    """The call that a fact belongs to: its id begins with the call's name."""
    return fact_id[:CALL_LENGTH]


def recorded_id(call: str) -> str:
    """The fact's id of an event whose caller gave it the call's name."""
    return "x" + hashlib.blake2b(call.encode(), digest_size=16).hexdigest()


class TruthFile:
    """One per place of an app process; each line is one write, so that a kill cuts none."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, mark: str, call: str, tenant: str) -> None:
        os.write(self._descriptor, f"{mark} {call} {tenant} {time.monotonic():.4f}\n".encode())


@dataclass(slots=True)
class Truth:
    """All files of a folder, read as far as they are written."""

    folder: Path
    sent: dict[str, str] = field(default_factory=dict)
    """Each call's tenant."""
    told: dict[str, str] = field(default_factory=dict)
    admitted_at: list[tuple[float, str]] = field(default_factory=list)
    """When the counters said yes to a take, and in which file that stands."""
    last_admitted: dict[str, float] = field(default_factory=dict)
    """By file: when its processes asked for the last take to which the counters said yes."""
    _asked_at: dict[str, float] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)

    def update(self) -> None:
        for path in sorted(self.folder.iterdir()):
            self.read(path)

    def read(self, path: Path) -> None:
        for line in self._new_lines(path):
            mark, call, tenant, seconds = line.split(" ")
            if mark == SENT:
                self.sent[call], self._asked_at[call] = tenant, float(seconds)
                continue
            self.told[call], asked_at = mark, self._asked_at.pop(call, 0.0)
            if mark == YES and call[0] == TAKE:
                self.admitted_at.append((float(seconds), path.name))
                self.last_admitted[path.name] = max(self.last_admitted.get(path.name, 0.0), asked_at)

    def _new_lines(self, path: Path) -> Iterator[str]:
        with path.open("rb") as stream:
            stream.seek(self._read.get(path, 0))
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        yield from whole.decode().splitlines()

    def unfinished(self, kind: str) -> list[str]:
        """Calls that nobody knows the outcome of."""
        return [call for call in self.sent if call[0] == kind and call not in self.told]
