"""One furnished house and one browser of each process that runs tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from mm_metering.dashboard.app import MENU, OWN_MENU
from mm_metering.dashboard.page import Link
from tests.browser import FLAGS, browser_path
from tests.pages.eyes import Eyes
from tests.pages.house import TENANT, House
from tests.pages.links import crawl

SCREENSHOTS = "MM_SCREENSHOTS"
WAIT_S = 240
OWN_HEADERS = {"x-tenant": TENANT}


NO_PAGES = ("document",)
"""Files to be kept; tests/unit/test_documents.py looks at what they show."""


def paths(base: str, menu: Iterable[Link]) -> list[tuple[str, str]]:
    return [(base, path) for each in menu for path in (each.path, *each.also) if path not in NO_PAGES]


PAGES = paths("/metering/", MENU) + paths("/usage/", OWN_MENU)
"""Each page of the dashboard, and of the portal."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a process waits for the house."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(WAIT_S))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        ids = [f"{base.strip('/')}:{path or 'home'}" for base, path in PAGES]
        metafunc.parametrize("place", PAGES, ids=ids, indirect=True)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Without hostile names where screenshots are made for people."""
    made = House(tmp_path_factory.mktemp("house") / "ledger.db", hostile=SCREENSHOTS not in os.environ)
    yield made
    made.close()


@pytest.fixture(scope="session")
def urls(house: House) -> dict[tuple[str, str], str]:
    """Where each page is, with the ids that the house's own links give it: one tenant's, where there is a choice."""
    found: dict[tuple[str, str], str] = {}
    for base, headers in (("/metering/", {}), ("/usage/", OWN_HEADERS)):
        whole = f"{house.url}{base}"
        texts = {url: text for url, text in crawl(whole, headers, of_a_kind=2).texts.items() if text}
        for url in (whole, *sorted(texts, key=lambda each: (f"={TENANT}" not in each, len(each)))):
            found.setdefault((base, urlsplit(url).path.removeprefix(base)), url)
    return found


@pytest.fixture
def place(request: pytest.FixtureRequest, urls: dict[tuple[str, str], str]) -> tuple[str, str]:
    """A page's URL, and its site's base."""
    base, path = request.param
    assert (base, path) in urls, f"no page leads to {path!r}: link to it, or furnish the house so that there is one"
    return urls[base, path], base


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def eyes() -> AsyncIterator[Eyes]:
    path = browser_path()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        yield Eyes(browser)
        await browser.close()
