"""Pages work wherever a host puts them, and no link of theirs leads to nothing."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import httpx2
import pytest

from mm_metering.dashboard.app import MENU, OWN_MENU
from mm_metering.testing.lodgers import HOSTILE
from tests.pages.conftest import NO_PAGES, OWN_HEADERS, paths
from tests.pages.house import CUTS, PREFIXES, TENANT, House
from tests.pages.links import Crawl, crawl

ACTIONS = {path for each in (*MENU, *OWN_MENU) for path in each.actions}


@pytest.fixture(scope="module")
def found(house: House) -> Crawl:
    return crawl(f"{house.url}{PREFIXES[0]}/", of_a_kind=3)


def test_every_link_leads_somewhere(house: House, found: Crawl) -> None:
    base = f"{house.url}{PREFIXES[0]}/"
    assert found.broken == []
    seen = {each.partition("?")[0].removeprefix(base) for each in found.texts}
    assert {path for _, path in paths("", MENU)} <= seen
    assert set(NO_PAGES) <= seen
    assert {"static/app.css", "static/app.js", "static/htmx.js", "static/mark.svg", "static/uplot.js"} <= seen
    assert {each.removeprefix(base) for each in found.posts} <= ACTIONS


@pytest.mark.parametrize("prefix", PREFIXES[1:])
def test_behind_another_prefix_a_page_is_the_same_to_the_letter(house: House, found: Crawl, prefix: str) -> None:
    """So its links, which name no prefix, lead to the same places there: one page of each path is looked at."""
    base, pages = f"{house.url}{PREFIXES[0]}/", dict[str, str]()
    for url, text in found.texts.items():
        if text:
            pages.setdefault(url.partition("?")[0], url)
    assert len(pages) > len(MENU)
    with httpx2.Client(timeout=30) as client:
        for url in pages.values():
            there = client.get(f"{house.url}{prefix}/{url.removeprefix(base)}")
            assert (there.status_code, there.text) == (200, client.get(url).text), url
    assert not any(prefix in text for text in found.texts.values())


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
