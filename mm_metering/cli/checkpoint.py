"""How far a backfill has come with a file: kept beside it, so that it goes on after whatever ended it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from mm_metering.errors import InvalidInput
from mm_metering.usage.backfill import BackfillTally, Rejection

SUFFIX: Final = ".backfill"
FORMAT: Final = 1
HEAD_BYTES: Final = 65_536
"""Of a file, by which it is known again; it may grow."""


class Place(NamedTuple):
    """``line`` lines of the file, ``offset`` bytes."""

    offset: int
    line: int


class Checkpoint(NamedTuple):
    """All up to ``settled`` need not be read again; what is read between it and ``tally.read`` is counted already."""

    head_bytes: int
    head: str
    settled: Place
    tally: BackfillTally

    @classmethod
    def of(cls, path: Path, settled: Place, tally: BackfillTally) -> Self:
        size = min(HEAD_BYTES, path.stat().st_size)
        return cls(size, _head(path, size), settled, tally)

    def write(self, to: Path) -> None:
        """Whole, or not at all, also in a power cut."""
        new = to.with_name(f"{to.name}.new")
        text = json.dumps({"format": FORMAT, **self._asdict(), "tally": self.tally._asdict()})
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(to)
        folder = os.open(to.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @classmethod
    def read(cls, at: Path, of: Path) -> Self:
        """InvalidInput for what is none, or of another file."""
        try:
            found: dict[str, Any] = json.loads(at.read_text())
            if found.pop("format") != FORMAT:
                raise ValueError("of another release")
            tally = found.pop("tally")
            reasons = tuple(Rejection(*each) for each in tally.pop("reasons"))
            settled = Place(*found.pop("settled"))
            read = cls(**found, settled=settled, tally=BackfillTally(**tally, reasons=reasons))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InvalidInput("checkpoint", f"{at} cannot be read ({error}); delete it to begin anew") from error
        if _head(of, read.head_bytes) != read.head:
            raise InvalidInput(
                "checkpoint", f"{at} is of another file than {of}; delete it to begin anew, which records nothing twice"
            )
        return read


def _head(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()
