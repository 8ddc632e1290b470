"""One clock for several processes: the machine's, moved by what a small file says."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path


class SimulatedClock:
    """The machine's time plus the microseconds in a file. Whoever moves the file's time moves it in every process.

    It keeps the ``Clock`` protocol of mm_metering. ``frozen`` tells that the stores' own time is another.
    """

    frozen = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._seen = (0, 0)
        self._offset = timedelta()

    def now(self) -> datetime:
        status = self._path.stat()
        seen = (status.st_mtime_ns, status.st_ino)
        if seen != self._seen:
            self._offset, self._seen = timedelta(microseconds=int(self._path.read_text())), seen
        return datetime.now(UTC) + self._offset

    def set(self, moment: datetime) -> None:
        """Makes it ``moment`` now, for all processes at once: the file is replaced, never half written."""
        offset = moment - datetime.now(UTC)
        draft = self._path.with_suffix(".new")
        draft.write_text(str(offset // timedelta(microseconds=1)))
        draft.replace(self._path)
