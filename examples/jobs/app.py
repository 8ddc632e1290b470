"""A request orders a report, a job renders it.

What is known before is taken in the request: the report, so that who has none left is refused at once and nothing is
enqueued. What is known afterwards is recorded in the job: the pages, under the job's own id, so that a second run of it
changes nothing. Of a job that never works the report is given back, once, also by id.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.jobs.queue import Job, Queue
from mm_metering import Metering, UsageEvent, current, from_header, metered

PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "team",
    "meters": {
        "api_calls": {"event": "api_call"},
        "reports": {"event": "export", "resource": "report_*"},
        "pages": {"event": "page"},
    },
    "plans": {
        "team": {
            "price": "20.00",
            "quotas": {
                "reports": {"limit": 6, "per": "month"},
                "pages": {"limit": 10, "per": "month", "then": "charge", "unit_price": "0.05"},
            },
        }
    },
}


class Reports:
    """The app, and the worker beside it. ``broken`` is for the story: it is called after a job has done its work."""

    def __init__(self, metering: Metering, broken: Callable[[Job], None]) -> None:
        self.metering = metering
        self.broken = broken
        self.queue = Queue(self.run, self.give_up)
        self.app = Starlette(routes=[Route("/v1/reports/{pages:int}", self.order, methods=["POST"])])
        metering.install(self.app, tenant=from_header("x-org-id"))

    @metered("export", resource="report_pdf")
    async def order(self, request: Request) -> Response:
        job = Job(uuid.uuid4().hex, current().tenant, request.path_params["pages"])
        await self.queue.put(job)
        return JSONResponse({"job": job.id}, 202)

    async def run(self, job: Job) -> None:
        with self.metering.bind(job.tenant):
            await self.render(job)
        self.broken(job)

    async def render(self, job: Job) -> None:
        """Anything in here knows whose work it is; AI calls too would be the tenant's."""
        tenant = current().tenant
        pages = UsageEvent(tenant=tenant, event_type="page", resource="report_pdf", quantity=job.pages, id=job.id)
        await self.metering.record(pages)

    async def give_up(self, job: Job) -> None:
        reason = f"no report came of it in {job.tries} tries"
        await self.metering.adjust_usage(job.tenant, "reports", -1, reason=reason, id=f"{job.id}:report")
        await self.metering.adjust_usage(job.tenant, "pages", -job.pages, reason=reason, id=f"{job.id}:pages")


@asynccontextmanager
async def working(queue: Queue) -> AsyncIterator[None]:
    """A worker beside the block. Leaving it waits for what is enqueued."""
    worker = asyncio.create_task(queue.work())
    try:
        yield
        await queue.finished()
    finally:
        worker.cancel()
