"""A browser's contexts, and what is wrong with a page that was opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request, Response

WIDE, NARROW = 1280, 390
HEIGHT: Final = 900
SCRIPT: Final = Path(__file__).with_suffix(".js")


class Eyes:
    """Contexts are kept by their options: a new one takes longer than most pages."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: dict[str, BrowserContext] = {}

    @asynccontextmanager
    async def see(self, url: str, *, fresh: bool = False, **options: Any) -> AsyncIterator[tuple[Page, list[str]]]:
        """An open page, and what is wrong with it, which grows as it is used. ``fresh``: with nothing in its cache."""
        context = await self._new(options) if fresh else await self._context(options)
        page, wrong = await context.new_page(), list[str]()
        _watch(page, wrong, urlsplit(url).netloc)
        await page.add_init_script(path=SCRIPT)
        try:
            await page.goto(url)
            if options.get("java_script_enabled", True):
                await page.evaluate("looks.settled()")
            yield page, wrong
        finally:
            await (context.close() if fresh else page.close())

    async def _context(self, options: dict[str, Any]) -> BrowserContext:
        key = repr(sorted(options.items()))
        if key not in self._contexts:
            self._contexts[key] = await self._new(options)
        return self._contexts[key]

    async def _new(self, options: dict[str, Any]) -> BrowserContext:
        usual: dict[str, Any] = {
            "viewport": {"width": WIDE, "height": HEIGHT},
            "timezone_id": "UTC",
            "reduced_motion": "reduce",  # a colour on its way to another has no contrast to speak of
        }
        return await self._browser.new_context(**usual | options)


def _watch(page: Page, wrong: list[str], origin: str) -> None:
    def said(message: ConsoleMessage) -> None:
        if message.type in ("warning", "error"):
            wrong.append(f"console {message.type}: {message.text}")

    def asked(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != origin:
            wrong.append(f"asked elsewhere: {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            wrong.append(f"{response.status} {response.url}")

    async def spoke(dialog: Dialog) -> None:
        wrong.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    page.on("console", said)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", asked)
    page.on("response", answered)
    page.on("dialog", spoke)


async def violations(page: Page) -> list[str]:
    """Of the content security policy."""
    found: list[str] = await page.evaluate("looks.violations")
    return found
