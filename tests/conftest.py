"""Fixtures of all tests: real servers, started when a test first asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.redis_server", "tests.redis_cluster", "tests.postgres_server"]


@pytest.fixture(scope="session", autouse=True)
def _own_state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a Metering writes outside of its stores stays out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
