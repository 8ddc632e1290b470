"""Processes that are forked from one which has imported what takes long: each is ready at once."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext
from typing import Final

PRELOADED: Final = [
    "tests.chaos.app",
    "tests.e2e.streamers",
    "tests.e2e.ai_app",
    "openai.resources.chat",
    "openai.resources.responses",
    "mm_metering.cli",
    "mm_metering.backends.redis",
    "mm_metering.backends.sql.ledger",
    "alembic.command",
    "aiosqlite",
    "asyncpg",
    "redis.asyncio",
]
"""These took most of a second of a process's CPU, and some of them more."""


def context() -> ForkServerContext:
    """Of all of this process: they share one server."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found
