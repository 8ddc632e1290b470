"""``python -m examples.jobs``: eight orders, three of whose jobs go wrong."""

from __future__ import annotations

import sys
from collections import Counter

import httpx2

from examples.jobs.app import PLANS, Reports, working
from examples.jobs.queue import Job
from examples.story import Story, told
from mm_metering import FrozenClock, Metering

PAGES = (3, 5, 2, 8, 1, 4, 7, 7)
CRASHES = {5: 1, 2: 2, 8: 99}
"""How often a job of that many pages fails although its work is done."""


class Crashes:
    def __init__(self) -> None:
        self.left = dict(CRASHES)

    def __call__(self, job: Job) -> None:
        if self.left.get(job.pages, 0):
            self.left[job.pages] -= 1
            raise ConnectionError("the queue's broker was not told that the job is done")


async def orders(story: Story, http: httpx2.AsyncClient) -> None:
    story.chapter("acme orders 8 reports; its plan has 6 a month")
    answers: Counter[str] = Counter()
    for pages in PAGES:
        answer = await http.post(f"/v1/reports/{pages}", headers={"x-org-id": "acme"})
        answers[f"{answer.status_code}: {answer.json().get('detail', 'enqueued')}"] += 1
    for what, times in answers.items():
        story.tell(what, times)


async def jobs(story: Story, reports: Reports) -> None:
    story.chapter("the jobs: two succeed at the second and third try, one never does")
    async with working(reports.queue):
        pass
    story.tell("runs of 6 jobs", reports.queue.runs)
    usage = await reports.metering.get_usage("acme", "2024-01-15", "2024-01-15")
    story.tell("pages that were rendered, each job once, less the 8 of the one that failed", usage.meters["pages"])
    story.tell("reports used, the one that failed given back", usage.meters["reports"])
    counted = (usage.meters["pages"], usage.meters["reports"])
    story.check("3 + 5 + 2 + 1 + 4 = 15 pages in 5 reports", holds=counted == (15, 5))


async def bill(story: Story, reports: Reports, http: httpx2.AsyncClient) -> None:
    story.chapter("and so there is one report left, and a bill")
    async with working(reports.queue):
        answer = await http.post("/v1/reports/1", headers={"x-org-id": "acme"})
    story.check(f"the next order is {answer.status_code}", holds=answer.status_code == 202)
    invoice = await reports.metering.preview_invoice("acme")
    for line in invoice.lines:
        story.tell(line.description, line.amount)
    story.tell("total, USD", invoice.total)


async def main() -> int:
    story = Story("Jobs: a request orders, a worker renders, and everything counts once")
    reports = Reports(Metering(PLANS, clock=FrozenClock("2024-01-15T09:00:00Z"), journal="off"), Crashes())
    transport = httpx2.ASGITransport(app=reports.app)
    async with reports.metering, httpx2.AsyncClient(transport=transport, base_url="http://reports.example") as http:
        await reports.metering.put_tenant("acme", subscribed_at="2024-01-01T00:00:00Z")
        await orders(story, http)
        await jobs(story, reports)
        await bill(story, reports, http)
    return story.exit_code


if __name__ == "__main__":
    sys.exit(told(main()))
