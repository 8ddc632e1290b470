"""What holds for each page of the menus and those below them. A new page is one of them by itself."""

from __future__ import annotations

import csv
import io
import os
import re
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from playwright.async_api import Page, Request

from tests.pages.conftest import OWN_HEADERS, SCREENSHOTS
from tests.pages.eyes import HEIGHT, NARROW, WIDE, Eyes, violations

pytestmark = pytest.mark.asyncio(loop_scope="session")

MOST_BYTES: Final = 100_000
"""Of a page and all that it loads, over the wire, at the first visit."""
MOST_S: Final = 2.0
"""Of a page on a machine that runs other tests too; the goal itself is looked at by ``./dev bench``."""
TABS_BEYOND: Final = 30
"""Of what a browser makes reachable by itself, such as what can be scrolled."""
AXE: Final = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
SCHEMES: Final = ("light", "dark")


def options(base: str, **more: Any) -> dict[str, Any]:
    """The portal is told who asks."""
    return more | ({"extra_http_headers": OWN_HEADERS} if base == "/usage/" else {})


async def test_it_is_quiet_fits_and_says_the_same_as_files_and_without_scripts(
    eyes: Eyes, place: tuple[str, str]
) -> None:
    """One visit of all that a visit does not change."""
    url, base = place
    async with eyes.see(url, **options(base)) as (page, wrong):
        figures = await page.evaluate("looks.figures()")
        plots, tables = await page.evaluate("looks.plots()"), await page.evaluate("looks.tables()")
        await is_whole(page)
        await fits_and_has_two_schemes(page)
        assert wrong + await violations(page) == []
    await are_of_their_tables_and_files(plots, tables, base)
    async with eyes.see(url, **options(base, java_script_enabled=False)) as (page, wrong):
        assert await page.evaluate("looks.figures()") == figures
        assert wrong == []
    assert any(re.search(r"\d", each) for each in figures)


async def is_whole(page: Page) -> None:
    assert await page.locator("h1").count() == 1
    assert await page.locator("h1").inner_text()
    assert await page.locator("main").count() == 1
    assert await page.locator("main .wrong").count() == 0


async def fits_and_has_two_schemes(page: Page) -> None:
    for width in (WIDE, 768, NARROW, 320):
        await page.set_viewport_size({"width": width, "height": HEIGHT})
        await page.evaluate("looks.settled()")
        assert await page.evaluate("looks.overflows()") == []
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(ground) != light


async def are_of_their_tables_and_files(plots: list[Any], tables: list[Any], base: str) -> None:
    """What charts draw stands in their tables, and that in their files."""
    assert all(each["drawn"] and each["inked"] for each in plots)
    kept = [await rows_of(each["file"], base) for each in tables]
    for table, rows in zip(tables, kept, strict=True):
        assert [[plain(cell) for cell in row] for row in table["rows"]] == [rows[0], *rows[:0:-1]]
    for each in (each["plot"] for each in plots):
        names = ["day", *(one["name"] for one in each["series"])]
        columns = zip(each["days"], *(one["values"] for one in each["series"]), strict=True)
        drawn = [[day, *("" if value is None else float(value) for value in rest)] for day, *rest in columns]
        assert drawn in [numbers(rows[1:]) for rows in kept if rows[0] == names]


async def rows_of(url: str, base: str) -> list[list[str]]:
    async with httpx2.AsyncClient(headers=OWN_HEADERS if base == "/usage/" else {}) as client:
        answer = await client.get(url)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return [*csv.reader(io.StringIO(answer.text))]


def plain(cell: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3})", "", cell).replace("−", "-")


def numbers(rows: list[list[str]]) -> list[list[object]]:
    return [[day, *("" if cell == "" else float(Decimal(cell)) for cell in rest)] for day, *rest in rows]


async def test_axe_finds_nothing_serious(eyes: Eyes, place: tuple[str, str]) -> None:
    url, base = place
    async with eyes.see(url, **options(base, bypass_csp=True)) as (page, _):
        await page.evaluate(AXE)
        assert await page.evaluate("looks.axe({})") == []
        await page.emulate_media(color_scheme="dark")
        assert await page.evaluate("looks.axe({runOnly: ['color-contrast']})") == []


async def test_everything_is_reached_with_the_keyboard_and_seen(eyes: Eyes, place: tuple[str, str]) -> None:
    url, base = place
    async with eyes.see(url, **options(base)) as (page, _):
        wanted = await page.evaluate("looks.focusable()")
        for _ in range(len(wanted) + TABS_BEYOND):
            await page.keyboard.press("Tab")
        reached = await page.evaluate("looks.reached")
        assert reached[0]["skips"], "the first is not the link that skips to the page"
        places = {each["at"] for each in reached}
        assert [html for at, html in wanted if at not in places] == []
        assert [each["html"] for each in reached if not each["seen"]] == []


async def test_its_first_visit_is_light_and_says_how_long_it_took(eyes: Eyes, place: tuple[str, str]) -> None:
    url, base = place
    finished: list[Request] = []
    async with eyes.see("about:blank", fresh=True, **options(base)) as (page, _):
        page.on("requestfinished", lambda request: finished.append(request))  # noqa: PLW0108 - it wants a def
        answer = await page.goto(url)
        assert answer is not None
        took = re.fullmatch(r"page;dur=([0-9.]+)", (await answer.all_headers())["server-timing"])
        assert took
        assert float(took[1]) / 1000 < MOST_S
        whole = [await each.sizes() for each in finished]
        assert sum(each["responseBodySize"] for each in whole) <= MOST_BYTES


@pytest.mark.skipif(SCREENSHOTS not in os.environ, reason=f"{SCREENSHOTS} names no folder for pictures of each page")
async def test_a_picture_is_taken(eyes: Eyes, place: tuple[str, str], request: pytest.FixtureRequest) -> None:
    url, base = place
    folder, name = Path(os.environ[SCREENSHOTS]), request.node.callspec.id.replace(":", "-")
    async with eyes.see(url, **options(base)) as (page, _):
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            for width in (WIDE, NARROW):
                await page.set_viewport_size({"width": width, "height": HEIGHT})
                await page.evaluate("() => new Promise((done) => setTimeout(done, 150))")
                await page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
