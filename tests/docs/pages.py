"""The pages of the documentation as data: their order, blocks, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
SITE_FILE: Final = ROOT / "mkdocs.yml"
AT_THE_ROOT: Final = {"architecture.md": "ARCHITECTURE.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site that stand at the repository's root, by their name on the site."""
HIDDEN: Final = "<!-- run"
"""Begins a comment that is run as Python after the blocks before it: it checks what the page says."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>[\w+-]*) *$")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]*(?:\n[^\]\n]+)?)\]\((?P<target>[^)\s]+)\)")
_NAV = re.compile(r"^(?P<indent> +)- (?P<title>[^:]+):(?: (?P<page>\S+))?$", re.MULTILINE)
_CODE_SPAN = re.compile(r"(`+)(?:(?!\1).)+?\1")


class Block(NamedTuple):
    """A fenced block: its language, the line of its first line, and its text, which ends in a line feed."""

    kind: str
    line: int
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, if its first line is a comment that says one."""
        named = re.match(r"# ([\w./-]+\.(?:py|toml|txt|html))$", self.text.partition("\n")[0])
        return named[1] if named else None


class Entry(NamedTuple):
    """A line of the navigation; a heading has no page."""

    depth: int
    title: str
    page: str | None


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        """Relative to the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(_blocks(self.text))

    @cached_property
    def prose(self) -> str:
        """The text without its blocks; lines stay where they are."""
        lines = self.text.split("\n")
        for block in self.blocks:
            first, count = block.line - 1, block.text.count("\n")
            lines[first : first + count] = [""] * count
        return "\n".join(lines)

    @cached_property
    def anchors(self) -> frozenset[str]:
        found: set[str] = set()
        for title in re.findall(r"^#{1,6} (.+)$", self.prose, re.MULTILINE):
            slug = _slug(title)
            found.add(next(each for each in _numbered(slug) if each not in found))
        return frozenset(found)

    @cached_property
    def links(self) -> tuple[tuple[str, int], ...]:
        """Targets outside of code, with their lines."""
        bare = _CODE_SPAN.sub(lambda span: "`" + "x" * (len(span[0]) - 2) + "`", self.prose)
        return tuple((found["target"], bare.count("\n", 0, found.start()) + 1) for found in _LINK.finditer(bare))

    @cached_property
    def summary(self) -> str:
        """Its first sentence of prose."""
        after_title = self.prose.split("\n# ", 1)[-1].partition("\n")[2]
        paragraph = next(
            (each for each in re.split(r"\n\s*\n", after_title) if re.match(r"\s*[A-Z0-9`\[*“]", each)), ""
        )
        plain = _LINK.sub(lambda link: link["text"], " ".join(paragraph.split()))
        sentence = re.match(r".+?[.:](?= |$)", plain.replace("**", ""))
        return sentence[0].replace(":", ".") if sentence else plain


def pages() -> list[Page]:
    """All of docs/."""
    return [Page(each) for each in sorted(DOCS.rglob("*.md"))]


def navigation() -> list[Entry]:
    _, _, nav = SITE_FILE.read_text("utf-8").partition("\nnav:\n")
    return [Entry(len(each["indent"]) // 4, each["title"].strip(), each["page"]) for each in _NAV.finditer(nav)]


def without_links_out(page: Page) -> str:
    """The page's text for the site, where what lies outside of docs/ is not: such a link becomes the file's name."""

    def local(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        if "://" in target or not target:
            return link[0]
        lies_at = (page.path.parent / target).resolve()
        if lies_at.is_relative_to(DOCS) and lies_at.suffix == ".md" and lies_at.exists():
            inside = lies_at.relative_to(DOCS).as_posix() if page.path.parent == ROOT else target
            return f"[{link['text']}]({inside}{'#' + anchor if anchor else ''})"
        name = lies_at.relative_to(ROOT).as_posix()
        return f"`{name}`" if link["text"].strip("`") in {name, lies_at.name} else f"{link['text']} (`{name}`)"

    return _LINK.sub(local, page.text)


def _blocks(text: str) -> Iterator[Block]:
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opened, hidden = _FENCE.match(lines[at]), lines[at] == HIDDEN
        at += 1
        if not opened and not hidden:
            continue
        first, indent = at, opened["indent"] if opened else ""
        while lines[at] != ("-->" if hidden else f"{indent}```"):
            at += 1
        body = (line.removeprefix(indent) for line in lines[first:at])
        yield Block(opened["kind"] if opened else "python", first + 1, "".join(f"{line}\n" for line in body))
        at += 1


def _slug(title: str) -> str:
    plain = re.sub(r"[`*]", "", _LINK.sub(lambda link: link["text"], title))
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain.strip().lower(), flags=re.ASCII))


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    for number in range(1, 100):
        yield f"{slug}_{number}"
