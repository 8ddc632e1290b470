"""``python -m tests.bench.pages URL``: how long each page of the dashboard takes over a ledger that
``tests.bench.house`` has filled, one page of a kind, by its own ``server-timing``."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Iterator
from statistics import median
from typing import Any, Final
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx2
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.routing import Mount

from mm_metering import Metering
from tests.pages.links import Refers, kind_of

ROUNDS: Final = 3
SHOWN: Final = 12
BASE: Final = "http://127.0.0.1/metering/"
FILES: Final = re.compile(r"/static/|\.(json|csv|pdf)")


async def times_of(url: str) -> dict[str, float]:
    """Milliseconds, warm, by page."""
    async with Metering(ledger=url, worker="off", journal="off", apply="never") as metering:
        app = Starlette(routes=[Mount("/metering", metering.dashboard(auth=lambda _: "viewer"))])
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), timeout=60) as client:
            return await _walk(client)


async def _walk(client: httpx2.AsyncClient) -> dict[str, float]:
    todo, kinds, found = [BASE], set[Any](), dict[str, float]()
    while todo:
        page = todo.pop(0)
        answer = await client.get(page)
        assert answer.status_code == 200, (page, answer.status_code)
        if not answer.headers["content-type"].startswith("text/html") or "content-disposition" in answer.headers:
            continue
        found[page.removeprefix(BASE)] = median([_took_ms(await client.get(page)) for _ in range(ROUNDS)])
        for link in _pages_of(page, answer.text):
            if (kind := kind_of(link)) not in kinds:
                kinds.add(kind)
                todo.append(link)
    return found


def _pages_of(page: str, text: str) -> Iterator[str]:
    links = (urldefrag(urljoin(page, each)).url for each in Refers(text).found)
    return (each for each in links if each.startswith(BASE) and not FILES.search(urlsplit(each).path))


def _took_ms(answer: httpx2.Response) -> float:
    took = re.search(r"dur=([0-9.]+)", answer.headers["server-timing"])
    assert took is not None
    return float(took[1])


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.pages", description="how long the dashboard's pages take")
    parser.add_argument("url")
    found = asyncio.run(times_of(parser.parse_args().url))
    table = Table("page", "ms")
    for page, took in sorted(found.items(), key=lambda each: -each[1])[:SHOWN]:
        table.add_row(page or "(home)", f"{took:.1f}")
    console = Console()
    console.print(table)
    console.print(f"{len(found)} pages; the median of them takes {median(found.values()):.1f} ms")


if __name__ == "__main__":
    main()
