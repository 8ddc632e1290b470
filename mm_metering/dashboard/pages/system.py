"""How the house itself stands: workers, shards, jobs, what waits, versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from mm_metering.dashboard.page import Link, Page, Rows, Visit

PARTS: Final = ("mm-metering", "starlette", "fastapi", "redis", "sqlalchemy", "asyncpg", "stripe", "genai-prices")


async def system(visit: Visit) -> Page:
    status = await visit.house.status()
    jobs = [(each.job, each.state, each.period_start, each.finished_at, each.tries, each.error) for each in status.jobs]
    waits = {
        "webhooks to be sent": status.deliveries,
        "hooks to be called": status.notices,
        "what the payment provider said": status.provider_webhooks,
        "held by AI calls": status.holds,
    }
    data = {"status": status, "waits": waits, "versions": versions()}
    files = {"jobs": Rows(("job", "state", "period_start", "finished_at", "tries", "error"), jobs)}
    return Page("system.html", "System", data, files=files, value=status.model_dump(mode="json"))


def versions() -> Sequence[tuple[str, str]]:
    """Of what is installed of the parts that matter."""
    found = [("Python", platform.python_version())]
    for name in PARTS:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


LINK = Link("system", "System", system)
