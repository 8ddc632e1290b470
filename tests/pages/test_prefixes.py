"""Pages work wherever a host puts them, and no link of theirs leads to nothing."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import httpx2
import pytest

from mm_metering.dashboard.app import MENU, OWN_MENU
from mm_metering.testing.lodgers import HOSTILE
from tests.pages.conftest import NO_PAGES, OWN_HEADERS, paths
from tests.pages.house import CUTS, PREFIXES, TENANT, House
from tests.pages.links import crawl

ACTIONS = {path for each in (*MENU, *OWN_MENU) for path in each.actions}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_link_leads_somewhere_behind_a_prefix(house: House, prefix: str) -> None:
    base = f"{house.url}{prefix}/"
    found = crawl(base, of_a_kind=3 if prefix == PREFIXES[0] else 2)
    assert found.broken == []
    seen = {urlsplit(each).path.removeprefix(f"{prefix}/") for each in found.texts}
    assert {path for _, path in paths("", MENU)} <= seen
    assert set(NO_PAGES) <= seen
    assert {"static/app.css", "static/app.js", "static/htmx.js", "static/mark.svg", "static/uplot.js"} <= seen
    assert {each.removeprefix(base) for each in found.posts} <= ACTIONS


def test_every_link_of_the_portal_leads_somewhere_of_its_tenants(house: House) -> None:
    found = crawl(f"{house.url}/usage/", OWN_HEADERS)
    assert found.broken == []
    assert {path for _, path in paths("", OWN_MENU)} <= {urlsplit(each).path[7:] for each in found.texts}
    others = [each for each in ("brightwater", "dune-logistics", "fable-games", *HOSTILE[:3]) if each != TENANT]
    assert [(url, each) for url, text in found.texts.items() for each in others if each in text] == []


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_post_leads_back_to_a_page_behind_the_prefix(house: House, prefix: str) -> None:
    form = {"rule": "spike", "tenant": "granary", "hours": "1", "reason": "they know"}
    answer = httpx2.post(f"{house.url}{prefix}/mute", data=form)
    assert answer.status_code == 303
    assert urljoin(f"{prefix}/mute", answer.headers["location"]).startswith(f"{prefix}/alerts")


@pytest.mark.parametrize("prefix", [each for each in PREFIXES if each != CUTS])
@pytest.mark.parametrize(("asked", "is_at"), [("", "/"), ("/tenants/?q=a%2Fb", "/tenants?q=a%2Fb"), ("?", "/")])
def test_a_slash_too_few_or_too_many_is_mended(house: House, prefix: str, asked: str, is_at: str) -> None:
    """But for a proxy that says nothing of the prefix that it cuts off: it has to send people to the slash itself."""
    answer = httpx2.get(f"{house.url}{prefix}{asked}", follow_redirects=True)
    assert answer.status_code == 200
    assert str(answer.url) == f"{house.url}{prefix}{is_at}"
