"""``python -m examples.starlette_dashboard``: four people, two tenants, and a proxy that cuts ``/tools`` off."""

from __future__ import annotations

import asyncio
import html
import re
import sys
from typing import Final

import httpx2

from examples.starlette_dashboard.app import USERS, create_app
from examples.starlette_dashboard.proxy import Stripping
from examples.story import Story, serving, told
from mm_metering import Metering

PREFIX: Final = "/tools"
MOST_PAGES: Final = 200
LINKS: Final = re.compile(r'(?:href|src)="(?!data:)([^"#]+)"')
PASSWORDS: Final = {"vera": "looks", "olaf": "acts", "ann": "acme", "bob": "globex"}


class Browser(httpx2.AsyncClient):
    """Of one person."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=f"{url}{PREFIX}", follow_redirects=True, trust_env=False, timeout=30)

    async def log_in(self, name: str) -> httpx2.Response:
        return await self.post("login", data={"name": name, "password": PASSWORDS[name]})

    async def walk(self, start: str) -> dict[str, int]:
        """Follows every link from a page on; the status of each page, by its path."""
        found: dict[str, int] = {}
        waiting = [start]
        while waiting and len(found) < MOST_PAGES:
            if (path := waiting.pop()) in found:
                continue
            page = await self.get(path)
            found[path] = page.status_code
            if page.headers["content-type"].startswith("text/html"):
                waiting += [str(page.url.join(html.unescape(link))) for link in LINKS.findall(page.text)]
        return found


async def who_may(story: Story, url: str) -> None:
    story.chapter("Who may do what")
    change = {"tenant": "acme", "plan": "enterprise"}
    async with Browser(url) as stranger:
        story.tell("a stranger who opens the dashboard lands at", (await stranger.get("metering/")).url.path)
        wrong = await stranger.post("login", data={"name": "olaf", "password": "guess"})
        story.tell("a wrong password", wrong.status_code)
    for name, role in (("vera", "viewer"), ("olaf", "operator"), ("ann", "acme's customer")):
        async with Browser(url) as person:
            await person.log_in(name)
            seen = (await person.get("metering/")).status_code
            done = (await person.post("metering/change-plan", data=change)).status_code
            story.tell(f"{name}, {role}: opens the dashboard {seen}, changes acme's plan", done)


async def audited(story: Story, metering: Metering) -> None:
    [changed] = [each for each in await metering.list_audit(tenant="acme") if each.actor.startswith("dashboard:")]
    tenant = await metering.get_tenant("acme")
    assert tenant is not None
    story.tell(f"the audit log has one line of it: {changed.actor}, {changed.action}")
    holds = (tenant.plan, changed.actor) == ("enterprise", f"dashboard:{USERS['olaf'].id}")
    story.check("acme is on enterprise, and it was olaf", holds=holds)


async def tenants(story: Story, url: str, metering: Metering) -> None:
    story.chapter("Each tenant sees itself")
    seen = {}
    for name, calls in (("ann", 7), ("bob", 3)):
        async with Browser(url) as person:
            await person.log_in(name)
            for _ in range(calls):
                (await person.get("v1/scenarios")).raise_for_status()
            await metering.flush()  # pages read the ledger; a worker has that there within a second or two
            usage = (await person.get("usage/usage.json")).json()
            [limit] = [each for each in usage["limits"] if each["meter"] == "api_calls"]
            seen[usage["tenant"]] = limit["used"]
            story.tell(f"{name} has called {calls} times; its page says {usage['tenant']}, api_calls", limit["used"])
    story.check("7 and 3", holds=[int(each) for each in seen.values()] == [7, 3])


async def links(story: Story, url: str) -> None:
    story.chapter("Every link from there on, behind a proxy that the app knows nothing of")
    for name, start in (("olaf", "metering/"), ("ann", "usage/")):
        async with Browser(url) as person:
            await person.log_in(name)
            found = await person.walk(start)
            wrong = {path: status for path, status in found.items() if status != 200}
            story.check(f"{start:10} {len(found)} pages, files and scripts, all 200 {wrong or ''}", holds=not wrong)


async def main(*, serve: bool) -> int:
    story = Story(f"Starlette, a login, a dashboard and a portal, all of it below {PREFIX}")
    metering = Metering(journal="off")
    async with serving(Stripping(create_app(metering), PREFIX), port=8000) as url:
        for tenant in ("acme", "globex"):
            await metering.put_tenant(tenant, plan="pro")
        await who_may(story, url)
        await audited(story, metering)
        await tenants(story, url, metering)
        await links(story, url)
        if serve:
            story.chapter(f"Still serving at {url}{PREFIX}/ (olaf, acts; ann, acme); Ctrl-C ends it.")
            await asyncio.Event().wait()
    return story.exit_code


if __name__ == "__main__":
    sys.exit(told(main(serve="--serve" in sys.argv)))
