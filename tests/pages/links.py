"""What a page refers to, as a browser would follow it; and every page that can be reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import parse_qs, urldefrag, urlencode, urljoin, urlsplit

import httpx2

OF_A_KIND: Final = 4
"""Pages of the same path and the same names in the query that are visited; the rest differ in values alone."""
MOST: Final = 600
FOLLOWED: Final = {"a": "href", "link": "href", "script": "src", "img": "src"}


class Refers(HTMLParser):
    """Links and what a page loads; pages that a form asks for, with what stands in its fields; where others post."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.posts: list[str] = []
        self._asks: tuple[str, dict[str, str]] | None = None
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if value := given.get(FOLLOWED.get(tag, "")):
            self.found.append(value)
        if tag == "form" and given.get("method") == "post":
            self.posts.append(given.get("action") or "")
        elif tag == "form":
            self._asks = given.get("action") or "", {}
        elif tag == "input" and self._asks and given.get("name"):
            self._asks = None if "required" in given and not given.get("value") else self._asks
            if self._asks and given.get("type") != "checkbox":
                self._asks[1][given["name"] or ""] = given.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form" and self._asks:
            self.found.append(f"{self._asks[0]}?{urlencode(self._asks[1])}")
            self._asks = None


@dataclass
class Crawl:
    """``texts``: what was answered, by URL; ``posts``: where forms lead, as whole URLs; ``broken``: what did not
    answer 200, and who refers to it."""

    texts: dict[str, str] = field(default_factory=dict)
    posts: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)


def crawl(base: str, headers: Mapping[str, str] | None = None, *, of_a_kind: int = OF_A_KIND) -> Crawl:
    """All that is below ``base``, which ends with a slash."""
    seen, kinds, todo, result = {base}, Counter[Any](), [(base, "")], Crawl()
    with httpx2.Client(headers=dict(headers or {}), timeout=30) as client:
        while todo and len(result.texts) < MOST:
            url, referrer = todo.pop(0)
            try:
                answer = client.get(url)
            except httpx2.TransportError as error:  # the page met a bug, and the server hung up
                result.broken.append(f"{error} {url} from {referrer}")
                continue
            if answer.status_code != 200:
                result.broken.append(f"{answer.status_code} {url} from {referrer}")
                continue
            kept = "content-disposition" in answer.headers
            is_page = answer.headers["content-type"].startswith("text/html") and not kept
            result.texts[url] = answer.text if is_page else ""
            for each in _below(base, url, answer.text) if is_page else ():
                if each not in seen and kinds[kind_of(each)] < of_a_kind:
                    seen.add(each)
                    kinds[kind_of(each)] += 1
                    todo.append((each, url))
            if is_page:
                result.posts |= {urljoin(url, each) for each in Refers(answer.text).posts}
    return result


def _below(base: str, url: str, source: str) -> Iterator[str]:
    for each in Refers(source).found:
        whole = urldefrag(urljoin(url, each)).url
        assert whole.startswith(base), f"{each!r} of {url} leads out of {base}"
        yield whole


def kind_of(url: str) -> object:
    parts = urlsplit(url)
    return parts.path, tuple(sorted(parse_qs(parts.query, keep_blank_values=True)))
