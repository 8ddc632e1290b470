"""Fixtures of all tests: real servers, started when a test first asks for one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.redis_server", "tests.redis_cluster", "tests.postgres_server", "tests.sqlite_file"]

MEMORY = Path("/dev/shm")
ROOM_BYTES = 2**30


def _is_roomy() -> bool:
    """Whether all files of the tests may lie in memory, where an fsync costs no time. In a container it may be small,
    or run no programs; TMPDIR chooses another place."""
    try:
        about = os.statvfs(MEMORY)
    except OSError:
        return False
    runs_programs = not about.f_flag & os.ST_NOEXEC
    return runs_programs and about.f_bavail * about.f_frsize >= ROOM_BYTES


if "TMPDIR" not in os.environ and _is_roomy():
    os.environ["TMPDIR"] = str(MEMORY)
    tempfile.tempdir = None  # chosen anew


@pytest.fixture(scope="session", autouse=True)
def _own_state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a Metering writes outside of its stores stays out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
